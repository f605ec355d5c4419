"""A model's versions beside each other, its releases, its card: records for `show`, made of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from penstock.ground.clock import from_iso
from penstock.ground.errors import DefinitionError
from penstock.project.figures import METRICS, count, figure, one_line
from penstock.project.project import Project
from penstock.run.registry import entries, entry, promotions


def moment_of(text: str) -> datetime:
    """A moment as typed; without a zone it is UTC. Raises: DefinitionError(E1001)."""
    try:
        return from_iso(text)
    except ValueError as error:
        raise DefinitionError("not a moment", place=text[:40], expected="such as 2026-11-01T12:00", got=text[:40]) from error


def compared(project: Project, model: str, *, limit: int = 20) -> list[dict[str, Any]]:
    """The newest versions of a model, newest first: parameters, data, metrics with intervals, gates, cost, and which is live."""
    live = str(next((p.version for p in promotions(project.state, model, limit=1)), ""))
    return [_line(e, live) for e in entries(project.state, model, limit=limit)]


def _line(version: Mapping[str, Any], live: str) -> dict[str, Any]:
    overall = version.get("evaluation", {}).get("overall", {})
    cost = version.get("cost") or {}
    return {
        "version": version["version"], "at": version["at"], "live": version["version"] == live, "refused": version["refused"],
        "params": dict(version.get("params", {})), "inputs": dict(version.get("inputs", {})),
        "train_rows": version["train_rows"], "test_rows": version["test_rows"], "metrics": dict(version["metrics"]),
        "intervals": dict(overall.get("intervals", {})), "cross": (version.get("cross") or {}).get("values"),
        "failed": [str(g["name"]) for g in version.get("gates", []) if not g["passed"]],
        "curves": dict(version.get("curves") or {}), "learning": list(version.get("curve") or []), "worst": _worst(version.get("slices", [])), "seconds": version.get("seconds"), "fit_seconds": version.get("fit_seconds"),
        "cpu_seconds": cost.get("cpu_seconds"), "peak_memory_bytes": cost.get("peak_memory_bytes"), "run": version.get("run", ""),
    }  # fmt: skip


def _worst(slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The slice that is worst by the metric by which slices are ranked."""
    from penstock.project.figures import ranked

    found = [(metric, ordered[-1]) for metric, ordered in ranked(slices).values() if ordered]
    if not found:
        return {}
    metric, slice_ = found[0]
    return {"column": slice_["column"], "value": slice_["value"], "metric": metric, "is": slice_[metric]}


def telling(versions: Sequence[Mapping[str, Any]], most: int = 3) -> list[str]:
    """The metrics to show of some versions, most telling first."""
    having = [m for m in METRICS if any(v["metrics"].get(m) is not None for v in versions)]
    return having[:most]


