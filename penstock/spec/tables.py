"""Tables: computed from other assets by SQL or Python, written in one of four ways, checked before readers see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.checks import Check
from penstock.spec.partitions import Partition
from penstock.spec.sources import names

Every = Literal["hour", "day", "month", "year"]


# -- ways to write --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Replace:
    """Each version is computed whole."""


@dataclass(frozen=True)
class Append:
    """New rows of input `of` (the first input if empty) are computed and added; the other inputs are read whole."""

    of: str = ""


@dataclass(frozen=True)
class Merge:
    """As Append, but of rows with the same key only the newest by `time` stays, whatever order they come in.

    Of rows with equal key and time the greatest in column order stays, so that the result does not depend on how the rows
    were split over runs.
    """

    of: str = ""


@dataclass(frozen=True)
class Slices:
    """The table is made of slices of its `time` column; only slices that changed rows of input `of` touch are computed again.

    `on` is the time column of that input (the table's own if empty). A change in slice s also touches the next `lookback`
    slices, for tables that look back over earlier rows.
    """

    every: Every = "month"
    of: str = ""
    on: str = ""
    lookback: int = 0


Write = Replace | Append | Merge | Slices


def replaced() -> Replace:
    """Each version is computed whole; what a table does when nothing is said."""
    return Replace()


def append(of: str = "") -> Append:
    """New rows of one input are computed and added; see `Append`."""
    return Append(of)


def merge(of: str = "") -> Merge:
    """As `append`, but a row whose key exists takes the place of the old one; see `Merge`."""
    return Merge(of)


def slices(every: Every = "month", *, of: str = "", on: str = "", lookback: int = 0) -> Slices:
    """Only slices of time that changed rows touch are computed again; see `Slices`."""
    return Slices(every, of, on, lookback)


# -- queries --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ref:
    """An input by name: what a function without annotations is called with."""

    name: str


@dataclass(frozen=True)
class AsOf:
    """The newest row of `right` at or before each row's `on`, per `by`; optionally no older than `within`.

    `right_on` is the time column of `right`. Columns of `right` that the left side has already are left out;
    `take` limits them. Rows of the left side are all kept, once each.
    """

    right: str
    by: tuple[str, ...]
    on: str
    right_on: str
    within: str | None = None
    take: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Sql:
    """A query over the asset's inputs, by their names, and point-in-time joins on its result.

    Parameters are written `$name` and bound, never pasted.
    """

    text: str
    params: tuple[tuple[str, Any], ...] = ()
    asofs: tuple[AsOf, ...] = ()

    def asof(
        self,
        right: Any,
        *,
        by: str | list[str],
        on: str,
        right_on: str | None = None,
        within: str | None = None,
        take: list[str] | None = None,
    ) -> Sql:
        """Adds a point-in-time join with another input; see `AsOf`."""
        name = right if isinstance(right, str) else getattr(right, "name", "")
        join = AsOf(name, names(by), on, right_on or on, within, tuple(take) if take is not None else None)
        return replace(self, asofs=(*self.asofs, join))


def sql(text: str, **params: Any) -> Sql:
    """A query over the inputs by their names; `$name` is bound from the keyword of that name."""
    return Sql(text, tuple(sorted(params.items())))


EXPORT_ENDINGS = (".parquet", ".csv", ".ndjson", ".jsonl", ".json", ".arrow")


# -- the table ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Export:
    """A copy outside the lake, written after each publish. `to` ends in .parquet, .csv, .json or .ndjson."""

    to: str


@dataclass(frozen=True)
class Table:
    """A computed table.

    Attributes:
        name: the asset's name, that of the function.
        function: makes a query (no annotations) or the rows (annotated inputs); None when `query` is given.
        query: a query written by hand.
        inputs: names of the inputs, the function's positional parameters.
        forms: per input the annotation as written, None for a reference.
        params: keyword-only parameters with their defaults.
        key: columns that identify a row. The grain is verified: a key that occurs twice stops the publishing.
        time: the event time column.
        renamed: new name -> old name of columns, so that their values stay.
    """

    name: str
    function: Callable[..., Any] | None = None
    query: Sql | None = None
    inputs: tuple[str, ...] = ()
    forms: tuple[Any, ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    key: tuple[str, ...] = ()
    time: str | None = None
    partition: tuple[Partition, ...] = ()
    checks: tuple[Check, ...] = ()
    write: Write = Replace()
    renamed: tuple[tuple[str, str], ...] = ()
    exports: tuple[Export, ...] = ()
    doc: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the plain function, as if it had never been decorated."""
        if self.function is None:
            raise DefinitionError("this table was declared by a query and cannot be called", place=self.name)
        return self.function(*args, **kwargs)

    def __getitem__(self, column: str) -> Column:
        return Column(self.name, column)


@dataclass(frozen=True)
class Column:
    """A column of an asset, as in `departures["late"]`."""

    asset: str
    name: str


def table(
    function: Callable[..., Any] | None = None,
    *,
    key: str | list[str] | tuple[str, ...] = (),
    time: str | None = None,
    partition: Partition | list[Partition] | tuple[Partition, ...] = (),
    checks: list[Check] | tuple[Check, ...] = (),
    write: Write | None = None,
    renamed: Mapping[str, str] | None = None,
    export: str | list[str] | tuple[str, ...] = (),
) -> Any:
    """Makes a table of a function: its name is the asset, its parameters are the inputs, its docstring the description.

    Inputs without annotation arrive as references, for `ps.sql`; an annotation (polars.LazyFrame, polars.DataFrame,
    pyarrow.Table, pyarrow.RecordBatchReader, duckdb.DuckDBPyRelation, pandas.DataFrame) asks for the rows in that form.
    Keyword-only parameters with defaults are parameters of the run.

    Raises: DefinitionError(E1001).
    """

    def make(fn: Callable[..., Any]) -> Table:
        inputs, forms, params = signature_of(fn)
        made = Table(
            name=fn.__name__,
            function=fn,
            inputs=inputs,
            forms=forms,
            params=params,
            key=names(key),
            time=time,
            partition=(partition,) if isinstance(partition, Partition) else tuple(partition),
            checks=tuple(checks),
            write=write or Replace(),
            renamed=tuple(sorted((renamed or {}).items())),
            exports=tuple(Export(to) for to in names(export)),
            doc=(fn.__doc__ or "").strip(),
        )
        return validated(made)

    return make(function) if function is not None else make


def validated(made: Table) -> Table:
    """The table itself, if its parts fit together.

    Raises: DefinitionError(E1001).
    """
    for export in made.exports:
        if not export.to.lower().endswith(EXPORT_ENDINGS):
            raise DefinitionError(
                "unknown ending of an export", place=f"{made.name}.export", expected=", ".join(EXPORT_ENDINGS), got=export.to
            )
    if isinstance(made.write, Merge) and not (made.key and made.time):
        raise DefinitionError(
            "a merged table needs a key and a time", place=made.name, hint="@ps.table(key=..., time=..., write=ps.merge())"
        )
    if isinstance(made.write, Slices) and not made.time:
        raise DefinitionError("a table in slices needs a time column", place=made.name, hint="@ps.table(time=..., write=ps.slices())")
    if not isinstance(made.write, Replace):
        if not made.inputs:
            raise DefinitionError("a table written in parts needs an input", place=made.name)
        of = made.write.of or made.inputs[0]
        if of not in made.inputs:
            raise DefinitionError("the driving input is not an input", place=f"{made.name}.write", expected=", ".join(made.inputs), got=of)
    return made


def signature_of(fn: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    """Input names, their annotations, and keyword-only parameters with defaults, without importing `inspect`.

    Raises: DefinitionError(E1001) for *args, **kwargs, positional defaults, or a keyword-only parameter without default.
    """
    code = getattr(fn, "__code__", None)
    if code is None:
        raise DefinitionError("an asset is made of a plain function", place=repr(fn)[:60])
    place = fn.__name__
    if code.co_flags & 0x0C:
        raise DefinitionError("an asset's function has named parameters only, no *args or **kwargs", place=place)
    if fn.__defaults__:
        raise DefinitionError("inputs have no defaults", place=place, hint="put parameters after a `*`: def f(rows, *, limit=10)")
    inputs = code.co_varnames[: code.co_argcount]
    only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    defaults = fn.__kwdefaults__ or {}
    if missing := [name for name in only if name not in defaults]:
        raise DefinitionError("a parameter needs a default", place=f"{place}.{missing[0]}")
    annotations = fn.__annotations__
    return inputs, tuple(annotations.get(name) for name in inputs), tuple((name, defaults[name]) for name in only)
