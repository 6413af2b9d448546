"""Predictions as terminal text: a line per face with its reasons, a summary, and remarks on the model."""

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
#: Suffixes that the summary counts.
_MAX_SUFFIXES: Final = 8

Line = Mapping[str, Any]


def remarks(detector: Detector, crops: bool, maps: bool) -> Iterator[str]:
    """Limitations of a model that a user should know before its predictions.

    Args:
      detector: the model.
      crops: whether the inputs are face crops, whose geometry is not measured.
      maps: whether to say that the model has no heat maps.
    """
    trained = detector.trained
    if trained.calibration is None:
        yield (
            "not calibrated: this model has no calibration (its training did not end, or was validated on "
            "reals or fakes alone), so probabilities are raw and no verdict is 'uncertain'"
        )
    if trained.explainer is None:
        yield "reasons unavailable: this model was trained without caption alignment"
    if maps and not trained.learned_from_masks:
        yield (
            "no heat maps: this model was trained without forgery masks (loss.local is 0), so its maps are "
            "meaningless; --maps draws them anyway"
        )
    if crops:
        yield (
            "geometry unknown: with --crops the position of faces in the images is not measured; it should "
            "be the same as in the model's training"
        )
    elif not trained.geometry.sets:
        yield (
            "geometry unknown: the position of faces in this model's training images was not measured; "
            "crop as its training set was prepared (--margin, --align, --crops)"
        )


def describe(lines: Sequence[Line], color: bool) -> Iterator[str]:
    """The lines of text of one input.

    Args:
      lines: all its predictions.
      color: whether verdicts are colored with escape codes.
    """
    video = lines[-1]["kind"] == "video"  # only the aggregate is shown
    shown = lines[-1:] if video else lines
    for line in shown:
        verdict = str(line["verdict"])
        tag = f"{verdict.replace('_', ' '):14}"
        if color and verdict in _COLORS:
            tag = f"\x1b[1;{_COLORS[verdict]}m{tag}\x1b[0m"
        number = "     " if line["probability"] is None else f"{line['probability']:.3f}"
        where = printable(str(line["path"]))
        if len(shown) > 1:
            where += f", face {line['face'] + 1} of {len(shown)}{_limited(line)}"
        if video and line.get("frames_looked_at"):
            where += f", {line['frames_looked_at']} of {line['frames']} frames"
        yield f"{tag}  {number}  {where}"
        if line.get("geometry") == "outside":
            yield f"{_INDENT}geometry: outside that of the training set; the verdict is less reliable"
        if line.get("cut_off"):
            yield f"{_INDENT}note: the face is cut off by the edge of its picture"
        if line.get("message"):
            yield _INDENT + printable(str(line["message"]))
        for note in line.get("notes", ()):
            yield f"{_INDENT}note: {printable(note)}"
        for reason in line["reasons"]:
            against = "   [contradicts the verdict]" if reason["contradiction"] else ""
            yield f"{_INDENT}{reason['score']:.2f}  {printable(reason['text'])}{against}"
        if video and line.get("drove"):
            frames = ", ".join(f"{d['frame']} ({d['probability']:.2f})" for d in line["drove"])
            yield f"{_INDENT}driven by frames {frames}"


def _limited(line: Line) -> str:
    """Says that a picture has more faces than lines."""
    return "+" if any(note.startswith("many_faces:") for note in line.get("notes", ())) else ""


@dataclass
class Tally:
    """Counts over a run."""

    inputs: int = 0
    failed: int = 0
    skipped: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    outside: int = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Counts one input: a video once, an image by its faces."""
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
                f"{self.outside} have another geometry than the model's training set (size, position or "
                "rotation of the face in its crop): omit --margin and --align to crop as in its training"
            )
        if self.skipped:
            yield f"{self.skipped} files were answered before"
        if self.ignored:
            suffixes = [
                f"{count} {printable(suffix or 'without a suffix')}"
                for suffix, count in self.ignored.most_common(_MAX_SUFFIXES)
            ]
            if len(self.ignored) > _MAX_SUFFIXES:
                suffixes.append("...")
            yield (
                f"{self.ignored.total()} other files in the folders have no suffix of a picture or video that "
                f"can be read: {', '.join(suffixes)}"
            )
