"""The training and the test set of a model: point in time, split, counted, encoded, in one ordered pass each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.ports.engine import Session
from penstock.run.ledger import Step, require_balance
from penstock.run.point_in_time import Rows
from penstock.run.runtime import Job
from penstock.spec.models import ByGroup, ByTime, Model

if TYPE_CHECKING:
    from penstock.craft.learning.encoding import Encoder
    from penstock.craft.learning.training import Filled, Make, Target

#: Rows of each set of which the columns are also kept as they were before encoding: for leak detectors and weak slices.
SAMPLE = 50_000


@dataclass(frozen=True)
class Sets:
    """What is learnt from and tested on.

    Attributes:
        boundary: the first moment of the test set, or how it was taken.
        test_query: reads the test rows again, `test_rows` of them, for a model with another encoder.
        times: feature column -> the column of the sampled rows that says when its value was known.
        notes: what a person should know of the rows, such as columns without a value.
    """

    encoder: Encoder
    target: Target
    train: Filled
    test: Filled
    boundary: str
    test_query: str
    test_rows: int
    times: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Division:
    """How the labelled rows fall into two: an SQL condition that holds for test rows, and the counts on both sides."""

    test: str
    boundary: str
    total: int
    labelled: int
    usable: int
    train: int


def size_bytes(division: Division, columns: int) -> int:
    """What the matrices of both sets take, about."""
    return division.usable * (columns + 4) * 8


def divided(session: Session, model: Model, rows: Rows, place: str) -> Division:
    """Where the split falls, counted over the model's own table.

    Raises: DefinitionError(E1001) if no row has a label, or a side has no row.
    """
    from penstock.craft.learning import splits

    over, label, time = quote(model.over), quote(model.label), quote(rows.time) if rows.time else "NULL::TIMESTAMP"
    if rows.time and (kind := rows.schema.field(rows.time).type.name) not in ("timestamp", "timestamptz", "date"):
        raise DefinitionError(
            "the time of a model's table is no time", place=f"{model.over}[{rows.time}]", expected="timestamp or date", got=kind,
            hint="cast it in the table",
        )  # fmt: skip
    total, labelled, newest = session.rows(
        f"SELECT count(*), count({label}), max({time}) FILTER (WHERE {label} IS NOT NULL) FROM {over}"
    )[0]  # fmt: skip
    if not labelled:
        raise DefinitionError("no row has a label", place=f"{model.over}[{model.label}]", got=f"{total} rows")
    if isinstance(model.split, ByTime) and newest is None:
        raise DefinitionError("no row with a label has a time", place=f"{model.over}[{rows.time}]", got=f"{labelled} rows")
    key = (model.group,) if model.kind == "ranking" and model.group else rows.key
    test = splits.test_condition(model.split, newest=newest, key=key, time=rows.time or "")
    lost = session.rows(
        f"SELECT count(*) FILTER (WHERE {splits.no_side_condition(model.split, key=key, time=rows.time or '')}) FROM {over} WHERE {label} IS NOT NULL"
    )[0][0]
    splits.require_sides(model.split, int(lost))
    boundary = splits.boundary(model.split, newest).isoformat() if isinstance(model.split, ByTime) else test
    usable = f"{label} IS NOT NULL" + (f" AND {time} IS NOT NULL" if rows.time else "")
    known, train = session.rows(f"SELECT count(*), count(*) FILTER (WHERE NOT ({test})) FROM {over} WHERE {usable}")[0]
    for side, number in (("training", train), ("test", known - train)):
        if not number:
            raise DefinitionError(
                f"the {side} set has no row", place=f"{place}.split", expected="rows on both sides", got=f"{known} rows in all"
            )
    return Division(test, boundary, int(total), int(labelled), int(known), int(train))


def read(job: Job, model: Model, rows: Rows, division: Division, make: Make) -> Sets:
    """Encoded training and test sets. Training rows come ordered by group, time and key, so that the same rows give the same model.

    Args:   make: makes the arrays of the training set (those of the test set stay here).
    Raises: DefinitionError(E1001) for labels, weights and groups that cannot be learnt from; LedgerImbalance(E3002).
    """
    from penstock.craft.learning import encoding, training

    session = job.session
    job.steps.append(_split_step(division))
    require_balance(job.name, job.steps)
    label = quote(model.label)
    usable = f"{label} IS NOT NULL" + (f" AND {quote(rows.time)} IS NOT NULL" if rows.time else "")
    learnt = f"{usable} AND NOT ({division.test})"
    encoder = encoding.learn(rows.schema, rows.columns, _texts(session, model, rows, learnt))
    target = training.Target(model.label, model.kind, _classes(session, model, rows, learnt, job.name), model.weight, model.group)
    known = tuple(joined.known for joined in rows.joined)
    wanted = tuple(dict.fromkeys((*rows.columns, *target.columns, *kept_columns(model, rows), *known)))
    keep = kept_columns(model, rows)
    columns = ", ".join(quote(c) for c in wanted)
    by = [*((model.group,) if model.group else ()), *((rows.time,) if rows.time else ()), *rows.key]
    order = f" ORDER BY {', '.join(quote(c) for c in dict.fromkeys(by))}" if by else ""
    found = f"SELECT {columns} FROM {quote(rows.relation)} WHERE "
    train = training.fill(
        session.read(found + learnt + order), division.train, encoder, target=target, keep=keep, sample=SAMPLE, beside=known, make=make
    )  # fmt: skip
    test_query = f"{found}{usable} AND ({division.test}){order}"
    test = training.fill(
        session.read(test_query), division.usable - division.train, encoder, target=target, keep=keep, sample=SAMPLE, beside=known
    )  # fmt: skip
    times = {column: joined.known for joined in rows.joined for column in joined.columns}
    return Sets(
        encoder, target, train, known_classes(test, target, job), division.boundary, test_query, len(test), times, notes(train, encoder)
    )


def kept_columns(model: Model, rows: Rows) -> tuple[str, ...]:
    """Columns that are kept beside the matrices as they came: key, time, slices, and the column the split goes by."""
    by = (model.split.column,) if isinstance(model.split, ByGroup) else ()
    return tuple(dict.fromkeys((*model.slices, *rows.key, *((rows.time,) if rows.time else ()), *by)))


def known_classes(test: Filled, target: Target, job: Job) -> Filled:
    """The test rows whose class was learnt; the others cannot be predicted, and are counted."""
    import numpy as np
    import pyarrow as pa

    if target.kind != "multiclass" or not len(test.y) or int(test.y.min()) >= 0:
        return test
    rows = np.flatnonzero(test.y >= 0)
    job.tell("note", f"{len(test.y) - len(rows)} test rows have a class that no training row has; they are left out")
    job.steps.append(Step("classes", len(test.y), len(rows), filtered={"a class that was not learnt": len(test.y) - len(rows)}))
    if not len(rows):
        raise DefinitionError("no test row has a class that was learnt", place=f"{job.name}.split", expected=", ".join(target.classes[:12]))
    places = np.full(len(test.y), -1)
    places[rows] = np.arange(len(rows))
    assert test.sampled is not None and test.raw is not None
    held = np.flatnonzero(places[test.sampled] >= 0)
    weight, group = (None if a is None else a[rows] for a in (test.weight, test.group))
    return replace(
        test, X=test.X[rows], y=test.y[rows], kept=test.kept.take(pa.array(rows)), weight=weight, group=group,
        sampled=places[test.sampled][held], raw=test.raw.take(pa.array(held)),
    )  # fmt: skip


def notes(train: Filled, encoder: Encoder) -> tuple[str, ...]:
    """What a person should know: columns without a value or with one only, more columns than rows, a rare class."""
    told = []
    for column, low, high, nulls in zip(encoder.columns, train.low, train.high, train.nulls, strict=True):
        if nulls == len(train):
            told.append(f"{column.name} has no value in any training row")
        elif low == high and not nulls:
            told.append(f"{column.name} has one value only in all training rows")
    if train.X.shape[1] >= len(train):
        told.append(f"more columns ({train.X.shape[1]}) than training rows ({len(train)})")
    return tuple(told)


def _texts(session: Session, model: Model, rows: Rows, learnt: str) -> Mapping[str, list[str]]:
    """The values of the text columns among the training rows: categories come from those only."""
    from penstock.craft.learning import encoding

    wanted = encoding.text_columns(rows.schema, rows.columns)
    if not wanted:
        return {}
    own = {f for f in model.features if isinstance(f, str)}
    found: dict[str, list[str]] = {}
    for columns, source in (([c for c in wanted if c in own], model.over), ([c for c in wanted if c not in own], rows.relation)):
        if columns:
            lists = ", ".join(f"list(DISTINCT {quote(c)}) FILTER (WHERE {quote(c)} IS NOT NULL)" for c in columns)
            values = session.rows(f"SELECT {lists} FROM {quote(source)} WHERE {learnt}")[0]
            found |= {c: [str(v) for v in listed or ()] for c, listed in zip(columns, values, strict=True)}
    return found


def _classes(session: Session, model: Model, rows: Rows, learnt: str, place: str) -> tuple[str, ...]:
    """Labels of the training rows in order. Raises: DefinitionError(E1001) if there is only one, or too many."""
    from penstock.craft.learning.encoding import MOST_CATEGORIES

    label, kind = quote(model.label), rows.schema.field(model.label).type.name
    if model.kind == "binary":
        if kind not in ("boolean", "int", "long"):
            raise DefinitionError(
                "a label is true or false", place=f"{model.over}[{model.label}]", expected="boolean", got=kind,
                hint='other labels need kind="multiclass" or kind="regression"',
            )  # fmt: skip
        sides = [bool(v) for (v,) in session.rows(f"SELECT DISTINCT CAST({label} AS BOOLEAN) FROM {quote(model.over)} WHERE {learnt}")]
        if len(sides) < 2:
            raise DefinitionError(
                "the training rows have one class only", place=f"{model.over}[{model.label}]", expected="true and false",
                got=str(sides[0]).lower(), hint="learn from more rows, or another split",
            )  # fmt: skip
        return ()
    if model.kind != "multiclass":
        return ()
    found = sorted({_class_text(v) for (v,) in session.rows(f"SELECT DISTINCT {label} FROM {quote(model.over)} WHERE {learnt}")})
    if not 2 <= len(found) <= MOST_CATEGORIES:
        raise DefinitionError(
            "a multiclass model learns from two classes or more", place=f"{model.over}[{model.label}]",
            expected=f"2 to {MOST_CATEGORIES}", got=len(found),
        )  # fmt: skip
    return tuple(found)


def _class_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split_step(division: Division) -> Step:
    filtered = {"no label": division.total - division.labelled} if division.total > division.labelled else {}
    if division.labelled > division.usable:
        filtered["no time"] = division.labelled - division.usable
    return Step("split", division.total, division.usable, filtered=filtered)
