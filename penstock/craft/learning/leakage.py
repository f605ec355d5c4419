"""Leak detectors: columns that tell what nobody could know, and rows that stand on both sides of a split, from the rows alone.

Every rule is relative or exact, because strong honest columns are what everybody hopes for. A column is said to leak if it does
what no honest column does (equals the label, has no scatter where labels must scatter, lies after the row's own time), or if it
takes away nearly all uncertainty while all columns that are not suspected take away little. How often that finds planted leaks
and how often it is wrong on honest data is measured by `bench/contests/leaks.py`.

What cannot be found from rows alone: a leak that is no stronger than honest columns are; one that most columns share (then nothing
is weak beside it); one where the honest columns tell nearly all as well; a plan told from what then happened, if both lie after
the row's time and tell the label equally; the same entity under two names; a label that is wrong. And an honest column may look
like a leak: one that alone decides the label, by a rule of the business say, while all others tell nothing; `allow` is for it.
`run/leaks.py` looks at how columns are computed instead, and finds leaks of any strength there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from penstock.craft.learning import overlap
from penstock.craft.learning.findings import KINDS, Finding, Sample, from_record
from penstock.craft.learning.judged import RULES, Judged, Rows, copied
from penstock.craft.learning.telling import Flags, Floats, Ints, bins, coded_texts, numbers, sort_of, target, told
from penstock.ground.errors import DefinitionError, did_you_mean
from penstock.spec.models import Kind

__all__ = ["KINDS", "Finding", "Sample", "detect", "from_record"]

#: Rows that columns are judged on at most, by chance of the seed. Duplicates, groups, keys and known times are looked at in all.
MOST_ROWS = 100_000
#: Labelled rows below which columns are not judged.
LEAST_ROWS = 100
#: An entity: values, rows a value, share of test rows seen in training, and how well its training rows tell its test rows.
ENTITIES, ROWS_AN_ENTITY, SEEN, TELLING_ENTITY = 20, 1.3, 0.2, 0.9


def detect(
    train: Sample,
    test: Sample,
    *,
    kind: Kind,
    label: str,
    columns: Sequence[str],
    group: str | None = None,
    key: Sequence[str] = (),
    times: Mapping[str, str | None] | None = None,
    allow: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Finding, ...]:
    """The leaks found, the surest kinds first; a column is named once, by the first kind that it shows.

    Shapes:  train (n rows) and test (m rows) with the same columns; rows without a label are left out.
    Cost:    O(columns x rows log rows); columns are judged on 100,000 rows at most, pairs of 40 numbers tried on 3,000.
    Order:   aggregates of the row's own label are looked for in the order of `at`, without it in the order of the rows.
    Args:    columns: raw feature columns, as they are before encoding.
             group: a column whose values must not stand on both sides.
             key: columns that identify a row.
             times: feature column -> the column that says when its joined value was known; None or missing: not told.
             allow: columns that may tell the label. They still count among the rest.
             seed: decides halves and samples; the same rows and seed give the same findings.
    Raises:  DefinitionError(E1001) for a column that is not there.
    """
    for sample in (train, test):
        for name in (label, *columns, *key, *filter(None, (group, sample.at, *(times or {}).values()))):
            if name not in sample.rows.column_names:
                raise DefinitionError("no such column", place=name, hint=did_you_mean(name, sample.rows.column_names))
    rows = labelled(train, test, kind, label, tuple(c for c in dict.fromkeys(columns) if c != label), group, seed)
    found: list[Finding] = []
    taken = set(allow)
    for finding in _all(rows, tuple(key), times or {}):
        if not taken & set(finding.columns):
            found.append(finding)
            taken |= set(finding.columns)
    return tuple(sorted(found, key=lambda f: (KINDS.index(f.kind), -f.strength, f.columns)))


def _all(rows: Rows, key: tuple[str, ...], times: Mapping[str, str | None]) -> Iterator[Finding]:
    yield from _known_later(rows, times)
    yield from _on_both_sides(rows, key)
    judged = Judged(rows.few(MOST_ROWS))
    if len(judged.of) < LEAST_ROWS or not judged.of.Y.std(0).any():
        return
    for rule in RULES:
        yield from rule(judged)
        if rule is copied:
            yield from _entities(judged, key)


def labelled(train: Sample, test: Sample, kind: Kind, label: str, columns: tuple[str, ...], group: str | None, seed: int) -> Rows:
    """The rows of both sides that have a label, as detectors look at them."""
    tables, row_numbers = [], []
    for sample in (train, test):
        known = np.flatnonzero(_has_label(sample.rows.column(label)))
        tables.append(sample.rows if len(known) == sample.rows.num_rows else sample.rows.take(pa.array(known)))
        row_numbers.append(known)
    whole = pa.concat_tables(tables, promote_options="permissive")
    plain = pa.table({name: _plain(whole.column(name)) for name in whole.column_names})
    at = train.at if train.at == test.at else None
    return Rows(plain, np.concatenate(row_numbers), len(row_numbers[0]), target(plain.column(label), kind), kind, at, group, columns, seed)


def _has_label(column: pa.ChunkedArray) -> Flags:
    known = column.is_valid().to_numpy().astype(bool)
    if pa.types.is_floating(column.type):
        known &= np.isfinite(column.to_numpy().astype(np.float64))
    return known


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


# -- times ----------------------------------------------------------------------------------------------------------
def _known_later(rows: Rows, times: Mapping[str, str | None]) -> Iterator[Finding]:
    """Columns whose value was known only after the row's own time, in one row or more."""
    if rows.times is None:
        return
    for name, known_at in times.items():
        if known_at is None or name not in rows.columns:
            continue
        late = numbers(rows.table.column(known_at)) > rows.times
        if late.any():
            reason = f"{name} was known only after the row's time in {int(late.sum()):,} of {len(late):,} rows"
            yield Finding("time", (name,), round(float(late.mean()), 4), reason, rows.places(late))


