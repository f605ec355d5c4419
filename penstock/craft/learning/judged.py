"""Columns judged beside each other: what each tells alone, what those that are not suspected tell together, and the rules between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.random import default_rng

from penstock.craft.learning import copies, own_label
from penstock.craft.learning.findings import SHOWN, Finding, Place
from penstock.craft.learning.findings import Kind as Leak
from penstock.craft.learning.telling import (
    Flags,
    Floats,
    Ints,
    Rest,
    Target,
    View,
    bins,
    coded_texts,
    halves,
    means,
    numbers,
    of_numbers,
    rest,
    sort_of,
    told,
    told_onward,
    views,
)
from penstock.spec.models import Kind

#: Told from here on a column is suspected and not counted among the rest; of classes, of a number.
SUSPECT = {True: 0.6, False: 0.9}
#: Columns that may be suspected for what they tell; where more tell as much, they are measures of one honest thing.
MOST_SUSPECTS = 3
#: Told from here on a column alone is implausible, if the rest is far behind; of classes, of a number.
#: A class told by an honest number of AUC 0.97 is told by 0.7, of AUC 0.99 by 0.85; a number by its own last value by 0.95.
IMPLAUSIBLE = {True: 0.85, False: 0.985}
#: What a suspected column may leave of what the rest leaves, and what the rest may tell at most.
LEFT, MOST_REST, MOST_REST_EXACT = 0.35, 0.8, 0.9
#: Values that stand for one class: purity, rows, their share of the class, the class's share, what the rest may give it there.
PURE, PURE_ROWS, PURE_COVER, PURE_SHARE, PURE_REST = 0.995, 30, 0.25, 0.6, 0.8
#: A number of so few values has values of their own.
FEW_VALUES = 3
#: Whether a column is null tells so much and leaves so much of what the rest leaves.
TELLING_NULLS, LEFT_BY_NULLS = 0.5, 0.6
#: An identifier tells so much, and so much more than the row's own time; of classes, of a number.
TELLING_ID, BEYOND_TIME, LEFT_BY_ID = {True: 0.25, False: 0.4}, 0.2, 0.75
#: Moments after the row's time: share of the known ones, and what their distance tells.
LATER, TELLING_DISTANCE = 0.05, 0.25
#: A column tells the sides apart, and the label.
TELLING_SIDE, TELLING_BOTH = 0.97, 0.3
#: Training rows held out are told so well, and test rows at most so much of that; rows on each side.
BY_HEART, HONEST_PART, LEAST_BY_HEART = 0.35, 0.6, 200
#: Pairs that are said at most.
MOST_PAIRS = 5


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows of both sides, one after the other.

    Attributes:
        table: (n rows).
        numbers: (n) each row's number on its side.
        train: how many of them are training rows; they come first.
        of: their labels.
        at: the column of the rows' own times.
        columns: the columns to judge.
    """

    table: pa.Table
    numbers: Ints
    train: int
    of: Target
    kind: Kind
    at: str | None
    group: str | None
    columns: tuple[str, ...]
    seed: int

    def few(self, most: int) -> Rows:
        """At most so many rows, chosen by the seed, in the same order."""
        if len(self.of) <= most:
            return self
        chosen = np.sort(default_rng(self.seed).permutation(len(self.of))[:most])
        train = int(np.searchsorted(chosen, self.train))
        table, of = self.table.take(pa.array(chosen)), self.of.taken(chosen)
        return Rows(table, self.numbers[chosen], train, of, self.kind, self.at, self.group, self.columns, self.seed)

    def places(self, rows: Flags | Ints) -> tuple[Place, ...]:
        """Up to 20 of these rows, half of them of the test set where both sides have some."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        train, test = chosen[chosen < self.train], chosen[chosen >= self.train]
        shown_test = test[: max(SHOWN // 2, SHOWN - len(train))]
        shown = (*train[: SHOWN - len(shown_test)], *shown_test)
        return tuple(("train" if row < self.train else "test", int(self.numbers[row])) for row in shown)

    @cached_property
    def times(self) -> Floats | None:
        return numbers(self.table.column(self.at)) if self.at else None


@dataclass(frozen=True, eq=False)
class Seen:
    """A view with what it tells of the label."""

    view: View
    told: float


@dataclass(frozen=True, eq=False)
class Judged:
    """Columns of some rows, each seen in all its ways."""

    rows: Rows

    @property
    def of(self) -> Target:
        return self.rows.of

    @cached_property
    def half(self) -> Flags:
        return halves(len(self.of), self.rows.seed)

    @cached_property
    def seen(self) -> dict[str, list[Seen]]:
        """column -> its views, the plain one first."""
        return {name: [Seen(v, told(v.codes, self.of, self.half)) for v in self._views(name)] for name in self.rows.columns}

    def _views(self, name: str) -> Iterator[View]:
        column = self.rows.table.column(name)
        yield from views(name, column)
        if self.rows.kind == "ranking" and self.rows.group and sort_of(column.type) in ("number", "moment"):
            yield from of_numbers(
                name,
                _places(numbers(column), coded_texts(self.rows.table.column(self.rows.group).cast(pa.string())).codes),
                "place in its group",
            )

    @cached_property
    def numeric(self) -> dict[str, Floats]:
        """Numbers, flags and moments as float64."""
        table = self.rows.table
        return {n: numbers(table.column(n)) for n in self.rows.columns if sort_of(table.column(n).type) in ("number", "flag", "moment")}

    @cached_property
    def exact(self) -> dict[str, copies.Exact]:
        found = {name: copies.exact(values, self.of) for name, values in self.numeric.items()}
        return {name: way for name, way in found.items() if way is not None}

    @cached_property
    def suspects(self) -> frozenset[str]:
        """Columns that may be leaks, and so are not counted among the rest."""
        alone = {name: max((s.told for s in seen), default=0.0) for name, seen in self.seen.items()}
        exact = {name for name, way in self.exact.items() if way.dense}
        likely = [n for n in sorted(alone, key=lambda n: -alone[n]) if n in exact or alone[n] >= SUSPECT[self.of.of_classes]]
        nulls = {name for name, seen in self.seen.items() if any(s.view.how == "presence" and s.told >= TELLING_NULLS for s in seen)}
        pure = {
            name for name, seen in self.seen.items() if any(_pure(s.view, self.of, self.half) for s in seen if _of_values(s.view, self.of))
        }
        ids = {name for name in self.rows.columns if self.identifies(name)}
        return frozenset({*likely[:MOST_SUSPECTS]} | nulls | pure | ids)

    def rest(self, *without: str) -> Rest:
        """What the columns that are not suspected tell, without some more."""
        left_out = self.suspects | set(without)
        if left_out == self.suspects:
            return self._rest
        return self._without(left_out)

    @cached_property
    def _rest(self) -> Rest:
        return self._without(self.suspects)

    def _without(self, left_out: frozenset[str] | set[str]) -> Rest:
        plain = [_plainest(seen).view for name, seen in self.seen.items() if name not in left_out and seen]
        return rest(plain, self.of, self.half, self.rows.seed)

    @cached_property
    def told_by_time(self) -> float:
        """What the rows' own time tells; 0 without one."""
        return told(bins(self.rows.times), self.of, self.half) if self.rows.times is not None else 0.0

    @cached_property
    def groups(self) -> dict[str, Ints]:
        """Columns by which rows come in groups, at most six, those of the most groups: codes from 1, 0 for null."""
        table, n, found = self.rows.table, len(self.of), {}
        for name in dict.fromkeys((*self.rows.columns, *filter(None, (self.rows.group,)))):
            kind = table.column(name).type
            if sort_of(kind) == "text" or pa.types.is_integer(kind):
                codes = coded_texts(table.column(name).cast(pa.string())).codes + 1
                if own_label.LEAST_GROUPS <= len(np.unique(codes)) <= n // 2:
                    found[name] = codes
        return dict(sorted(found.items(), key=lambda item: -len(np.unique(item[1])))[:6])

    @cached_property
    def told_by_past(self) -> float:
        """What the label of the row before tells, in time order, of all rows or of a group's; 0 without times."""
        if self.rows.times is None:
            return 0.0
        y = self.of.codes + 1 if self.of.of_classes else bins(self.of.values)
        best = 0.0
        for group in (np.ones(len(y), np.int64), *self.groups.values()):
            order = np.lexsort((self.rows.times, group))
            before: Ints = np.zeros(len(y), np.int64)
            before[order[1:]] = np.where(np.diff(group[order]) == 0, y[order[:-1]], 0)
            best = max(best, told(before, self.of, self.half))
        return best

    def identifies(self, name: str) -> bool:
        """Whether a column numbers the rows: whole numbers that are all different and lie close, or texts that are all different."""
        column = self.rows.table.column(name)
        if (sort := sort_of(column.type)) == "text":
            codes = coded_texts(column).codes
            return len(np.unique(codes)) >= 0.98 * len(codes) and _short(column)
        if sort != "number" or not (values := self.numeric[name]).size or not np.isfinite(values).all():
            return False
        named = name.lower() in ("id", "rowid", "row_id", "index", "row_number") or name.lower().endswith("_id")
        unique = len(np.unique(values)) >= (0.98 if named else 1) * len(values)
        return bool(unique and np.all(values == np.round(values)) and (named or np.ptp(values) < 5 * len(values)))

    def finding(self, kind: Leak, columns: tuple[str, ...], strength: float, reason: str, rows: Flags | Ints) -> Finding:
        return Finding(kind, columns, round(float(strength), 4), reason, self.rows.places(rows))

    def right(self, view: View) -> Flags:
        """Rows whose label the view all but gives."""
        guess = means(view.codes, self.of.Y, int(view.codes.max()) + 1)[view.codes]
        return np.abs(self.of.Y - guess).max(1) < 0.1


