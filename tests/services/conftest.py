"""Fixtures of real services, one file each."""

from __future__ import annotations

from tests.services.airflow import airflow
from tests.services.mlflow import mlflow
from tests.services.postgres import postgres

__all__ = ["airflow", "mlflow", "postgres"]
