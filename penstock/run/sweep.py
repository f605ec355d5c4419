"""Sweeps: a model with many values of its parameters, compared out of fold on its training rows; the test rows stay unseen.

Each trial is one record, keyed by all that decides its result, so that a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError, DriverMissing, PenstockError
from penstock.ground.ids import Chance
from penstock.run import sets as sets_of
from penstock.run.fit import fitted
from penstock.run.learn import Prepared, folds_for, looked_at, measured_record, order_for, out_of_fold
from penstock.run.matrices import exchange
from penstock.run.runtime import Job
from penstock.spec.models import METRICS, Model

Search = Literal["grid", "random", "optuna"]
#: Folds of a sweep over a model that declares none.
FOLDS = 3


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones if both are whole; by orders of magnitude if `log`."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Sequence[Any] | Range]


@dataclass(frozen=True)
class Trial:
    """One try: its parameters and what it gave, or why it failed."""

    key: str
    params: Mapping[str, Any]
    measured: Mapping[str, Any] | None
    seconds: float
    error: Mapping[str, Any] | None
    again: bool

    def value(self, metric: str) -> float | None:
        return None if self.measured is None else self.measured["values"].get(metric)


@dataclass(frozen=True)
class Swept:
    """A whole sweep, trials in order. `best` has the best value of `metric` of those that have one."""

    sweep: str
    model: str
    metric: str
    trials: tuple[Trial, ...]
    best: Trial | None

    def record(self) -> dict[str, Any]:
        trials = [{**vars(t), "params": dict(t.params)} for t in self.trials]
        return {
            "sweep": self.sweep,
            "model": self.model,
            "metric": self.metric,
            "trials": trials,
            "best": dict(self.best.params) if self.best else None,
        }


def sweep(job: Job, space: Space, *, search: Search = "grid", trials: int = 20, metric: str = "", seed: int = 0) -> Swept:
    """Tries parameters on the training rows; nothing is registered as a version.

    Args:    space: per parameter the values, or a range. trials: how many, of `random` and `optuna`.
             metric: what is compared; the metric of the first gate, or the first of the model's kind, if none is named.
    Repeat:  trials that were recorded with the same data, code and folds are taken as they were; failed ones are tried again.
    Raises:  DefinitionError(E1001), DriverMissing(E7002) for optuna; a failing trial is recorded, not raised.
    """
    model = job.node.asset
    assert isinstance(model, Model)
    metric = metric or next((g.metric for g in model.gates if g.metric in METRICS[model.kind]), METRICS[model.kind][0])
    _checked(job, model, space, metric)
    rows, division = looked_at(job, model)
    folds = model.folds or FOLDS
    inputs = {name: job.versions[name] for name in job.node.inputs}
    about = digest([job.declared.definition, inputs, folds, metric])
    name = digest([about, {k: repr(v) for k, v in space.items()}, search, trials, seed])[:12]
    with exchange(job.runtime.folder, f"{job.name}-sweep", sets_of.size_bytes(division, len(rows.columns))) as arrays:
        ready = Prepared(model, division, sets_of.read(job, model, rows, division, arrays.make), arrays)
        arrays.put("fold", folds_for(job, ready, folds))
        known = {k: r.body for k, r in job.runtime.state.heads("trial", prefix=f"{job.name}/{about}/").items()}
        found: list[Trial] = []
        for params, tell in _asked(space, search, trials, seed, metric):
            trial = _tried(job, ready, {**job.declared.params, **params}, params, about, folds, known)
            found.append(trial)
            tell(trial.value(metric))
            told = f"{metric} {trial.value(metric):.5g}" if trial.value(metric) is not None else "failed"
            again = " (recorded before)" if trial.again else ""
            job.tell("trial", f"{', '.join(f'{k}={v}' for k, v in params.items())}: {told}{again}", params=dict(params))
    scored = [(v, i) for i, t in enumerate(found) if (v := t.value(metric)) is not None]
    best = (max(scored, key=lambda p: (p[0], -p[1])) if _more(metric) else min(scored)) if scored else None
    return Swept(name, job.name, metric, tuple(found), found[best[1]] if best else None)


def _more(metric: str) -> bool:
    from penstock.craft.learning.measured import MORE_IS_BETTER

    return metric in MORE_IS_BETTER


def _checked(job: Job, model: Model, space: Space, metric: str) -> None:
    if model.function is None:
        raise DefinitionError("a finished model has no parameters", place=job.name)
    if metric not in METRICS[model.kind]:
        raise DefinitionError("not a metric of this model", place=job.name, expected=", ".join(METRICS[model.kind]), got=metric)
    known = {name for name, _ in model.params} | {"seed"}
    if not space:
        raise DefinitionError("nothing to sweep over", place=job.name, hint="--sweep depth=3,5,7")
    for name, values in space.items():
        if name not in known:
            raise DefinitionError("no such parameter", place=f"{job.name}.{name}", expected=", ".join(sorted(known)))
        if not isinstance(values, Range) and not values:
            raise DefinitionError("a parameter without values", place=f"{job.name}.{name}")
        if isinstance(values, Range) and not (values.low < values.high and (values.low > 0 or not values.log)):
            raise DefinitionError("not a range", place=f"{job.name}.{name}", expected="low < high", got=f"{values.low}..{values.high}")


def _tried(
    job: Job,
    ready: Prepared,
    params: Mapping[str, Any],
    shown: Mapping[str, Any],
    about: str,
    folds: int,
    known: Mapping[str, Mapping[str, Any]],
) -> Trial:
    key = digest([about, {k: repr(v) for k, v in params.items()}])
    record = f"{job.name}/{about}/{key}"
    if (before := known.get(record)) is not None and before.get("measured") is not None:
        return Trial(key, shown, before["measured"], float(before["seconds"]), None, True)
    tick = job.runtime.clock.tick()
    measured, error = None, None
    try:
        fitted(job.runtime, order_for(job, ready, params, folds=folds), ready.model, run=job.run)
        measured = measured_record(out_of_fold(ready))
    except PenstockError as failure:
        error = failure.as_record()
    seconds = round(job.runtime.clock.tick() - tick, 3)
    body = {
        "params": dict(shown),
        "measured": measured,
        "seconds": seconds,
        "error": error,
        "run": job.run,
        "at": iso(job.runtime.clock.now()),
    }
    job.runtime.state.append("trial", record, body, at=job.runtime.clock.now(), claim=job.claim)
    return Trial(key, shown, measured, seconds, error, False)


# -- which parameters -----------------------------------------------------------------------------------------------
def _asked(space: Space, search: Search, trials: int, seed: int, metric: str) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Parameters to try, each with the function that is told what it gave."""
    if search == "grid":
        if ranges := [n for n, v in space.items() if isinstance(v, Range)]:
            raise DefinitionError("a grid needs values", place=ranges[0], hint="list them, or use --search random")
        for values in itertools.product(*(list(v) for v in space.values())):  # type: ignore[arg-type]
            yield dict(zip(space, values, strict=True)), lambda value: None
    elif search == "random":
        chance = Chance(seed)
        for _ in range(trials):
            yield {name: _drawn(chance, values) for name, values in space.items()}, lambda value: None
    else:
        yield from _suggested(space, trials, seed, metric)