def beyond(alone: float, rest: float, left: float = LEFT, most: float = MOST_REST) -> bool:
    """Whether a column leaves so little, beside what the rest leaves, that it is another kind of column."""
    return rest <= most and 1 - alone <= left * (1 - rest)


def _plainest(seen: list[Seen]) -> Seen:
    return seen[0] if not seen[0].view.how else max(seen, key=lambda s: s.told)


def _places(values: Floats, group: Ints) -> Floats:
    """Each value's place within its group, in [0, 1]."""
    order = np.lexsort((values, group))
    starts = np.flatnonzero(np.append(True, np.diff(group[order]) != 0))
    sizes: Ints = np.diff(np.append(starts, len(order)))
    places = np.empty(len(values))
    places[order] = (np.arange(len(order)) - np.repeat(starts, sizes)) / np.repeat(np.maximum(1, sizes - 1), sizes)
    return places


def _short(column: pa.ChunkedArray) -> bool:
    """Texts of one word: names of things rather than notes."""
    return all(" " not in str(text) for text in column.slice(0, 50).to_pylist() if text is not None)


# -- copies ---------------------------------------------------------------------------------------------------------
def copied(judged: Judged) -> Iterator[Finding]:
    """Columns that the label is an exact function of.

    A threshold counts only if values lie dense on both sides of it: classes that lie apart in honest measures (petals of two kinds
    of iris) leave a gap. A set of values, or a threshold with a gap, counts only if the rest does not tell the label as well.
    """
    for name, way in judged.exact.items():
        if way.dense and (not judged.of.of_classes or judged.rest().told <= MOST_REST_EXACT):
            yield judged.finding("copy", (name,), way.rows.mean(), f"{way.text}, in {int(way.rows.sum()):,} rows", way.rows)
    for name, seen in judged.seen.items():
        for one in seen:
            view = one.view
            if (
                not judged.of.of_classes
                or one.told < 0.9
                or len(np.unique(view.codes)) > max(2, len(judged.of) // 20)
                or view.how == "presence"
            ):
                continue
            if view.graded and len(np.unique(judged.numeric.get(name, np.arange(99)))) > 15:
                continue
            table: Ints = np.zeros((int(view.codes.max()) + 1, len(judged.of.names)), np.int64)
            np.add.at(table, (view.codes, judged.of.codes), 1)
            counts = table.sum(0)[table.sum(0) > 0]
            wrong = len(judged.of) - int(table.max(1).sum())
            if (
                counts.min() >= copies.LEAST_MINORITY
                and wrong <= copies.EXCEPTIONS * counts.min()
                and judged.rest().told <= MOST_REST_EXACT
            ):
                reason = f"each value of {view.text} stands for one label, but for {wrong} of {len(judged.of):,} rows"
                yield judged.finding("copy", (name,), 1 - wrong / len(judged.of), reason, judged.right(view))
                break


def paired(judged: Judged) -> Iterator[Finding]:
    """Pairs of columns whose difference, sum, ratio, product or equality is the label. Neither alone needs to tell much."""
    table, order = judged.rows.table, default_rng(judged.rows.seed + 2).permutation(len(judged.of))
    sorts = {name: (sort_of(table.column(name).type), values) for name, values in judged.numeric.items()}
    several = {name: pair for name, pair in sorts.items() if len(np.unique(pair[1])) > 15}
    texts = {n: coded_texts(table.column(n)) for n in judged.rows.columns if sort_of(table.column(n).type) == "text"}
    flagged: list[Finding] = []
    for pair, how, way in (*copies.pairs(several, judged.of, order), *copies.equal_texts(texts, judged.of)):
        if len(flagged) >= MOST_PAIRS:
            break
        others = judged.rest(*pair)
        if others.told <= MOST_REST_EXACT:
            reason = (
                f"by the {how} of {pair[0]} and {pair[1]}: {way.text}, in {int(way.rows.sum()):,} rows; the rest tells {others.told:.0%}"
            )
            flagged.append(judged.finding("pair", pair, way.rows.mean(), reason, way.rows))
    yield from flagged


# -- one column -----------------------------------------------------------------------------------------------------
def powerful(judged: Judged) -> Iterator[Finding]:
    """Columns that take away nearly all uncertainty while the rest takes away little, or whose values stand for one class."""
    for name, seen in judged.seen.items():
        best = max(seen, key=lambda s: s.told, default=None)
        if best is None or name not in judged.suspects:
            continue
        if best.told >= IMPLAUSIBLE[judged.of.of_classes] and beyond(best.told, max(judged.rest().told, judged.told_by_past)):
            reason = f"{best.view.text} alone takes away {best.told:.0%} of the label's uncertainty, all columns not suspected {judged.rest().told:.0%}"
            yield judged.finding("power", (name,), best.told, reason, judged.right(best.view))
            continue
        for one in seen:
            if one.view.how != "presence" and (pure := _implausibly_pure(judged, one.view)) is not None:
                yield judged.finding("power", (name,), pure.cover, pure.reason(one.view), pure.rows)
                break


def present(judged: Judged) -> Iterator[Finding]:
    """Columns of which it tells the label whether they are null.

    Honest nulls follow the label too, but leave most of it open. Said if nulls take away half of the uncertainty and the rest is far
    behind; if they, or their absence, stand for one class that the rest does not see there; or if they part a number's most
    frequent value (such as no cost) from all others.
    """
    for name, seen in judged.seen.items():
        for one in seen:
            if one.view.how != "presence":
                continue
            if one.told >= TELLING_NULLS and beyond(one.told, judged.rest().told, LEFT_BY_NULLS):
                reason = f"whether {name} is null takes away {one.told:.0%} of the label's uncertainty, all columns not suspected {judged.rest().told:.0%}"
                yield judged.finding("presence", (name,), one.told, reason, one.view.codes == 2)
            elif (pure := _implausibly_pure(judged, one.view)) is not None:
                yield judged.finding("presence", (name,), pure.cover, pure.reason(one.view), pure.rows)
            elif not judged.of.of_classes and (parted := _parts(one.view.codes == 2, judged.of.values)) is not None:
                reason = f"{name} is null just where the label is {parted:g}"
                yield judged.finding("presence", (name,), 1.0, reason, one.view.codes == 2)


def _parts(null: Flags, y: Floats) -> float | None:
    """The label's most frequent value, if a column is null or known in those rows only."""
    values, counts = np.unique(y, return_counts=True)
    common = y == values[counts.argmax()]
    share = common.mean()
    return (
        float(values[counts.argmax()]) if 0.05 <= share <= 0.95 and max((null == common).mean(), (null != common).mean()) >= 0.998 else None
    )


@dataclass(frozen=True, eq=False)
class _Pure:
    """Values that stand for one class: their rows, and the share of the class they cover."""

    name: str
    code: int
    rows: Flags
    cover: float
    by_rest: float = 0.0

    def reason(self, view: View) -> str:
        return (
            f"{int(self.rows.sum()):,} rows, {self.cover:.0%} of those with label {self.name}, are told by {view.text} without doubt; "
            f"the rest gives that label {self.by_rest:.0%} there"
        )


def _of_values(view: View, of: Target) -> bool:
    """Whether a view is of values of their own; single values of a number are not, for whose tails honestly stand for a class."""
    if not of.of_classes or view.how.endswith("single values"):
        return False
    return len(np.unique(view.codes)) <= (FEW_VALUES if view.graded else max(2, len(of) // 20))


def _pure(view: View, of: Target, half: Flags) -> _Pure | None:
    """The class that some values stand for, chosen on one half of the rows and pure on the other too."""
    size = int(view.codes.max()) + 1
    share = of.Y.mean(0)
    for code in np.flatnonzero((share <= PURE_SHARE) & (share > 0)):
        y = of.Y[:, code]
        n, own = np.bincount(view.codes[half], minlength=size), np.bincount(view.codes[half], weights=y[half], minlength=size)
        chosen = (n >= 5) & (own >= PURE * n)
        rows = chosen[view.codes]
        if rows.sum() < PURE_ROWS or y[rows].mean() < PURE or y[rows & ~half].mean() < PURE:
            continue
        cover = float(y[rows].sum() / y.sum())
        if cover >= PURE_COVER:
            return _Pure(of.names[code], int(code), rows, cover)
    return None


def _implausibly_pure(judged: Judged, view: View) -> _Pure | None:
    """The same, if the rest does not see the class there."""
    if not _of_values(view, judged.of) or (pure := _pure(view, judged.of, judged.half)) is None:
        return None
    others = judged.rest()
    there = pure.rows[others.rows]
    by_rest = float(others.guess[there, pure.code].mean()) if there.any() else 0.0
    return _Pure(pure.name, pure.code, pure.rows, pure.cover, by_rest) if by_rest <= PURE_REST else None


def own_labelled(judged: Judged) -> Iterator[Finding]:
    """Columns that are aggregates of labels and count the row's own, over training rows or over all."""
    n, groups = len(judged.of), judged.groups
    found: dict[str, own_label.OwnLabel] = {}
    exact = judged.exact
    numeric = {name: x for name, x in judged.numeric.items() if name not in exact and name not in groups}
    for part in (slice(0, judged.rows.train), slice(0, n)):
        times = judged.rows.times[part] if judged.rows.times is not None else None
        asked = {name: x[part] for name, x in numeric.items() if name not in found}
        found |= dict(own_label.search(asked, {g: codes[part] for g, codes in groups.items()}, judged.of.taken(part), times))
    for name, way in found.items():
        strength = max((s.told for s in judged.seen[name]), default=0.0)
        yield judged.finding("own_label", (name,), strength, f"{name} counts the row's own label: {way.text}", np.arange(n))


def numbered_rows(judged: Judged) -> Iterator[Finding]:
    """Identifiers that tell the label, beyond what the row's own time and the rest tell: they were given in an order the outcome made."""
    for name in judged.rows.columns:
        if not judged.identifies(name):
            continue
        best = max(judged.seen[name], key=lambda s: s.told, default=None)
        if best is None or best.told < max(TELLING_ID[judged.of.of_classes], judged.told_by_time + BEYOND_TIME):
            continue
        if beyond(best.told, judged.rest().told, LEFT_BY_ID, MOST_REST):
            reason = f"{best.view.text} differs in every row and still takes away {best.told:.0%} of the label's uncertainty; the row's time {judged.told_by_time:.0%}"
            yield judged.finding("row_id", (name,), best.told, reason, judged.right(best.view))


def later(judged: Judged) -> Iterator[Finding]:
    """Moments after the row's own time whose distance from it tells the label. A plan that lies ahead tells far less."""
    at = judged.rows.times
    if at is None:
        return
    for name, values in judged.numeric.items():
        kind = judged.rows.table.column(name).type
        if name == judged.rows.at or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            continue
        ahead = values > at
        known = np.isfinite(values)
        if not known.any() or (share := float(ahead.sum() / known.sum())) < LATER:
            continue
        strength = told(bins(values - at), judged.of, judged.half)
        if strength >= TELLING_DISTANCE and beyond(strength, judged.rest(name).told, 0.9):
            reason = f"{name} lies after the row's time in {share:.0%} of the rows, and how far takes away {strength:.0%} of the label's uncertainty"
            yield judged.finding("time", (name,), strength, reason, ahead)


def siding(judged: Judged) -> Iterator[Finding]:
    """Columns, other than moments, that tell the two sides of the split apart and the label as well."""
    n, train = len(judged.of), judged.rows.train
    if not 0 < train < n:
        return
    side = (np.arange(n) >= train).astype(np.float64)
    sides = Target(side[:, None], (), np.zeros(n, np.int64), side)
    for name, seen in judged.seen.items():
        if sort_of(judged.rows.table.column(name).type) == "moment":
            continue
        for one in seen:
            if one.told < max(TELLING_BOTH, judged.told_by_time + BEYOND_TIME):
                continue
            if (apart := told(one.view.codes, sides, judged.half)) >= TELLING_SIDE:
                reason = f"{one.view.text} tells training rows from test rows ({apart:.0%}) and takes away {one.told:.0%} of the label's uncertainty"
                yield judged.finding("split", (name,), one.told, reason, np.arange(n))
                break


def learnt_by_heart(judged: Judged) -> Iterator[Finding]:
    """Columns that tell training rows far better than test rows, and did so to the last training row.

    So does a score of a model that had learnt the training labels. Where the world drifts, the newest training rows are told worse
    as well.
    """
    n, train = len(judged.of), judged.rows.train
    if not min(train, n - train) >= LEAST_BY_HEART:
        return
    rows = np.arange(n)
    whole = (rows < train, rows >= train)
    newest = (rows < train * 3 // 4, (rows >= train * 3 // 4) & (rows < train))
    for name, seen in judged.seen.items():
        for one in seen[:1]:
            if one.told < BY_HEART / 2:
                continue
            inside, outside = (told_onward(one.view.codes, judged.of, *sides) for sides in (newest, whole))
            by_luck = 3 * float(np.sqrt(1 / newest[1].sum() + 1 / (n - train)))
            if inside >= BY_HEART and outside <= min(HONEST_PART * inside, inside - by_luck):
                reason = f"{one.view.text} takes away {inside:.0%} of the label's uncertainty in training rows held out, and {outside:.0%} in test rows"
                yield judged.finding("power", (name,), inside, reason, judged.right(one.view) & whole[0])


RULES = (copied, own_labelled, present, numbered_rows, later, powerful, paired, siding, learnt_by_heart)