# -- both sides -----------------------------------------------------------------------------------------------------
def _on_both_sides(rows: Rows, key: tuple[str, ...]) -> Iterator[Finding]:
    """Keys, groups, entities and rows that stand in the training set and in the test set."""
    if not 0 < rows.train < len(rows.of):
        return
    codes = {name: _codes(rows.table.column(name)) for name in dict.fromkeys((*rows.columns, *key, *filter(None, (rows.group,))))}
    test = len(rows.of) - rows.train
    if key and (both := overlap.shared(overlap.several([codes[k] for k in key]), rows.train)) is not None:
        reason = f"{len(both.rows):,} of {test:,} test rows have a key that a training row has as well"
        yield Finding("key", key, round(both.share, 4), reason, rows.places(both.rows))
    if rows.group and (both := overlap.shared(codes[rows.group], rows.train)) is not None:
        reason = f"{len(both.rows):,} of {test:,} test rows are of a {rows.group} that training rows are of"
        yield Finding("group", (rows.group,), round(both.share, 4), reason, rows.places(both.rows))
    yield from _copied_rows(rows, key, codes)


def _copied_rows(rows: Rows, key: tuple[str, ...], codes: Mapping[str, Ints]) -> Iterator[Finding]:
    """Rows that are equal but for key, identifiers and moments; else rows whose numbers are nearly equal."""
    judged = Judged(rows)
    sorts = {name: sort_of(rows.table.column(name).type) for name in rows.columns}
    compared = [n for n in rows.columns if n not in key and sorts[n] not in ("moment", "other") and not judged.identifies(n)]
    values: dict[str, Floats | Ints] = {n: codes[n] if sorts[n] == "text" else judged.numeric[n] for n in compared}
    label = rows.of.values
    if len(values) > 1 and (both := overlap.duplicates(values, label, rows.train)) is not None:
        reason = (
            f"{len(both.rows):,} of {len(rows.of) - rows.train:,} test rows equal a training row in all {len(values)} columns and the label"
        )
        yield Finding("duplicate", (), round(both.share, 4), reason, rows.places(both.rows))
        return
    fine = {n: v for n, v in values.items() if sorts[n] == "number" and len(np.unique(v)) > 0.3 * len(v)}
    if (both := overlap.near(fine, rows.train, rows.seed)) is not None:
        reason = f"{both.share:.0%} of the test rows asked lie far nearer to a training row than chance leaves them, in {len(fine)} numbers"
        yield Finding("duplicate", (), round(both.share, 4), reason, rows.places(both.rows))


def _codes(column: pa.ChunkedArray) -> Ints:
    """Equal codes for equal values, from 1; 0 for null."""
    if sort_of(column.type) == "other":
        return np.zeros(len(column), np.int64)
    if sort_of(column.type) == "text":
        return coded_texts(column).codes + 1
    values = numbers(column)
    _, place = np.unique(values, return_inverse=True)
    return np.where(np.isnan(values), 0, place + 1)


def _entities(judged: Judged, key: tuple[str, ...]) -> Iterator[Finding]:
    """Texts or whole numbers of many values, each with a few rows on both sides, whose training rows tell its test rows.

    A whole number that tells as much by its order is a measure, and left to the other rules.
    """
    rows = judged.rows
    for name in dict.fromkeys((*rows.columns, *key)):
        kind = rows.table.column(name).type
        if name == rows.group or not (sort_of(kind) == "text" or pa.types.is_integer(kind)):
            continue
        codes = _codes(rows.table.column(name))
        entities = len(np.unique(codes[codes > 0]))
        if not max(ENTITIES, len(codes) / 1000) <= entities <= len(codes) / ROWS_AN_ENTITY:
            continue
        both = overlap.shared(codes, rows.train)
        if both is None or both.share < SEEN or (telling := _told_by_entity(rows, codes, both.rows)) < TELLING_ENTITY:
            continue
        if pa.types.is_integer(kind) and told(bins(numbers(rows.table.column(name))), rows.of, judged.half) > telling / 2:
            continue
        reason = (
            f"{both.share:.0%} of the test rows are of a {name} that training rows are of, whose labels take away {telling:.0%} of theirs"
        )
        yield Finding("group", (name,), round(telling, 4), reason, rows.places(both.rows))


def _told_by_entity(rows: Rows, codes: Ints, seen: Ints) -> float:
    """The share of uncertainty of these test rows that the mean label of their entity's training rows takes away."""
    size = int(codes.max()) + 1
    n = np.bincount(codes[: rows.train], minlength=size)
    sums = np.stack([np.bincount(codes[: rows.train], weights=y[: rows.train], minlength=size) for y in rows.of.Y.T], axis=1)
    guess = sums[codes[seen]] / n[codes[seen]][:, None]
    of = rows.of.taken(seen)
    spread = float(((of.Y - rows.of.Y.mean(0)) ** 2).sum())
    return 1 - float(((of.Y - guess) ** 2).sum()) / spread if spread else 0.0
