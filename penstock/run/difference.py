"""Two versions of a model on the same rows: where and how much their scores differ. Nothing is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from penstock.ground.names import quote
from penstock.run.build import bind_inputs
from penstock.run.judge import registered
from penstock.run.learn import declared_as
from penstock.run.point_in_time import feature_assets, model_rows
from penstock.run.registry import entry
from penstock.run.runtime import Job
from penstock.spec.models import Model, Predictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rows of the greatest differences that are shown, and values of a slice column.
SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """How the scores of two versions differ on the rows that predictions cover.

    Attributes:
        rows: rows scored by both. equal: rows with the very same score.
        quantiles: of the absolute difference, at 50, 90, 99 and 100 %; of several classes the greatest difference counts.
        mean: mean of the second less the first, for one score a row.
        flips: rows whose decision differs: over 0.5 or not, the likeliest class; 0 for numbers.
        slices: per slice column and value the rows, mean absolute difference and flips, the most different first.
        most: the rows that differ most: key, time, slices, both scores.
    """

    first: str
    second: str
    rows: int
    equal: int
    mean: float
    quantiles: Mapping[str, float]
    flips: int
    slices: tuple[Mapping[str, Any], ...]
    most: tuple[Mapping[str, Any], ...]

    def record(self) -> dict[str, Any]:
        return {**vars(self), "quantiles": dict(self.quantiles), "slices": list(self.slices), "most": list(self.most)}


def difference(job: Job, first: str, second: str) -> Difference:
    """Scores the rows of a predictions asset with two registered versions, in one pass.

    Features are those that each version was trained with, at their newest versions. Memory: 17 bytes a row, and the slice columns.
    Raises: UnknownName(E1003) for a version, SchemaDrift(E2003), ArtefactRefused(E6002), SignatureRefused(E6003).
    """
    import numpy as np
    import pyarrow as pa

    asset = job.node.asset
    assert isinstance(asset, Predictions)
    model = job.graph.node(asset.model).asset
    assert isinstance(model, Model)
    told = [entry(job.runtime.state, asset.model, v) for v in (first, second)]
    a, b = (registered(job.runtime, asset.model, v) for v in (first, second))
    then = [declared_as(model, t) for t in told]
    both = replace(model, features=tuple(dict.fromkeys((*then[0].features, *then[1].features))))
    scans = bind_inputs(job, (asset.over, *feature_assets(both)))
    where = f" WHERE ({asset.where})" if asset.where else ""
    job.session.define("_asked_rows", f"SELECT * FROM {quote(asset.over)}{where}")
    rows = model_rows(job.session, job.graph, both, {**scans, both.over: scans[asset.over]}, "_asked_rows")
    keep = tuple(dict.fromkeys((*rows.key, rows.time, *model.slices)))
    columns = ", ".join(quote(c) for c in dict.fromkeys((*keep, *rows.columns)))
    gaps: list[NDArray[np.float64]] = []
    moves: list[NDArray[np.float64]] = []
    flips: list[NDArray[np.bool_]] = []
    kept: list[pa.RecordBatch] = []
    for batch in job.session.read(f"SELECT {columns} FROM {quote(rows.relation)}"):
        p, q = a.scores(a.encoder.matrix(batch)), b.scores(b.encoder.matrix(batch))
        gap = np.abs(p - q)
        gaps.append(gap.max(axis=1) if gap.ndim == 2 else gap)
        moves.append((q - p) if gap.ndim == 1 else np.zeros(len(gap)))
        flips.append(_decided(p, model) != _decided(q, model))
        kept.append(batch.select(list(keep)))
    gap = np.concatenate(gaps) if gaps else np.empty(0)
    move, flip = np.concatenate([*moves, np.empty(0)]), np.concatenate([*flips, np.empty(0, dtype=bool)]).astype(bool)
    table = pa.Table.from_batches(kept) if kept else pa.table({})
    order = np.argsort(-gap, kind="stable")[:SHOWN]
    most = [
        {**_plain(row), "difference": float(gap[at]), "change": float(move[at])}
        for row, at in zip(table.take(pa.array(order)).to_pylist(), order.tolist(), strict=True)
    ]
    return Difference(
        first, second, len(gap), int(np.count_nonzero(gap == 0)), float(move.mean()) if len(move) else 0.0, _quantiles(gap), int(flip.sum()),
        tuple(_slices(table, model.slices, gap, flip)), tuple(most),
    )  # fmt: skip


def _decided(p: NDArray[np.float64], model: Model) -> NDArray[Any]:
    import numpy as np

    if model.kind == "multiclass":
        return p.argmax(axis=1)
    return p >= 0.5 if model.kind == "binary" else np.zeros(len(p), dtype=bool)


def _quantiles(gap: NDArray[np.float64]) -> dict[str, float]:
    import numpy as np

    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: float(np.quantile(gap, share)) if len(gap) else 0.0 for name, share in shares.items()}


def _slices(table: Any, columns: Sequence[str], gap: NDArray[np.float64], flip: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Per column the values whose rows differ most, in the mean."""
    import numpy as np
    import pyarrow.compute as pc

    found: list[dict[str, Any]] = []
    for column in columns if table.num_rows else ():
        coded = pc.dictionary_encode(table.column(column).combine_chunks(), null_encoding="encode")
        codes = coded.indices.to_numpy(zero_copy_only=False)
        values = coded.dictionary.to_pylist()
        rows = np.bincount(codes, minlength=len(values))
        mean = np.bincount(codes, weights=gap, minlength=len(values)) / np.maximum(rows, 1)
        turned = np.bincount(codes, weights=flip, minlength=len(values))
        for at in np.argsort(-mean, kind="stable")[:SHOWN].tolist():
            value = "null" if values[at] is None else str(values[at])
            found.append({"column": column, "value": value, "rows": int(rows[at]), "mean": float(mean[at]), "flips": int(turned[at])})
    return found


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, int | float | bool | str) or v is None else str(v) for k, v in row.items()}
