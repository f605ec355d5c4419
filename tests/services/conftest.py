"""Fixtures of real services, one file each."""

from __future__ import annotations

from tests.services.mlflow import mlflow
from tests.services.postgres import postgres

__all__ = ["mlflow", "postgres"]
