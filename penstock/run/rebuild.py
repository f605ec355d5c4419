"""Rebuilding: a registered version trained once more from the recorded data, code, parameters, seed; compared score by score."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.ground.clock import iso
from penstock.ground.errors import DefinitionError
from penstock.run import environment
from penstock.run import sets as sets_of
from penstock.run.fit import fitted
from penstock.run.judge import loaded, registered
from penstock.run.learn import PARITY_ROWS, Prepared, held_back, looked_at, order_for
from penstock.run.matrices import exchange
from penstock.run.runtime import Job
from penstock.spec.models import Model


@dataclass(frozen=True)
class Rebuilt:
    """How a version made again compares with the registered one, on the same test rows.

    Attributes:
        rows: test rows that were compared. equal: how many have the very same score (all classes).
        difference: the greatest difference of two scores.
        same_bytes: whether the stored model is the same, byte by byte.
        changed: what is another one in the environment now.
    """

    model: str
    version: str
    rows: int
    equal: int
    difference: float
    same_bytes: bool
    changed: tuple[str, ...]
    seconds: float

    @property
    def same(self) -> bool:
        return self.equal == self.rows

    def record(self) -> dict[str, Any]:
        return {**vars(self), "changed": list(self.changed), "same": self.same}


def rebuild(job: Job, version: Mapping[str, Any], lay_out: Callable[[Mapping[str, str], Path], None]) -> Rebuilt:
    """Trains a registered version again and compares. Nothing is registered but a record that it was done.

    Args:    job: of the model as it was declared then (`learn.declared_as`), with the recorded versions of its inputs.
             lay_out: writes the kept source files into a folder.
    Raises:  VersionNotFound(E4009) if data or code of the version is gone; CodeChanged(E5007); what training raises.
    """
    import numpy as np

    from penstock.craft.learning import artefact

    model = job.node.asset
    assert isinstance(model, Model)
    name = str(version["version"])
    if model.source:
        raise DefinitionError("a finished model was not trained here", place=f"{job.name}@{name}", hint="it can only be taken in again")
    old = registered(job.runtime, job.name, name)
    rows, division = looked_at(job, model)
    with exchange(job.runtime.folder, f"{job.name}-rebuild", sets_of.size_bytes(division, len(rows.columns))) as arrays:
        ready = Prepared(model, division, sets_of.read(job, model, rows, division, arrays.make), arrays)
        code, store = arrays.folder / "code", arrays.folder / "artefact"
        try:
            lay_out(version["code"], code)
            seed = int(version["spec"]["seed"])
            arrays.put("sample", ready.sets.test.X[:PARITY_ROWS])
            if model.calibrate:
                arrays.put("held", held_back(job, ready))
            order = order_for(job, ready, version["params"], folds=0, store=store, name=f"{job.name}@{name}")
            order = replace(order, source=str(code), digest=str(version["function"]), encoder=old.encoder.as_record(), seed=seed)
            result, _, _ = fitted(job.runtime, order, model, run=job.run)
            manifest = artefact.manifest_from(result["manifest"])
            new = loaded(store, manifest, job.runtime.keys, f"{job.name}@{name}")
            before, after = old.scores(ready.sets.test.X), new.scores(ready.sets.test.X)
        finally:
            shutil.rmtree(code, ignore_errors=True)
    gap = np.abs(before - after)
    equal = np.count_nonzero(gap == 0) if gap.ndim == 1 else np.count_nonzero((gap == 0).all(axis=1))
    files = {f["name"]: f["sha256"] for f in version["manifest"]["files"]}
    found = Rebuilt(
        job.name, name, len(before), int(equal), float(gap.max(initial=0.0)), files == {f.name: f.sha256 for f in manifest.files},
        tuple(environment.differences(version["environment"], environment.record(job.runtime.cores))), job.seconds,
    )  # fmt: skip
    now = job.runtime.clock.now()
    job.runtime.state.append("rebuild", f"{job.name}@{name}", {**found.record(), "at": iso(now), "run": job.run}, at=now)
    return found
