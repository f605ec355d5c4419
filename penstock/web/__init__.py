"""Faces over HTTP: they parse, call, and answer with JSON."""
