"""Which function works on which kind of asset."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.run.build import build
from penstock.run.derive import derive
from penstock.run.land import land
from penstock.run.learn import train
from penstock.run.runtime import Job, Outcome
from penstock.run.score import score

KINDS: Mapping[str, Callable[[Job], Outcome]] = {"source": land, "table": build, "features": derive, "model": train, "predictions": score}
