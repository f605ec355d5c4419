"""The queue suite over a real PostgreSQL."""

from __future__ import annotations

import pytest

from penstock.testing.suites.queue import *  # noqa: F403
from tests.services.postgres_state import new_state, place

__all__ = ["new_state", "place"]
pytestmark = pytest.mark.service
