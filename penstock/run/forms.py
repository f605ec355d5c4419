"""The forms in which a Python function gets its inputs and gives its rows. Arrow is the hub; libraries load when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from penstock.ground.errors import DefinitionError, DriverMissing, PenstockError, UserCodeError, did_you_mean
from penstock.ports.engine import Session
from penstock.ports.lake import Scan
from penstock.run.land import FILE_COLUMN


def polars_lazy(session: Session, name: str, scan: Scan | None) -> Any:
    """A LazyFrame; straight over the Parquet files where they all have today's columns, so that only what is used is read."""
    import polars

    if scan is not None and scan.files and all(f.schema_id is not None and not f.deletes for f in scan.files):
        written = {f.schema_id for f in scan.files}
        if all(scan.schemas.get(i or 0) == scan.schema for i in written):
            visible = [f.name for f in scan.schema if f.name != FILE_COLUMN]
            return polars.scan_parquet([f.path for f in scan.files], glob=False).select(visible)
    return polars_eager(session, name, scan).lazy()


def polars_eager(session: Session, name: str, scan: Scan | None) -> Any:
    import polars

    return polars.from_arrow(arrow_table(session, name, scan))


def arrow_table(session: Session, name: str, scan: Scan | None) -> Any:
    return arrow_stream(session, name, scan).read_all()


def arrow_stream(session: Session, name: str, scan: Scan | None) -> Any:
    return session.read(f'SELECT * FROM "{name}"')


def pandas_frame(session: Session, name: str, scan: Scan | None) -> Any:
    return arrow_table(session, name, scan).to_pandas()


def duckdb_relation(session: Session, name: str, scan: Scan | None) -> Any:
    import duckdb

    return duckdb.connect().from_arrow(arrow_table(session, name, scan))


#: Annotation -> (library, how the input is made). Keys are the last two parts of the type's dotted name.
FORMS: Mapping[str, tuple[str, Callable[[Session, str, Scan | None], Any]]] = {
    "polars.LazyFrame": ("polars", polars_lazy),
    "polars.DataFrame": ("polars", polars_eager),
    "pyarrow.Table": ("pyarrow", arrow_table),
    "pyarrow.RecordBatchReader": ("pyarrow", arrow_stream),
    "pandas.DataFrame": ("pandas", pandas_frame),
    "duckdb.DuckDBPyRelation": ("duckdb", duckdb_relation),
}


def form_name(annotation: Any, function: Callable[..., Any]) -> str:
    """The key of FORMS that an annotation means.

    An annotation may be a type or a text; a text's first part is looked up among the function's globals (`pl` -> polars).

    Raises: DefinitionError(E1001) for anything else, listing the forms.
    """
    if isinstance(annotation, str):
        first, _, rest = annotation.strip("'\" ").partition(".")
        module = function.__globals__.get(first) if hasattr(function, "__globals__") else None
        if isinstance(module, type):
            return form_name(module, function)
        short = {"pl": "polars", "pa": "pyarrow", "pd": "pandas"}
        name = f"{getattr(module, '__name__', short.get(first, first))}.{rest}" if rest else first
    else:
        name = f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', annotation)}"
    key = f"{name.split('.')[0].lstrip('_')}.{name.split('.')[-1]}"
    if key not in FORMS:
        raise DefinitionError(
            "not a form in which rows can be given", place=f"{function.__name__}: {annotation}", expected=", ".join(FORMS), got=name
        )
    return key


def given(session: Session, name: str, scan: Scan | None, form: str) -> Any:
    """An input in the form asked for. Raises: DriverMissing(E7002)."""
    library, make = FORMS[form]
    try:
        return make(session, name, scan)
    except ImportError as error:
        raise DriverMissing(f"{library} is not installed", place=name, hint=f"pip install 'penstock[{library}]'") from error


def taken(result: Any, *, asset: str) -> Any:
    """What a function returned, as an Arrow table or stream.

    Takes polars frames, Arrow tables, batches and streams, pandas frames, DuckDB relations: anything with an Arrow stream.

    Raises: UserCodeError(E5001) for nothing or something without rows.
    """
    if result is None:
        raise UserCodeError("the function returned nothing", place=asset, hint="return the rows")
    try:
        rows = _rows(result)
    except Exception as error:  # a lazy frame runs the user's query only now; a frame may hold what no table can
        raise UserCodeError(f"the rows raised {type(error).__name__}: {error}", place=asset) from error
    if rows is not None:
        return rows
    raise UserCodeError(
        "the function did not return rows",
        place=asset,
        expected="ps.sql(...), a polars or pandas frame, an Arrow table or stream",
        got=type(result).__name__,
        hint=did_you_mean(type(result).__name__, [f.split(".")[1] for f in FORMS]),
    )


def _rows(result: Any) -> Any:
    """Rows in any form as an Arrow table or stream; None if they are no rows."""
    import pyarrow

    if type(result).__module__.startswith("polars") and hasattr(result, "collect"):
        result = result.collect()
    if type(result).__module__.startswith("pandas"):
        return pyarrow.Table.from_pandas(result, preserve_index=False)
    if isinstance(result, pyarrow.Table | pyarrow.RecordBatchReader):
        return result
    if isinstance(result, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([result])
    if hasattr(result, "__arrow_c_stream__"):
        return pyarrow.RecordBatchReader.from_stream(result)
    return None


def watched(rows: Any, *, asset: str) -> Any:
    """The same rows; what the user's code raises while a stream is read is told as its own error, UserCodeError(E5001)."""
    import pyarrow

    if not isinstance(rows, pyarrow.RecordBatchReader):
        return rows

    def batches() -> Iterator[Any]:
        try:
            yield from rows
        except PenstockError:
            raise
        except Exception as error:
            raise UserCodeError(f"the rows' stream raised {type(error).__name__}: {error}", place=asset) from error

    return pyarrow.RecordBatchReader.from_batches(rows.schema, batches())


def names_of(forms: Sequence[Any], function: Callable[..., Any]) -> tuple[str | None, ...]:
    """Per input the form asked for, None for a reference."""
    return tuple(form_name(f, function) if f is not None else None for f in forms)
