"""The step journal: what each step of a run gave, keyed by run, step and a digest of what it got. A finished step is not repeated.

Entries are records of the state (`journal`, key `RUN/STEP@DIGEST`), written under the claim of the run, so that none is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from penstock.ground.digest import digest
from penstock.ground.ids import base32
from penstock.plan.flows import Journal
from penstock.ports.state import State

KIND = "journal"
#: Stands in place of a digest in entries that count whatever the step gets.
ANY = "*"


@dataclass(frozen=True)
class Entry:
    """One finished step. `job` is the queued job that did it; of one taken over from another run, that run's."""

    run: str
    step: str
    digest: str
    output: Any
    job: str = ""

    def record(self) -> tuple[str, str, dict[str, Any]]:
        body = {"run": self.run, "step": self.step, "digest": self.digest, "output": self.output, "job": self.job}
        return KIND, f"{self.run}/{self.step}@{self.digest}", body


def entries(state: State, run: str) -> list[Entry]:
    """The finished steps of a run, by step. Cost: one indexed query."""
    return [Entry(**record.body) for record in state.heads(KIND, prefix=f"{run}/").values()]


def journal_of(found: Iterable[Entry]) -> Journal:
    """Entries as planning reads them."""
    known = list(found)
    return Journal({(e.step, e.digest): e.output for e in known if e.digest != ANY}, {e.step: e.output for e in known if e.digest == ANY})


def stable_id(*parts: Any) -> str:
    """20 characters that are the same for the same parts: the id of a job that is put in again after a crash. 100 bits."""
    return base32(int(digest(list(parts)), 16) >> 28, 20)


def idempotency_key(run: str, step: str, given: str) -> str:
    """What a step with effects outside sends along, so that the other side can tell a repeat.

    The same for every attempt at a step of a run with the same input (`given` is its digest), another one for every other.
    """
    return f"penstock-{digest(['step', run, step, given])}"
