"""Scoring: the live version of a model over the rows it has not scored yet, in batches, out of core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError, GateFailed
from penstock.ground.names import quote
from penstock.run.audit import Batch, audited, final_audit, require_passed
from penstock.run.build import HIDDEN, bind_inputs
from penstock.run.judge import registered
from penstock.run.learn import declared_as
from penstock.run.ledger import Step
from penstock.run.point_in_time import feature_assets, model_rows
from penstock.run.publish import published, unchanged
from penstock.run.registry import entry
from penstock.run.runtime import Job, Outcome
from penstock.spec.models import Model, Predictions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from penstock.craft.learning.runtimes import Chosen
    from penstock.craft.learning.scoring import Scorer


def score(job: Job) -> Outcome:
    """Scores new rows, or all rows if the model has a new version; one score for each row of the table.

    Features are those of the model's own training set definition, at their newest versions, point in time.
    Raises: GateFailed(E6001) if no version of the model ever passed its gates.
    """
    asset = job.node.asset
    assert isinstance(asset, Predictions)
    model = job.graph.node(asset.model).asset
    assert isinstance(model, Model)
    scorer = _scorer(job, asset.model)
    model = declared_as(model, entry(job.runtime.state, asset.model, job.versions[asset.model]))
    scans = bind_inputs(job, (asset.over, *feature_assets(model)))
    part = job.part and job.base.get("inputs", {}).get(asset.model) == job.versions[asset.model]
    wanted, total, filtered, already = _wanted(job, asset, model, part)
    rows = model_rows(job.session, job.graph, model, {**scans, model.over: scans[asset.over]}, wanted)
    keep = tuple(dict.fromkeys((*rows.key, rows.time, *model.slices)))
    columns = ", ".join(quote(c) for c in dict.fromkeys((*keep, *rows.columns)))
    used: list[Chosen] = []
    stream = job.session.read(f"SELECT {columns} FROM {quote(rows.relation)}")
    job.session.bind("_scored", _scored(job, stream, scorer, keep, reasons=asset.reasons, rows=total - filtered - already, used=used))
    schema = job.session.define("_computed", "SELECT * FROM _scored")
    draft = job.runtime.lake.draft(job.name, schema, exact=not part)
    batch = Batch(draft, job.session.write("SELECT * FROM _computed", draft), whole=not part, remove="*" if job.base and not part else ())
    for chosen in used:
        job.tell(
            "step", f"{chosen.runtime} runtime: {chosen.note}", runtime=chosen.runtime, cached=chosen.cached, difference=chosen.difference
        )
    written = sum(f.rows for f in batch.files)
    job.steps.append(Step("score", total, written, duplicate=already, filtered={f"not {asset.where}": filtered} if filtered else {}))
    if part and not written:
        return unchanged(job)
    batch, audit = audited(job, batch, (), rows.key)
    if (whole := final_audit(job, batch, (), rows.key, job.runtime.lake.scan(job.name) if part else None)) is not None:
        require_passed(job, whole)
    return published(job, batch, audit)


def _scorer(job: Job, model: str) -> Scorer:
    version = job.versions.get(model)
    if not version:
        raise GateFailed("no version of the model has passed its gates", place=model, hint=f"penstock show {model}")
    return registered(job.runtime, model, version)


def _wanted(job: Job, asset: Predictions, model: Model, part: bool) -> tuple[str, int, int, int]:
    """Names the relation of rows to score; returns it with rows in all, rows that `where` leaves out, rows scored before."""
    session, over = job.session, quote(asset.over)
    condition = f"({asset.where})" if asset.where else "true"
    total, left_out = session.rows(f"SELECT count(*), count(*) FILTER (WHERE {condition} IS NOT TRUE) FROM {over}")[0]
    query = f"SELECT * FROM {over} WHERE {condition}"
    already = 0
    if part:
        key = _key(job, asset)
        scan = job.runtime.lake.scan(job.name)
        session.bind("_before", scan, hidden=[h for h in HIDDEN if h in scan.schema])
        same = " AND ".join(f"s.{quote(k)} IS NOT DISTINCT FROM b.{quote(k)}" for k in key)
        query = f"SELECT s.* FROM ({query}) s ANTI JOIN _before b ON {same}"
        already = session.rows(f"SELECT count(*) FROM (SELECT * FROM {over} WHERE {condition}) s SEMI JOIN _before b ON {same}")[0][0]
    session.define("_wanted", query)
    return "_wanted", int(total), int(left_out), int(already)


def _key(job: Job, asset: Predictions) -> tuple[str, ...]:
    key = getattr(job.graph.node(asset.over).asset, "key", ())
    if not key:
        raise DefinitionError("scoring only new rows needs a key", place=asset.over, hint="@ps.table(key=...)")
    return tuple(key)


def _scored(
    job: Job, stream: pa.RecordBatchReader, scorer: Scorer, keep: tuple[str, ...], *, reasons: int, rows: int, used: list[Chosen]
) -> pa.RecordBatchReader:
    """A stream of kept columns with scores, reasons, model version and moment, batch by batch, in order.

    Reading and encoding go on in one thread while another scores and this one's caller writes; at most a few batches are in
    memory at a time. What runtime was chosen is left in `used`, since only this job's own thread may tell.
    """
    import pyarrow as pa

    from penstock.craft.learning import answers, runtimes
    from penstock.craft.learning.ahead import ahead

    kept = [stream.schema.field(name) for name in keep]
    moment = pa.timestamp("us", "UTC")
    told = answers.fields(scorer, reasons)
    schema = pa.schema([*kept, *told, ("model_version", pa.string()), ("scored_at", moment)])
    version, now = job.versions[_model_of(job)], job.runtime.clock.now()
    buffers = answers.Buffers(scorer.encoder)

    def encoded() -> Iterator[tuple[pa.RecordBatch, NDArray[np.float64]]]:
        for batch in stream:
            if batch.num_rows:
                X = buffers.take(batch.num_rows)
                scorer.encoder.write(batch, X)
                yield batch.select(list(keep)), X

    def scored() -> Iterator[pa.RecordBatch]:
        chosen = scorer
        for number, (batch, X) in enumerate(ahead(encoded(), 2)):
            if number == 0:
                found = runtimes.fastest(scorer, X, rows=rows, cache=job.runtime.folder / "cache" / "compiled", keys=job.runtime.keys)
                used.append(found)
                chosen = found.scorer
            columns = [*batch.columns, *answers.columns(chosen, X, reasons)]
            constant: list[Any] = [pa.repeat(version, len(X)), pa.repeat(pa.scalar(now, moment), len(X))]
            buffers.give_back(X)
            yield pa.record_batch([*columns, *constant], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, ahead(scored(), 2))


def _model_of(job: Job) -> str:
    assert isinstance(job.node.asset, Predictions)
    return str(job.node.asset.model)
