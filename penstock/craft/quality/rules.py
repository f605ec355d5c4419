"""What each row check asks, as SQL conditions that are true for rows that fail; null counts as passed.

Columns of the declaration are looked up in the schema, quoted by `ground.names.quote`, and values by `literals`: no text of a check but
the condition of `satisfies` and `holds`, which is parsed first, reaches the SQL as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.craft.quality.conditions import condition
from penstock.craft.quality.literals import EXACT, FLOATING, bound, equal
from penstock.ground.errors import DefinitionError
from penstock.ground.names import literal, quote
from penstock.spec.checks import Check
from penstock.spec.schema import Field, Schema


@dataclass(frozen=True)
class Fault:
    """One way for a row to fail: the condition under which it does, and the words for it, which hold no value of the row."""

    sql: str
    reason: str


def faults(check: Check, schema: Schema) -> tuple[Fault, ...]:
    """The ways in which a row can fail a row check other than `unique`.

    Raises: DefinitionError(E1001) for an unknown column, a column of a type that the check is not for, or a bad argument.
    """
    if check.kind == "satisfies":
        text = str(check.args[0])
        return (Fault(f"NOT {condition(text, schema, place=check.name)}", f"does not satisfy {text.strip()}"),)
    rule = _RULES.get(check.kind)
    if rule is None:
        raise DefinitionError("unknown kind of check", place=check.name, expected=", ".join((*_RULES, "satisfies")), got=check.kind)
    return tuple(rule(check, field) for field in fields(check, schema))


def any_of(found: tuple[Fault, ...]) -> str:
    return "(" + " OR ".join(f.sql for f in found) + ")"


def fields(check: Check, schema: Schema) -> tuple[Field, ...]:
    """The columns a check names.

    Raises: DefinitionError(E1001) for none or an unknown one.
    """
    if not check.columns:
        raise DefinitionError("a check names no column", place=check.name, expected="at least one column")
    return tuple(schema.field(name, of=check.kind) for name in check.columns)


def _not_null(check: Check, field: Field) -> Fault:
    return Fault(f"{quote(field.name)} IS NULL", f"{field.name} is null")


def _between(check: Check, field: Field) -> Fault:
    column, ends = quote(field.name), (*check.args, None, None)
    low, high = bound(field, ends[0], "low", check.name), bound(field, ends[1], "high", check.name)
    parts = [f"{column} < {low}"] if low else []
    parts += [f"{column} > {high}"] if high else []
    parts += [f"isnan({column})"] if field.type.name in FLOATING else []
    words = f"{field.name} is not between {'any' if ends[0] is None else ends[0]} and {'any' if ends[1] is None else ends[1]}"
    return Fault("(" + (" OR ".join(parts) or "FALSE") + ")", words)


def _one_of(check: Check, field: Field) -> Fault:
    known = [value for value in check.args if value is not None]
    allowed = ", ".join(sql for value in known if (sql := equal(field, value, check.name)))
    column = quote(field.name)
    words = ", ".join(str(value) for value in known[:8]) + (", ..." if len(known) > 8 else "")
    return Fault(f"{column} NOT IN ({allowed})" if allowed else f"{column} IS NOT NULL", f"{field.name} is none of {words or 'no values'}")


def _matches(check: Check, field: Field) -> Fault:
    pattern = str(check.args[0])
    _require(field, ("string",), check)
    _require_re2(pattern, check)
    return Fault(f"NOT regexp_full_match({quote(field.name)}, {literal(pattern)})", f"{field.name} does not match {pattern}")


def _finite(check: Check, field: Field) -> Fault:
    _require(field, (*FLOATING, *EXACT), check)
    return Fault(f"NOT isfinite({quote(field.name)})" if field.type.name in FLOATING else "FALSE", f"{field.name} is not finite")


_RULES = {"not_null": _not_null, "between": _between, "one_of": _one_of, "matches": _matches, "finite": _finite}


def _require(field: Field, kinds: tuple[str, ...], check: Check) -> None:
    if field.type.name not in kinds:
        raise DefinitionError("the column has another type", place=check.name, expected=" or ".join(kinds), got=field.type)


def _require_re2(pattern: str, check: Check) -> None:
    """Arrow and the engine use the same library, RE2, so Arrow can tell beforehand whether it takes a pattern."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise DefinitionError(
            "not a pattern that RE2 knows", place=check.name, got=str(error)[:120], hint="RE2 has no look-around and no back references"
        ) from error
