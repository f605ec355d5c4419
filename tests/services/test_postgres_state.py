"""The state suite over a real PostgreSQL, and what only that can be asked."""

from __future__ import annotations

import pytest

from penstock.testing.suites.state import *  # noqa: F403
from tests.services.postgres_state import new_state, place

__all__ = ["new_state", "place"]
pytestmark = pytest.mark.service
