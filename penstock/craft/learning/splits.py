"""Splits: which rows are for learning and which for testing, and folds of those for learning.

Groups and rows are divided by a digest of their text: the MD5 digest, in hexadecimal, of the value cast to text (of several key
columns: their texts with `|` between them). A row is for testing if that digest comes before a bound, compared as text. So the
same value is on the same side in every run, whatever other rows there are, and in every engine that writes the value alike, as
all do for texts, whole numbers, dates and decimals; floats, and moments with a zone, have no such text.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from penstock.ground.clock import from_iso
from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.spec.models import ByGroup, ByRatio, ByTime, Kind, Split
from penstock.spec.spans import span

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

#: Up to so many groups folds are balanced one group after the other; more of them balance themselves.
BALANCED_GROUPS = 20_000


def test_condition(split: Split, *, newest: datetime | None, key: Sequence[str], time: str) -> str:
    """An SQL condition that is true for the rows of the test set and false for the others.

    It is null for the rows of `no_side_condition`, which are on neither side.

    Args:    newest: the newest row's moment, None if no row has one; only a split by time needs it.
             key: columns of the row key; only a split by ratio needs it. For a ranking the column of its queries, which stay
             whole then.
             time: the column of the row's moment; only a split by time needs it.
    Raises:  DefinitionError(E1001) for a split by time without `newest` and `time`, or by ratio without a key; see `boundary`.
    """
    if isinstance(split, ByTime):
        if newest is None or not time:
            raise DefinitionError("a split by time needs rows with a moment", place=f"by_time(test={split.test!r})", got="none")
        first = boundary(split, newest)
        return f"{quote(time)} >= CAST('{first.isoformat()}' AS {'TIMESTAMPTZ' if first.tzinfo else 'TIMESTAMP'})"
    if isinstance(split, ByRatio) and not key:
        raise DefinitionError("a split by ratio needs the key of its rows", place=f"by_ratio(test={split.test:g})", hint="declare the key")
    columns = (split.column,) if isinstance(split, ByGroup) else tuple(key)
    text = " || '|' || ".join(f"CAST({quote(c)} AS VARCHAR)" for c in columns)
    return f"md5({text}) < '{bound(split.test)}'"


def no_side_condition(split: Split, *, key: Sequence[str] = (), time: str = "") -> str:
    """An SQL condition that is true for rows which are on neither side, for lack of a moment, group or key."""
    columns = (time,) if isinstance(split, ByTime) else (split.column,) if isinstance(split, ByGroup) else tuple(key)
    return " OR ".join(f"{quote(c)} IS NULL" for c in columns)


def require_sides(split: Split, rows: int) -> None:
    """Nothing, if no row is on neither side; rows without a moment are another matter, which the caller counts.

    Raises: DefinitionError(E1001) if there are such rows of a split by group or ratio.
    """
    if rows and not isinstance(split, ByTime):
        what = f"by_group({split.column!r})" if isinstance(split, ByGroup) else f"by_ratio(test={split.test:g})"
        hint = "leave such rows out in the table before, or split by another column"
        raise DefinitionError(
            "rows are on neither side of the split", place=what, expected="a value per row", got=f"{rows} nulls", hint=hint
        )


def bound(share: float) -> str:
    """The digest before which this share of all digests comes; 32 hexadecimal characters."""
    return f"{min(round(share * 2**128), 2**128 - 1):032x}"


def side(text: str, share: float) -> bool:
    """Whether a value with this text is for testing: what `test_condition` says in SQL."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() < bound(share)


def boundary(split: ByTime, newest: datetime) -> datetime:
    """The first moment of the test set: rows at or after it are for testing, rows before it for learning.

    A span or a number of months is counted back from the newest row; a month back is the same day and time of the month
    before, or that month's last day where it is shorter. A moment stands for itself.

    Units:   UTC; a moment without zone is UTC, and the result has a zone exactly if `newest` has one.
    Raises:  DefinitionError(E1001) for a text that is none of the three, or a moment after the newest row.
    """
    at = newest.replace(tzinfo=UTC) if newest.tzinfo is None else newest.astimezone(UTC)
    first = _first(split.test, at)
    if first > at:
        raise DefinitionError("the test set is empty", place=f"by_time(test={split.test!r})", expected=f"a moment up to {at}", got=first)
    return first.replace(tzinfo=None) if newest.tzinfo is None else first


