"""The registry: the versions of models, which of them was live when, and who said so. Append-only; the newest promotion is live.

Records. `model`, key `NAME@vN`: a version, never changed. `promotion`, key `NAME`: one per release or rollback, signed, with what it
replaced and the evidence. The asset's own record carries the live version, so that what scores with the model is stale after a release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from penstock.ground.clock import iso
from penstock.ground.errors import GateFailed, UnknownName
from penstock.ports.state import State
from penstock.run.claims import claimed
from penstock.run.outbox import live_owed
from penstock.run.runtime import Runtime

if TYPE_CHECKING:
    from penstock.ports.state import Record

How = Literal["rule", "release", "rollback"]
#: What makes a version live when nobody says anything.
PASSING = "passes its gates"


class Signer(Protocol):
    """Signs records with the project's key, and tells whether a record was signed by a key that is trusted."""

    def sign(self, record: Mapping[str, Any], *, purpose: str) -> dict[str, Any]: ...
    def verify(self, signed: Mapping[str, Any], *, purpose: str, place: str = "") -> dict[str, Any]: ...


@dataclass(frozen=True)
class Promotion:
    """One change of what is live.

    Attributes:
        replaced: the version that was live before, "" if there was none.
        by: a person, or the rule.
        reason: why, in the words of whoever did it.
        evidence: gates and metrics of the version, and metrics of the one it replaced.
        signature: over all the rest; `verified` checks it.
    """

    model: str
    version: str
    replaced: str
    how: How
    by: str
    reason: str
    at: str
    evidence: Mapping[str, Any]
    signature: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(vars(self))

    def statement(self) -> dict[str, Any]:
        """What is signed: all but the signature."""
        return {k: v for k, v in vars(self).items() if k != "signature"}


def number(version: str) -> int:
    """`v12` -> 12; 0 for no version."""
    return int(version[1:]) if version[:1] == "v" and version[1:].isdigit() else 0


def entry(state: State, model: str, version: str) -> Mapping[str, Any]:
    """A version as registered. Raises: UnknownName(E1003)."""
    found = state.history("model", f"{model}@{version}", limit=1)
    if not found:
        raise UnknownName("there is no such version", place=f"{model}@{version}", hint=f"`penstock show {model} --compare` lists them")
    return found[0].body


def entries(state: State, model: str, *, limit: int = 20, before: str = "") -> list[Mapping[str, Any]]:
    """The newest versions of a model, newest first. Cost: one indexed look-up each, however many there are."""
    last = number(before) - 1 if before else newest(state, model)
    found: list[Mapping[str, Any]] = []
    for n in range(last, 0, -1):
        if len(found) == limit:
            break
        if rows := state.history("model", f"{model}@v{n}", limit=1):
            found.append(rows[0].body)
    return found


def newest(state: State, model: str) -> int:
    """The number of the newest version, live or refused; 0 if there is none."""
    head = _head(state, "asset", model)
    return max(number(str(head.body.get("candidate", ""))), number(str(head.body.get("version", "")))) if head else 0


def _head(state: State, kind: str, key: str) -> Record | None:
    found = state.history(kind, key, limit=1)
    return found[0] if found else None


def live_at(state: State, model: str, at: datetime) -> Promotion | None:
    """What was live at a moment; None if nothing was. One indexed query."""
    found = state.history("promotion", model, before=at, limit=1)
    return _promotion(found[0].body) if found else None


def promotions(state: State, model: str, *, limit: int = 50) -> list[Promotion]:
    """Who released what when, newest first."""
    return [_promotion(r.body) for r in state.history("promotion", model, limit=limit)]


def _promotion(body: Mapping[str, Any]) -> Promotion:
    return Promotion(**{name: body[name] for name in Promotion.__dataclass_fields__})


def verified(found: Promotion, signer: Signer) -> Promotion:
    """The promotion itself, if it was signed by a trusted key and is unchanged. Raises: SignatureRefused(E6003)."""
    signer.verify(found.record(), purpose="promotion", place=f"{found.model}@{found.version}")
    return found


def promotion(
    signer: Signer,
    version: Mapping[str, Any],
    *,
    live: Mapping[str, Any] | None,
    how: How,
    by: str,
    reason: str,
    now: datetime,
) -> Promotion:
    """The signed record by which a version becomes live. `version` and `live` are entries of the registry."""
    evidence = {
        "gates": list(version.get("gates", [])),
        "metrics": dict(version.get("metrics", {})),
        "replaced": dict(live.get("metrics", {})) if live else {},
        "manifest": version.get("manifest", {}),
    }
    made = Promotion(
        str(version["model"]), str(version["version"]), str(live["version"]) if live else "", how, by, reason, iso(now), evidence, {}
    )  # fmt: skip
    return Promotion(**signer.sign(made.statement(), purpose="promotion"))


