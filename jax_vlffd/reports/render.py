"""The pieces of a self-contained HTML page: style, tables, figures. All text is escaped here.

`Markup` marks what is HTML already; every other string is text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Final


class Markup(str):
    """Text that is HTML already and is not escaped again."""


STYLE: Final = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 28px 24px 60px; color: #1c2126; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 40px 0 8px; padding-bottom: 5px; border-bottom: 2px solid #dde3e8; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0 10px; max-width: 80ch; }
.note { color: #55606a; font-size: 13.5px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 26px; margin: 10px 0 0; padding: 10px 14px;
  background: #f3f6f8; border-radius: 6px; font-size: 13.5px; }
.facts dt { color: #55606a; display: inline; } .facts dd { display: inline; margin: 0 0 0 5px;
  font-weight: 600; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0 14px; font-size: 13.5px; }
th, td { padding: 5px 7px; text-align: right; vertical-align: top; white-space: nowrap;
  font-variant-numeric: tabular-nums; border-bottom: 1px solid #e4e9ed; }
thead th { color: #44505a; font-weight: 600; vertical-align: bottom; white-space: normal;
  border-bottom: 2px solid #b9c4cc; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: break-word;
  max-width: 22em; }
td.seen { background: #fdf1dc; }
tr.first td { border-top: 2px solid #d3dbe1; }
small { display: block; color: #55606a; font-size: 11px; }
.charts { display: flex; flex-wrap: wrap; gap: 14px 24px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; } figcaption { font-weight: 600; font-size: 13.5px;
  margin: 6px 0 2px; }
svg { display: block; max-width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11.5px; fill: #1c2126; } svg .axis { font-size: 12px; fill: #44505a; }
svg .small { font-size: 11px; } svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .grid { stroke: #e4e9ed; } svg .edge, svg .frame { stroke: #93a0aa; fill: none; }
svg .diagonal { stroke: #77838d; stroke-dasharray: 3 3; } svg .whisker { stroke: #111;
  stroke-width: 1.4; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 14px; }
.card { border: 1px solid #dde3e8; border-radius: 6px; overflow: hidden; font-size: 12.5px;
  line-height: 1.4; break-inside: avoid; }
.card img, .card .blank { display: block; width: 100%; aspect-ratio: 1; object-fit: cover;
  background: #eef2f4; }
.card .blank { display: grid; place-items: center; color: #77838d; }
.card div.text { padding: 8px 10px 10px; overflow-wrap: anywhere; } .card p { margin: 4px 0 0; }
.card .where { color: #55606a; font-size: 11.5px; }
.tag { display: inline-block; padding: 0 6px; border-radius: 3px; font-weight: 600; color: #fff; }
.tag.real { background: #00577f; } .tag.fake { background: #a84300; }
.tag.uncertain { background: #5a636b; }
.meter { height: 5px; background: #e4e9ed; border-radius: 3px; margin: 6px 0 2px; }
.meter i { display: block; height: 100%; background: #333; border-radius: 3px; }
details summary { cursor: pointer; font-weight: 600; margin: 10px 0 4px; }
dl.terms dt { font-weight: 600; margin-top: 6px; } dl.terms dd { margin: 0 0 0 1.2em;
  max-width: 90ch; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { font-size: 12px; max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  table { font-size: 10.5px; } th, td { padding: 3px 5px; } small { font-size: 8.5px; }
  .scroll { overflow: visible; } figure, tr, .card { break-inside: avoid; }
  figcaption { break-after: avoid; } .charts { gap: 8px 2%; } .charts figure { width: 31%; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


def text(value: str) -> Markup:
    """The value as HTML: escaped, unless it is Markup."""
    return value if isinstance(value, Markup) else Markup(escape(value))


def document(title: str, body: Sequence[Markup]) -> str:
    """The whole page; it loads nothing and runs no script (its own policy forbids both)."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def element(name: str, *content: str, **attributes: str) -> Markup:
    """An element; `class_` is its class."""
    given = "".join(f' {k.rstrip("_")}="{escape(v)}"' for k, v in attributes.items() if v)
    return Markup(f"<{name}{given}>{''.join(map(text, content))}</{name}>")


def join(parts: Sequence[str]) -> Markup:
    """The parts one after another."""
    return Markup("".join(map(text, parts)))


class Cell(Markup):
    """A table cell with a class of its own."""

    kind: str = ""

    @classmethod
    def of(cls, content: str, kind: str) -> Cell:
        """A cell of `content` with the class `kind`."""
        cell = cls(text(content))
        cell.kind = kind
        return cell


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    names: int = 1,
    group: int | None = None,
) -> Markup:
    """A table whose first `names` columns are text.

    With `group`, that column's value is written only where it changes, under a stronger line.
    """
    head = join(
        [element("th", h, class_="name" if i < names else "") for i, h in enumerate(header)]
    )
    body, previous = [], None
    for row in rows:
        cells = []
        starts = group is not None and row[group] != previous
        for index, value in enumerate(row):
            shown = "" if index == group and not starts else value
            kind = value.kind if isinstance(value, Cell) else "name" if index < names else ""
            cells.append(element("td", shown, class_=kind))
        body.append(
            element("tr", *cells, class_="first" if starts and previous is not None else "")
        )
        previous = row[group] if group is not None else None
    inner = element("thead", element("tr", head)) + element("tbody", *body)
    return element("div", element("table", Markup(inner)), class_="scroll")


def figure(caption: str, drawing: str) -> Markup:
    """A drawing (SVG) under its caption."""
    return element("figure", element("figcaption", caption), Markup(drawing))


def charts(figures: Sequence[Markup]) -> Markup:
    """Figures side by side as far as they fit."""
    return element("div", *figures, class_="charts")


def picture(image: bytes, alternative: str) -> Markup:
    """An encoded PNG, JPEG or WebP as an image of the page itself; a blank where there is none."""
    kind = _media_type(image)
    if not kind:
        return element("div", "no picture", class_="blank")
    data = base64.b64encode(image).decode("ascii")
    return Markup(f'<img src="data:{kind};base64,{data}" alt="{escape(alternative)}">')


def _media_type(image: bytes) -> str:
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return ""
