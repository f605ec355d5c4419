"""HTML and SVG as nested values: every text is escaped unless it was made here."""

from __future__ import annotations

import html

from penstock.project.figures import plain


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


_EMPTY = frozenset({"meta", "br", "line", "rect", "circle", "path", "polyline"})


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children that are None are left out, lists are flattened, all but `Html` is escaped.

    Attributes: None leaves one out; `class_` and `stroke_width` are written `class` and `stroke-width`.
    """
    told = "".join(f' {k.rstrip("_").replace("_", "-")}="{escaped(v)}"' for k, v in attributes.items() if v is not None)
    if name in _EMPTY and not children:
        return Html(f"<{name}{told}/>" if name != "meta" and name != "br" else f"<{name}{told}>")
    return Html(f"<{name}{told}>{joined(children)}</{name}>")


def joined(children: object) -> Html:
    """Children one after the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, list | tuple):
        return Html("".join(joined(child) for child in children))
    return Html(escaped(children))


def escaped(value: object) -> str:
    """A text that is nothing but text inside an element or a quoted attribute."""
    return html.escape(plain(value), quote=True)


def table(headings: list[str], rows: list[list[object]], *, right: tuple[str, ...] = (), class_: str = "") -> Html:
    """A table; columns whose heading is in `right` are aligned right."""
    sides = ["r" if h in right else None for h in headings]
    head = tag("tr", [tag("th", h, class_=s) for h, s in zip(headings, sides, strict=True)])
    body = [tag("tr", [tag("td", c, class_=s) for c, s in zip(row, sides, strict=True)]) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", body), class_=class_ or None)
