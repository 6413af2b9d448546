"""The page of a case: what a detector says of some pictures and videos, for a reader who must defend it.

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
class Shown:
    """A face as the report shows it: its line, and its panels as (title, encoded picture)."""

    line: Mapping[str, Any]
    panels: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Item:
    """One input: its closing line or, for a picture, that of its first face; its thumbnail; its faces.

    hidden: faces of a video that are not shown.
    """

    line: Mapping[str, Any]
    picture: bytes = b""
    faces: Sequence[Shown] = field(default_factory=list)
    hidden: int = 0

    @property
    def judged(self) -> list[Shown]:
        """The faces that are shown one by one: all but the too small, unless there is one alone."""
        return [face for face in self.faces if not self._is_small(face)]

    @property
    def too_small(self) -> list[int]:
        """The numbers of the other faces, from 1."""
        return [face.line["face"] + 1 for face in self.faces if self._is_small(face)]

    def _is_small(self, face: Shown) -> bool:
        return face.line["verdict"] == "face_too_small" and len(self.faces) > 1

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the file."""
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
    items: Sequence[Item], facts: Mapping[str, str], band: tuple[float, float, float]
) -> str:
    """The page.

    Args:
      items: in order.
      facts: about the model and the run, shown at the top.
      band: low end of 'uncertain', threshold, high end.
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
