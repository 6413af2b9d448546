"""Renders Jinja templates to self-contained HTML pages and Markdown; every value is escaped."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from markupsafe import Markup

from jax_vlffd.errors import plain_markdown

if TYPE_CHECKING:
    from jinja2 import Environment

#: Headings of the metrics.
METRIC_TITLES: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "eer_deepfakebench": "EER, Deepfake\u00adBench",
    "acc": "Acc. at 0.5",
    "acc_calibrated": "Acc. at threshold",
    "ece": "ECE",
    "ece_calibrated": "ECE, calibrated",
}


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, the lines in small print below it, its CSS class."""

    text: str
    small: tuple[str, ...] = ()
    kind: str = ""


class Table(NamedTuple):
    """A table whose first `names` columns are text.

    With `grouped`, the first column's value is written only where it changes, under a stronger line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    names: int = 1
    grouped: bool = False


class Figure(NamedTuple):
    """A chart of `charts` (SVG text) and its caption."""

    caption: str
    drawing: str


def number(
    value: float | None, interval: Sequence[float] | None = None, signed: bool = False
) -> Cell:
    """A metric with its interval in small print; a dash where it is not defined."""
    if value is None:
        return Cell("\u2013")  # en dash
    pattern = "{:+.3f}" if signed else "{:.3f}"
    shown, *ends = (pattern.format(n).replace("-", "\u2212") for n in (value, *(interval or ())))
    return Cell(shown, ((" to " if signed else "\u2013").join(ends),) if ends else ())


def page(template: str, **values: Any) -> str:
    """The text of a template in `templates/`, HTML or (`.md.j2`) Markdown.

    Raises:
      jinja2.UndefinedError: the template uses a missing value.
    """
    return _environment(template.endswith(".md.j2")).get_template(template).render(values)


@functools.cache
def _environment(markdown: bool) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_escape_markdown if markdown else None,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = _data_url
    return environment


def _escape_markdown(value: Any) -> Markup:
    return value if isinstance(value, Markup) else Markup(plain_markdown(str(value)))


def _data_url(image: bytes) -> str:
    """An encoded PNG, JPEG or WebP as a data URL; empty for anything else."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif image.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    else:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