def _first(test: str, newest: datetime) -> datetime:
    parts = test.split()
    if len(parts) == 2 and parts[1].rstrip("s") == "month" and parts[0].isdigit():
        return months_before(newest, int(parts[0]))
    if test[4:5] != "-":
        return newest - span(test)
    try:
        return from_iso(test)
    except ValueError as error:
        raise DefinitionError("not a moment", place=f"by_time(test={test!r})", expected="such as 2013-12-01", got=test) from error


def months_before(moment: datetime, months: int) -> datetime:
    """The same day and time so many calendar months earlier, or the month's last day where it is shorter."""
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


# -- folds ----------------------------------------------------------------------------------------------------------
def folds(
    split: Split,
    k: int,
    *,
    kind: Kind,
    y: NDArray[Any],
    key: pa.Table | None = None,
    time: pa.ChunkedArray | NDArray[Any] | None = None,
    group: pa.ChunkedArray | NDArray[Any] | None = None,
    queries: NDArray[Any] | None = None,
) -> NDArray[np.int8]:
    """The fold in which each training row is validated, -1 for never; `learning_rows` says which rows to learn from then.

    By time: windows that grow. Rows are cut by their moments into k + 1 blocks of about equal count, no moment in two of them; the
    oldest is never validated. By group: whole groups, balanced by rows and classes where there are few groups, else by digest.
    By ratio: by digest, of each class the same share, so that a rare class is in every fold where it has k rows. The rows of a
    query are never in two folds; in windows they go with the newest of them.

    The same rows have the same folds in any order, but for groups of equal size and classes.

    Shapes:  all arguments (n rows) -> (n rows) int8.
    Cost:    about a microsecond per row for digests by key.
    Args:    k: folds, 2 to 127.
             y: labels of the rows.
             key: key columns of the rows, for a split by ratio.
             time: moments of the rows, for a split by time.
             group: values, or codes, of the split's column, for a split by group.
             queries: codes of the queries of a ranking, which needs them.
    Raises:  DefinitionError(E1001) if there are fewer rows, moments, groups or queries than folds, or a needed value is null.
    """
    if not 2 <= k <= 127:
        raise DefinitionError("not a number of folds", expected="2 to 127", got=k)
    if (kind == "ranking") != (queries is not None):
        raise DefinitionError("a ranking has queries, other kinds have none", place="folds(queries=...)", got=kind)
    if isinstance(split, ByTime):
        if time is None:
            raise DefinitionError("folds by time need the moments of the rows", got="none")
        return _windows(_moments(time), k, queries)
    classes = y if kind in ("binary", "multiclass") else None
    if isinstance(split, ByGroup):
        if group is None:
            raise DefinitionError("folds by group need the groups of the rows", place=split.column, got="none")
        codes, digests = _coded(group, split.column)
        found = _whole(codes, digests, k, classes)
        if queries is not None and _cut(queries, found):
            raise DefinitionError("a query is in two groups of the split", place=split.column, hint="split by the column of the queries")
        return found
    if queries is not None:
        codes, digests = _coded(queries, "query")
        return _whole(codes, digests, k, classes)
    if key is None or not key.num_columns:
        raise DefinitionError("folds by ratio need the keys of the rows", got="none")
    return _dealt(_digests(_texts(key)), k, classes)


def learning_rows(split: Split, folds: NDArray[np.int8], fold: int) -> NDArray[np.bool_]:
    """The rows to learn from when a fold is validated: those before it in windows, all others else."""
    return folds < fold if isinstance(split, ByTime) else folds != fold


