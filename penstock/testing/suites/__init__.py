"""Conformance suites, one per port: a test module imports all of a suite and gives its fixture."""
