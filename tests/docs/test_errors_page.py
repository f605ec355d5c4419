"""The page of errors is made from the classes, and each class keeps its code.

After a wanted change: python -m tests.docs.test_errors_page
"""

from __future__ import annotations

import inspect

from penstock.ground import errors
from tests.docs.pages import ROOT

PAGE = ROOT / "docs/reference/errors.md"
STORIES = ("Definitions", "Input data", "Checks and the ledger", "Storage", "Running", "Models", "Settings")
HEAD = """# Errors

Every error of Penstock is a `PenstockError` with the same parts: a code that never changes its meaning, the place (asset, column,
file or setting), what was expected, what was found, and a hint. They are attributes too (`error.code`, `error.place`, ...), and
`error.as_record()` gives them as plain data. Each class is also the built-in exception named beside it, so `except ValueError` works.

*Whose* says where to look: at your code or call (`user`), at the data (`input`), at a disk, server or service (`backend`), or at
Penstock (`penstock`). *Retry* says whether the same call may succeed later without anybody changing anything.

This page is made from `penstock/ground/errors.py`.
"""


def classes() -> list[type[errors.PenstockError]]:
    """All error classes but the root, by code."""
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.PenstockError)]
    return sorted((c for c in found if c is not errors.PenstockError), key=lambda c: c.code)


def line(error: type[errors.PenstockError]) -> str:
    builtins = [c for c in error.__mro__ if c.__module__ == "builtins"]
    nearest = [f"`{c.__name__}`" for c in builtins if not any(issubclass(other, c) for other in builtins if other is not c)]
    meaning = " ".join((error.__doc__ or "").split())
    return f"| {error.code} | `{error.__name__}` | {', '.join(nearest)} | {meaning} | {error.fault} | {'yes' if error.retry else 'no'} |"


def page() -> str:
    parts = [HEAD]
    for digit, story in enumerate(STORIES, 1):
        lines = [line(c) for c in classes() if c.code[1] == str(digit)]
        parts.append(
            "\n".join([f"## {story}\n", "| code | class | also | meaning | whose | retry |", "|---|---|---|---|---|---|", *lines, ""])
        )
    return "\n".join(parts)


def test_the_page_tells_all_errors() -> None:
    assert page() == PAGE.read_text(), "errors changed; python -m tests.docs.test_errors_page"


def test_codes_are_unique_and_of_a_known_story() -> None:
    codes = [c.code for c in classes()]
    assert len(codes) == len(set(codes)) > 20
    assert {code[1] for code in codes} == {str(digit) for digit, _ in enumerate(STORIES, 1)}


def test_each_error_says_what_it_means() -> None:
    assert [c.__name__ for c in classes() if not (c.__doc__ or "").strip() or "__doc__" not in vars(c)] == []


if __name__ == "__main__":
    PAGE.write_text(page())
