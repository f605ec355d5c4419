"""Every page of the docs does what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, PageError, pages, run_page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory that can be imported from; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pipeline", raising=False)  # of a project that another test opened
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, folder: Path) -> None:
    run_page(page, folder)


GOOD = """
```python title="numbers_of_page.py"
ONE = 1
```

```python
from numbers_of_page import ONE
two = ONE + 1
```

1. In a list:

    ```python
    assert two == 2
    ```

```console
$ python -c 'import numbers_of_page as n; print("one is", n.ONE)'
one is 1
```

```console
$ printf 'took 3.2 s\\nlast  line\\n'
took ... s
...
last line
$ false  # exit 1
```

```sql
SELECT only shown
```
"""


def test_a_good_page_runs(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text(GOOD)
    run_page(page, folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\nassert 1 == 2\n```", "page.md:2: AssertionError"),
        ("```python\nx = 1\n```\n\n```python\ny = x + z\n```", "page.md:6: NameError"),
        ("```console\n$ false\n```", "`false` ended with 1"),
        ("```console\n$ true  # exit 2\n```", "ended with 0"),
        ("```console\n$ echo a\nb\n```", "did not print 'b'"),
        ("```console\n$ printf 'b\\na\\n'\na\nb\n```", "did not print 'b'"),
        ("```console\n$ echo 12 rows\n1 rows\n```", "did not print '1 rows'"),
        ("```python\n1", "never closed"),
    ],
)
def test_a_page_that_is_wrong_fails(folder: Path, text: str, found: str) -> None:
    page = folder / "page.md"
    page.write_text(text)
    with pytest.raises(PageError) as caught:
        run_page(page, folder)
    assert found in str(caught.value)