def _cut(queries: NDArray[Any], fold_of: NDArray[np.int8]) -> bool:
    import numpy as np

    codes = np.unique(queries, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return len(np.unique(codes * 128 + fold_of)) > len(np.unique(codes))


def _moments(time: pa.ChunkedArray | NDArray[Any]) -> NDArray[np.int64]:
    import numpy as np

    found = time if isinstance(time, np.ndarray) else time.to_numpy()
    if found.dtype.kind == "M" and (unknown := int(np.isnat(found).sum())):
        raise DefinitionError("a row without a moment is in no fold", got=f"{unknown} rows")
    return found.astype("datetime64[us]").astype(np.int64) if found.dtype.kind == "M" else found


def _windows(moments: NDArray[np.int64], k: int, queries: NDArray[Any] | None) -> NDArray[np.int8]:
    import numpy as np

    if queries is not None:
        _, codes = np.unique(queries, return_inverse=True)
        codes = codes.reshape(-1)
        newest = np.full(int(codes.max(initial=-1)) + 1, moments.min() if len(moments) else 0, dtype=moments.dtype)
        np.maximum.at(newest, codes, moments)
        moments = newest[codes]
    levels, level, counts = np.unique(moments, return_inverse=True, return_counts=True)
    if len(levels) < k + 1:
        raise DefinitionError("too few moments for the folds", expected=f"{k + 1} or more", got=len(levels), hint="ask for fewer folds")
    before = np.cumsum(counts) - counts
    nth = np.arange(k)
    cuts = np.maximum(np.searchsorted(before, (nth + 1) * len(moments) / (k + 1)), 1)
    cuts = np.minimum(np.maximum.accumulate(cuts - nth) + nth, len(levels) - k + nth)
    return (np.searchsorted(cuts, level.reshape(-1), side="right") - 1).astype(np.int8)


def _whole(codes: NDArray[np.int64], digests: NDArray[np.uint64], k: int, classes: NDArray[Any] | None) -> NDArray[np.int8]:
    """Whole groups in folds."""
    import numpy as np

    if len(digests) < k:
        raise DefinitionError("too few groups for the folds", expected=f"{k} or more", got=len(digests), hint="ask for fewer folds")
    if len(digests) > BALANCED_GROUPS:
        return _places(digests, k)[codes]
    label = np.zeros(len(codes), dtype=np.int64) if classes is None else np.unique(classes, return_inverse=True)[1].reshape(-1)
    width = int(label.max(initial=0)) + 1
    held = np.bincount(codes * width + label, minlength=len(digests) * width).reshape(len(digests), width)
    share = held / np.maximum(held.sum(axis=0), 1)
    fold_of: NDArray[np.int8] = np.zeros(len(digests), dtype=np.int8)
    full = np.zeros((k, width))
    groups_in = np.zeros(k)
    for g in np.lexsort((digests, -share.max(axis=1))):
        level = ((full + share[g]) ** 2).sum(axis=1) - (full**2).sum(axis=1)
        fold_of[g] = np.lexsort((groups_in, np.round(level, 12)))[0]
        full[fold_of[g]] += share[g]
        groups_in[fold_of[g]] += 1
    for fold in np.flatnonzero(groups_in == 0):
        crowded = int(np.argmax(groups_in))
        moved = np.flatnonzero(fold_of == crowded)[-1]
        fold_of[moved] = fold
        groups_in[fold], groups_in[crowded] = 1, groups_in[crowded] - 1
    return fold_of[codes]


def _dealt(digests: NDArray[np.uint64], k: int, classes: NDArray[Any] | None) -> NDArray[np.int8]:
    """Rows of each class dealt to the folds in the order of their digests, one class beginning where the last ended."""
    import numpy as np

    if len(digests) < k:
        raise DefinitionError("too few rows for the folds", expected=f"{k} or more", got=len(digests), hint="ask for fewer folds")
    label = np.zeros(len(digests), dtype=np.int64) if classes is None else np.unique(classes, return_inverse=True)[1].reshape(-1)
    fold_of: NDArray[np.int8] = np.empty(len(digests), dtype=np.int8)
    fold_of[np.lexsort((digests, label))] = np.arange(len(digests)) % k
    return fold_of


def _places(digests: NDArray[np.uint64], k: int) -> NDArray[np.int8]:
    import numpy as np

    place: NDArray[np.int8] = np.empty(len(digests), dtype=np.int8)
    place[np.argsort(digests, kind="stable")] = np.arange(len(digests)) % k
    return place


def _coded(values: pa.ChunkedArray | NDArray[Any], name: str) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Codes of values, and the digest of each."""
    import numpy as np
    import pyarrow as pa

    whole = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values)])
    if whole.null_count:
        raise DefinitionError(
            "a row without a group is in no fold", place=name, expected="a value per row", got=f"{whole.null_count} nulls"
        )
    coded = whole.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0) if coded.num_chunks else pa.array([], whole.type).dictionary_encode()
    texts = coded.dictionary.cast(pa.string()).to_pylist()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), _digests(texts)


def _texts(key: pa.Table) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = sum(column.null_count for column in key.columns)
    if nulls:
        raise DefinitionError("a row without a key is in no fold", place=", ".join(key.column_names), got=f"{nulls} nulls")
    columns = [column.cast(pa.string()) for column in key.columns]
    return list(pc.binary_join_element_wise(*columns, "|").to_pylist())


def _digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Digests apart from those that chose the test set: their last 64 bits."""
    import numpy as np

    md5 = hashlib.md5
    return np.fromiter(
        (int.from_bytes(md5(t.encode(), usedforsecurity=False).digest()[8:], "big") for t in texts), dtype=np.uint64, count=len(texts)
    )
