"""The HTML report of `launch.predict`: verdicts, reasons and heat maps of pictures and videos.

Everything that comes from a file (names, EXIF, messages) is untrusted text and is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax_vlffd.reports import render as pages
from jax_vlffd.vocabulary import TYPES


@dataclass(frozen=True)
class ShownFace:
    """A face of the report: its result line, and its panels as (title, encoded picture)."""

    line: Mapping[str, Any]
    panels: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class ShownFile:
    """One input file.

    line: a video's last result line, a picture's first face's. picture: encoded thumbnail, or empty.
    faces: that are shown. hidden: number of faces of a video that are not shown.
    """

    line: Mapping[str, Any]
    picture: bytes = b""
    faces: Sequence[ShownFace] = field(default_factory=list)
    hidden: int = 0

    @property
    def judged(self) -> list[ShownFace]:
        """The faces shown one by one: all but the too small, or the only one."""
        return [face for face in self.faces if not self._is_small(face)]

    @property
    def too_small(self) -> list[int]:
        """The numbers, from 1, of the faces that are too small."""
        return [face.line["face"] + 1 for face in self.faces if self._is_small(face)]

    def _is_small(self, face: ShownFace) -> bool:
        return face.line["verdict"] == "face_too_small" and len(self.faces) > 1

    @property
    def facts(self) -> dict[str, str]:
        """Facts about the file, by title; only those that are known."""
        line = self.line
        values = {
            "SHA-256": line.get("sha256") or "not read",
            "Size": f"{line['width']} x {line['height']}" if line.get("width") else "",
            "Format": line.get("format") or "",
            "Frames": f"{line['frames_looked_at']} of {line['frames']} analyzed"
            if "frames" in line
            else "",
            "Analyzed": line["time"],
            **{f"EXIF {name}": text for name, text in line.get("exif", {}).items()},
        }
        return {name: value for name, value in values.items() if value}


def render(
    items: Sequence[ShownFile], facts: Mapping[str, str], band: tuple[float, float, float]
) -> str:
    """The report as HTML text.

    Args:
      items: the inputs, in order.
      facts: about the model and the run, shown at the top.
      band: lower end of 'uncertain', threshold, upper end; probabilities.
    """
    verdicts = Counter(str(item.line["verdict"]).replace("_", " ") for item in items)
    low, threshold, high = band
    return pages.page(
        "case.html.j2",
        title="Report on faces",
        items=items,
        facts=facts,
        counts=", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()),
        low=low,
        threshold=threshold,
        high=high,
        region_table=_region_table,
    )


def _region_table(line: Mapping[str, Any]) -> pages.Table:
    """Scores by region and type."""
    rows = [
        [region, *(_score(value) for value in (score, *map(line["types"][region].get, TYPES)))]
        for region, score in line["regions"].items()
    ]
    return pages.Table(["Region", "Forged", *TYPES], rows)


def _score(value: float | None) -> str:
    return "not calibrated" if value is None else f"{value:.2f}"