def _drawn(chance: Chance, values: Sequence[Any] | Range) -> Any:
    if not isinstance(values, Range):
        return values[chance.below(len(values))]
    share = chance.share()
    if values.log:
        number = values.low * (values.high / values.low) ** share
    else:
        number = values.low + (values.high - values.low) * share
    return min(int(values.low + share * (values.high - values.low + 1)), int(values.high)) if values.whole and not values.log else (
        round(number) if values.whole else number
    )  # fmt: skip


def _suggested(space: Space, trials: int, seed: int, metric: str) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """By Optuna's TPE. A sweep that goes on is told the recorded values again, so it suggests as it would have."""
    try:
        import optuna
    except ImportError as error:
        raise DriverMissing("optuna is not installed", place="--search optuna", hint="pip install 'penstock[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if _more(metric) else "minimize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        params: dict[str, Any] = {}
        for name, values in space.items():
            if not isinstance(values, Range):
                params[name] = values[trial.suggest_categorical(name, list(range(len(values))))]
            elif values.whole:
                params[name] = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
            else:
                params[name] = trial.suggest_float(name, values.low, values.high, log=values.log)

        def tell(value: float | None, trial: Any = trial) -> None:
            study.tell(trial, value) if value is not None else study.tell(trial, state=optuna.trial.TrialState.FAIL)

        yield params, tell