def differing(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parameters by which some versions differ."""
    names = sorted({n for v in versions for n in v["params"]})
    return [n for n in names if len({repr(v["params"].get(n)) for v in versions}) > 1]


def with_interval(version: Mapping[str, Any], metric: str) -> str:
    """`0.7310 (0.7252 to 0.7368)`."""
    value, interval = version["metrics"].get(metric), version["intervals"].get(metric)
    return figure(value) + (f" ({figure(interval[0])} to {figure(interval[1])})" if interval and value is not None else "")


def weak_text(weak: Mapping[str, Any]) -> str:
    """How weak a weak slice is: `mean loss 0.81 against 0.52 elsewhere, 1,204 rows, p 0.0001`."""
    loss, elsewhere = figure(weak["loss"]), figure(weak["elsewhere"])
    return f"mean loss {loss} against {elsewhere} elsewhere, {count(weak['rows'])} rows, p {weak['p']:.1g}"


# -- the card -------------------------------------------------------------------------------------------------------
def card(project: Project, model: str, version: str = "") -> str:
    """A model card in Markdown, of measured facts only; of the live version if none is named.

    Source: the headings after Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
    Raises: UnknownName(E1003).
    """
    node = project.graph.node(model)
    found = promotions(project.state, model, limit=100)
    live = found[0].version if found else ""
    told = entry(project.state, model, version or live or f"v{_newest(project, model)}")
    name = str(told["version"])
    released = next((p for p in found if p.version == name), None)
    spec, overall = told.get("spec", {}), told["evaluation"]["overall"]
    lines = [
        f"# {model} {name}", "", getattr(node.asset, "doc", "") or "No description was written.", "",
        "## Details", "",
        f"- Kind: {told.get('kind_of_model', 'binary')}; predicts `{spec.get('label', '')}` of `{spec.get('over', '')}`",
        f"- Stored as {told['manifest']['format']}: `{told['manifest']['model']}`, {_size(told['manifest'])}",
        f"- Trained {told['at']} in {told.get('seconds', 0):.1f} s; parameters {_params(told)}",
        f"- Environment: Python {told['environment']['python']}, "
        + ", ".join(f"{k} {v}" for k, v in told["environment"]["libraries"].items() if k in _shown(told)),
        f"- Status: {_status(told, live, released)}", "",
        "## Data", "",
        f"- Learnt from {count(told['train_rows'])} rows, tested on {count(told['test_rows'])}; split: {told['boundary']}",
        *(f"- `{name}` version {version}" for name, version in told["inputs"].items()),
        f"- {len(told['features'])} columns: {', '.join(told['features'])}",
        *(f"- Note: {note}" for note in told.get("notes", [])), "",
        "## Measured on the test rows", "", "| metric | value | 95 % interval |", "|---|---|---|",
        *(_metric_row(m, overall) for m in told["metrics"]), "",
    ]  # fmt: skip
    if told.get("cross"):
        lines += ["Out of fold on the training rows: " + ", ".join(f"{k} {figure(v)}" for k, v in told["cross"]["values"].items()), ""]
    lines += _slices(told) + _gates(told) + _limits(told)
    return "\n".join(lines).rstrip() + "\n"


def _newest(project: Project, model: str) -> int:
    from penstock.run.registry import newest

    return newest(project.state, model)


def _size(manifest: Mapping[str, Any]) -> str:
    total = sum(int(f["size_bytes"]) for f in manifest["files"])
    return f"{total / 1e6:.2f} MB, " + ", ".join(f"{f['name']} sha256 {f['sha256'][:12]}" for f in manifest["files"])


def _shown(told: Mapping[str, Any]) -> set[str]:
    module = str(told["manifest"]["model"]).split(".")[0]
    return {"numpy", "penstock", *{"sklearn": ["scikit-learn"], "xgboost": ["xgboost", "xgboost-cpu"]}.get(module, [module])}


def _params(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in told.get("params", {}).items()) or "none"


def _status(told: Mapping[str, Any], live: str, released: Any) -> str:
    if told["version"] == live and released:
        return f"live since {released.at}, released by {released.by} ({released.how})"
    if told["refused"]:
        return "refused by its gates"
    return f"was released {released.at} by {released.by}, not live now" if released else "passed its gates, not released"


def _metric_row(metric: str, overall: Mapping[str, Any]) -> str:
    value, interval = overall["values"].get(metric), overall.get("intervals", {}).get(metric)
    told = f"{figure(interval[0])} to {figure(interval[1])}" if interval else ""
    why = overall.get("reasons", {}).get(metric, "")
    return f"| {metric} | {figure(value) if value is not None else f'none: {why}'} | {told} |"


def _slices(told: Mapping[str, Any]) -> list[str]:
    from penstock.project.figures import ranked

    lines = []
    for column, (metric, ordered) in ranked(told.get("slices", [])).items():
        best, worst = ordered[0], ordered[-1]
        lines.append(
            f"- {metric} by `{column}`: best {best['value']} {figure(best[metric])} ({count(best['rows'])} rows), "
            f"worst {worst['value']} {figure(worst[metric])} ({count(worst['rows'])} rows)"
        )
    lines += [f"- Weak where `{w['condition']}`: {weak_text(w)}" for w in told.get("weak", [])]
    return ["## Where it is better and worse", "", *lines, ""] if lines else []


def _gates(told: Mapping[str, Any]) -> list[str]:
    from penstock.project.figures import gate_text

    gates = [f"- {one_line(gate_text(g), 300)}" for g in told.get("gates", [])]
    return ["## Gates", "", *gates, ""] if gates else []


def _limits(told: Mapping[str, Any]) -> list[str]:
    found = [f"- Leak found: {f['reason']}" for f in told.get("leaks", [])]
    figures = told.get("figures", {})
    if figures.get("feature_drift") is not None:
        found.append(f"- Greatest drift of a column between training and test rows: PSI {figure(figures['feature_drift'])}")
    if figures.get("least_class") is not None:
        found.append(f"- Share of the rarest class among the training rows: {figure(figures['least_class'])}")
    return ["## Limits", "", *found, ""] if found else []
