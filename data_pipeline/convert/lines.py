"""Annotation lines made from the captions of others: one a picture, each checked as `launch.pack` checks it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.packed.annotation import parse_line
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, LABEL_NAMES

Line = dict[str, Any]
#: Captions of one picture; DD-VQA has up to four.
_MAX_CAPTIONS: Final = 64


class CaptionLines:
    """Lines of a converted file. Their words stay as they are; they flag no regions, so words alone are scored.

    Args:
      file: that the captions come from, for errors.
      out: the file of lines; pictures below its folder are named relative to it.
      source: of the captions, one of `vocabulary.CAPTION_SOURCES`.

    Attributes:
      lines: by the picture and its label, in the order of the file.
      left_out: entries that no line has, counted by reason.
    """

    def __init__(self, file: Path, out: Path, source: str):
        self.lines: dict[tuple[str, int], Line] = {}
        self.left_out: Counter[str] = Counter()
        self._file, self._out, self._source = file, out, source
        self._folder = os.path.join(os.path.abspath(out.parent), "")
        self._owners: dict[str, tuple[str, int]] = {}

    def add(
        self,
        record: str,
        picture: Path,
        label: int,
        captions: Sequence[str],
        columns: Mapping[str, str],
        real: Path | None = None,
    ) -> None:
        """Adds captions of a picture; those of one that has a line already become further ones of it.

        Args:
          record: what is named in errors.
          picture: of the face.
          label: REAL or FAKE.
          captions: at least one.
          columns: `id` and other text of the line, such as `method`.
          real: the real that a fake came from, None where it is not known.

        Raises:
          UserError: the id is another picture's, or `launch.pack` would refuse the line.
        """
        key = (os.path.abspath(picture), label)
        if (known := self.lines.get(key)) is not None:
            captions = [known["caption"], *known["captions"], *captions]
            columns = {}
        texts = list(dict.fromkeys(captions))
        if len(texts) > _MAX_CAPTIONS:
            raise UserError(
                f"{self._file}, {record}: is a caption above {_MAX_CAPTIONS} of one picture; keep fewer"
            )
        line: Line = {
            **columns,
            **(known or {"id": columns.get("id") or self._id(picture)}),
            "real": (real and self._place(real)) if label == FAKE else self._place(picture),
            "fake": self._place(picture) if label == FAKE else None,
            "label": label,
            "caption": texts[0],
            "captions": texts[1:],
            "source": self._source,
            "error": None,
        }
        if label != FAKE:
            line["real_captions"] = texts
        if self._owners.setdefault(line["id"], key) != key:
            raise UserError(
                f"{self._file}, {record}: repeats the id {line['id']!r:.100} of another picture; give each "
                "picture an id of its own, or leave the ids out by --ignore=id"
            )
        try:
            parse_line(json.dumps(line).encode(), self._out)
        except UserError as error:
            raise UserError(f"{self._file}, {record}: {error}") from error
        self.lines[key] = line

    def text(self) -> str:
        """The lines as JSON lines.

        Raises:
          UserError: there are none.
        """
        if not self.lines:
            why = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            raise UserError(
                f"{self._file}: no caption belongs to a picture ({why or 'it is empty'})"
            )
        return "".join(json.dumps(line) + "\n" for line in self.lines.values())

    def summary(self) -> str:
        """How many lines of either label there are, and what was left out, in one line."""
        labels = Counter(LABEL_NAMES[label] for _, label in self.lines)
        parts = [f"{labels[name]} {name}" for name in LABEL_NAMES]
        return ", ".join(
            [*parts, *(f"left out: {reason} {n}" for reason, n in self.left_out.items())]
        )

    def _id(self, picture: Path) -> str:
        """As `launch.annotate` names a picture of a table: by its path without suffix."""
        return Path(self._place(picture)).with_suffix("").as_posix()

    def _place(self, path: Path) -> str:
        return os.path.abspath(path).removeprefix(self._folder)