def held_back(state: State, model: str) -> Promotion | None:
    """The roll-back that holds: after one the rule promotes nothing until a person releases a version. None if there is none."""
    found = promotions(state, model, limit=1)
    return found[0] if found and found[0].how == "rollback" else None


def release(
    runtime: Runtime, signer: Signer, model: str, version: str = "", *, by: str, reason: str = "", despite_gates: bool = False
) -> Promotion:
    """Makes a version live, the newest one that passed its gates if none is named. One record; readers see it at their next plan.

    Repeat:  the same version again is one more record only if something else was live.
    Raises:  UnknownName(E1003); GateFailed(E6001) for a refused version, unless `despite_gates` with a reason.
    """
    with claimed(runtime, f"asset:{model}", runtime.ids.new()) as claim:
        head = _head(runtime.state, "asset", model)
        if head is None:
            raise UnknownName("the model has no version yet", place=model, hint=f"penstock run {model}")
        chosen = entry(runtime.state, model, version) if version else _newest_passing(runtime.state, model)
        if chosen["refused"] and not (despite_gates and reason):
            failed = [str(g["name"]) for g in chosen.get("gates", []) if not g["passed"]]
            raise GateFailed(
                "a refused version", place=f"{model}@{chosen['version']}", expected="all gates passed", got="failed: " + "; ".join(failed),
                hint="a person can release it with --despite-gates and --reason, which the record keeps",
            )  # fmt: skip
        return _made_live(runtime, signer, head.body, chosen, "release", by, reason, claim)


def rollback(runtime: Runtime, signer: Signer, model: str, *, by: str, reason: str = "") -> Promotion:
    """Makes the version live that was live before the one that is now.

    Repeat:  goes one further back. Raises: UnknownName(E1003) if there is none.
    """
    with claimed(runtime, f"asset:{model}", runtime.ids.new()) as claim:
        head = _head(runtime.state, "asset", model)
        before = _before(promotions(runtime.state, model, limit=1000))
        if head is None or not before:
            raise UnknownName("no other version was ever live", place=model, hint=f"`penstock show {model} --releases` tells what was")
        return _made_live(runtime, signer, head.body, entry(runtime.state, model, before), "rollback", by, reason, claim)


def _before(found: Sequence[Promotion]) -> str:
    """The version to go back to: what the live version replaced when it was released; roll-backs are walked through."""
    if not found:
        return ""
    live = found[0].version
    released = next((p for p in found if p.version == live and p.how != "rollback"), None)
    return released.replaced if released else ""


def _newest_passing(state: State, model: str) -> Mapping[str, Any]:
    for n in range(newest(state, model), 0, -1):
        found = state.history("model", f"{model}@v{n}", limit=1)
        if found and not found[0].body["refused"]:
            return found[0].body
    raise GateFailed("no version has passed its gates", place=model, hint=f"penstock show {model} --compare")


def _made_live(
    runtime: Runtime,
    signer: Signer,
    base: Mapping[str, Any],
    chosen: Mapping[str, Any],
    how: How,
    by: str,
    reason: str,
    claim: Any,
) -> Promotion:
    live = str(base.get("version", ""))
    now = runtime.clock.now()
    if live == chosen["version"]:
        return promotions(runtime.state, str(chosen["model"]), limit=1)[0]
    replaced = entry(runtime.state, str(chosen["model"]), live) if live else None
    made = promotion(signer, chosen, live=replaced, how=how, by=by, reason=reason, now=now)
    body = {**base, **live_parts(chosen), "at": made.at}
    entries = [("promotion", made.model, made.record()), ("asset", made.model, body), *live_owed(runtime, made.record())]
    runtime.state.append_all(entries, at=now, claim=claim)
    return made


#: Parts of a registered version that the asset's own record shows for the live one.
_LIVE = (
    "version", "folder", "manifest", "train_rows", "test_rows", "boundary", "metrics", "evaluation", "slices", "calibration", "curves",
    "features", "given", "gates", "weak", "figures", "coverage", "kind_of_model", "classes",
)  # fmt: skip


def live_parts(version: Mapping[str, Any]) -> dict[str, Any]:
    """What the asset's record takes over from the version that becomes live."""
    return {**{k: version[k] for k in _LIVE if k in version}, "rows": version["train_rows"], "refused": False}
