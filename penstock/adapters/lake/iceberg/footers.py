"""Iceberg's statistics of a data file, from its Parquet footer.

pyiceberg can do this too, and a test compares the two; but its function lives where importing it takes seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.conversions import to_bytes
from pyiceberg.types import BinaryType, DecimalType, PrimitiveType, StringType
from pyiceberg.utils.decimal import unscaled_to_decimal
from pyiceberg.utils.truncate import truncate_upper_bound_binary_string, truncate_upper_bound_text_string

#: Bounds of texts and bytes are cut to this length. Source: Iceberg, `write.metadata.metrics.default`, truncate(16).
_CUT = 16


def statistics(footer: pq.FileMetaData, leaves: Sequence[int], kinds: dict[int, PrimitiveType]) -> dict[str, Any]:
    """What a manifest keeps of a file, by field id.

    Args: leaves: field ids of the file's leaf columns, in order. kinds: types of the columns that get bounds, those not nested.
    """
    sizes: dict[int, int] = defaultdict(int)
    values: dict[int, int] = defaultdict(int)
    nulls: dict[int, int] = defaultdict(int)
    without: set[int] = set()
    seen: dict[int, list[pq.Statistics]] = defaultdict(list)
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        for at, number in enumerate(leaves):
            chunk = group.column(at)
            sizes[number] += chunk.total_compressed_size
            values[number] += chunk.num_values
            found = chunk.statistics if chunk.is_stats_set else None
            if found is None or not found.has_null_count:
                without.add(number)
            else:
                nulls[number] += found.null_count
                if found.has_min_max or found.null_count < chunk.num_values:
                    seen[number].append(found)
    lower, upper = _bounds(seen, kinds)
    return {
        "record_count": footer.num_rows,
        "column_sizes": dict(sizes),
        "value_counts": dict(values),
        "null_value_counts": {number: count for number, count in nulls.items() if number not in without},
        "nan_value_counts": {},
        "lower_bounds": {number: bound for number, bound in lower.items() if number not in without},
        "upper_bounds": {number: bound for number, bound in upper.items() if number not in without},
        "split_offsets": sorted(_start(footer.row_group(i).column(0)) for i in range(footer.num_row_groups)),
    }


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    offsets = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.has_dictionary_page else [])]
    return int(min(offsets))


def _bounds(seen: dict[int, list[pq.Statistics]], kinds: dict[int, PrimitiveType]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Lower and upper bounds of columns whose row groups all tell theirs; one that does not (NaN) leaves the column without."""
    lower: dict[int, bytes] = {}
    upper: dict[int, bytes] = {}
    for number, kind in kinds.items():
        found = seen.get(number, [])
        if not found or not all(s.has_min_max for s in found):
            continue
        lower[number] = _encoded(kind, min(_values(kind, found, "min")), upwards=False) or b""
        if (above := _encoded(kind, max(_values(kind, found, "max")), upwards=True)) is not None:
            upper[number] = above
    return lower, upper


def _values(kind: PrimitiveType, found: Iterable[pq.Statistics], end: str) -> list[Any]:
    if isinstance(kind, DecimalType):
        return [_decimal(kind, s, end) for s in found]
    return [getattr(s, end) for s in found]


def _decimal(kind: DecimalType, found: pq.Statistics, end: str) -> Any:
    raw = getattr(found, f"{end}_raw")
    return unscaled_to_decimal(raw, kind.scale) if isinstance(raw, int) else getattr(found, end)


def _encoded(kind: PrimitiveType, value: Any, *, upwards: bool) -> bytes | None:
    """A bound as Iceberg writes it; None if there is none above a text that must be cut."""
    if isinstance(kind, StringType | BinaryType):
        if not upwards:
            value = value[:_CUT]
        elif isinstance(kind, StringType):
            value = truncate_upper_bound_text_string(value, _CUT)
        else:
            value = truncate_upper_bound_binary_string(value, _CUT)
    return None if value is None else to_bytes(kind, value)
