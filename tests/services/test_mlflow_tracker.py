"""The tracker suite over a real MLflow server."""

from __future__ import annotations

import pytest

from penstock.testing.suites.tracker import *  # noqa: F403
from tests.services.mlflow import Mlflow, MlflowPlace

pytestmark = pytest.mark.service


@pytest.fixture
def place(mlflow: Mlflow, tmp_path_factory: pytest.TempPathFactory) -> MlflowPlace:
    return MlflowPlace(mlflow, tmp_path_factory.mktemp("place"))
