"""Predictions as text: a line for each face, its reasons below it, a summary, and remarks on the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jax_vlffd.errors import printable

if TYPE_CHECKING:
    from jax_vlffd.inference.detector import Detector

_COLORS: Final = {"real": "34", "fake": "31", "uncertain": "33"}
_INDENT: Final = " " * 16

Line = Mapping[str, Any]


def remarks(detector: Detector, crops: bool, maps: bool) -> Iterator[str]:
    """What a user should know of a model before its predictions come.

    Args:
      detector: the model.
      crops: whether it is given face crops, whose geometry is not measured.
      maps: whether heat maps are drawn where the model has any.
    """
    trained = detector.trained
    if trained.explainer is None:
        yield "reasons unavailable: this model was trained without the alignment of captions"
    if maps and not trained.learned_from_masks:
        yield (
            "no heat maps: this model was trained without forgery masks (loss.local is 0), so its maps would "
            "mean nothing; --maps draws them all the same"
        )
    if crops:
        yield (
            "geometry unknown: with --crops it is not measured how faces lie in the pictures; see that they "
            "lie as in those of the model's training"
        )
    elif not trained.geometry.sets:
        yield (
            "geometry unknown: how faces lay in the pictures of this model's training was not measured; "
            "crop as its training set was prepared (--margin, --align, --crops)"
        )


def describe(lines: Sequence[Line], color: bool) -> Iterator[str]:
    """The lines of text of one input.

    Args:
      lines: its predictions, all of them.
      color: whether verdicts are colored by escapes.
    """
    video = lines[-1]["kind"] == "video"  # whose faces are in the line on the whole alone
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
