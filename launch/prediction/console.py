"""Answers on a terminal: a line a face, its reasons below, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.errors import printable

_COLORS: Final = {"real": "34", "fake": "31", "uncertain": "33"}
#: Faces of a video are told of by the line on the whole video alone.
_INDENT: Final = " " * 16

Line = Mapping[str, Any]


def told(lines: Sequence[Line], color: bool) -> Iterator[str]:
    """What is printed of one input.

    Args:
      lines: all of it.
      color: whether the terminal shows colours.
    """
    video = lines[-1]["kind"] == "video"
    shown = lines[-1:] if video else lines
    for line in shown:
        verdict = str(line["verdict"])
        tag = f"{verdict.replace('_', ' '):14}"
        if color and verdict in _COLORS:
            tag = f"\x1b[1;{_COLORS[verdict]}m{tag}\x1b[0m"
        number = "     " if line["probability"] is None else f"{line['probability']:.3f}"
        where = printable(str(line["path"]))
        if len(shown) > 1:
            where += f", face {line['face'] + 1} of {len(shown)}"
        if video and line.get("frames_looked_at"):
            where += f", {line['frames_looked_at']} of {line['frames']} frames"
        yield f"{tag}  {number}  {where}"
        if line.get("geometry") == "outside":
            yield f"{_INDENT}geometry: outside what the model was trained on; the verdict is worth less"
        if line.get("message"):
            yield _INDENT + printable(str(line["message"]))
        for note in line.get("notes", ()):
            yield f"{_INDENT}note: {printable(note)}"
        for reason in line["reasons"]:
            against = "   [contradicts the verdict]" if reason["contradiction"] else ""
            yield f"{_INDENT}{reason['score']:.2f}  {reason['text']}{against}"
        if video and line.get("drove"):
            frames = ", ".join(f"{d['frame']} ({d['probability']:.2f})" for d in line["drove"])
            yield f"{_INDENT}driven by frames {frames}"


@dataclass
class Tally:
    """Counts over a run."""

    inputs: int = 0
    failed: int = 0
    skipped: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    outside: int = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Counts one input: a video once, a picture by its faces."""
        self.inputs += 1
        self.failed += bool(lines[-1].get("message"))
        shown = lines[-1:] if lines[-1]["kind"] == "video" else lines
        self.verdicts.update(str(line["verdict"]) for line in shown)
        self.outside += sum(line.get("geometry") == "outside" for line in shown)

    def summary(self) -> Iterator[str]:
        """The closing lines."""
        counts = ", ".join(f"{n} {v.replace('_', ' ')}" for v, n in self.verdicts.most_common())
        yield f"{self.inputs} files" + (f": {counts}" if counts else "")
        if self.outside:
            yield (
                f"{self.outside} were judged at another geometry than the model's training set (size, place or "
                "turn of the face in its crop): leave out --margin and --align to crop as it was trained"
            )
        if self.skipped:
            yield f"{self.skipped} files were answered before"
