"""Captions in a JSON list of records: LLaVA's and ShareGPT's questions and answers, and FFTG's files.

    [{"image": path, "caption": text}, ...]                                              captions
    [{"id": text, "image": path, "conversations": [{"from": "human", "value": text},
                                                   {"from": "gpt", "value": text}]}, ...]  LLaVA
    [{"images": [path], "messages" or "conversations": [...]}, ...]                      ShareGPT

or an object of such records by picture. The schema of the authors' `FFTG_*.json` is not known to us: their
files are read where they have this form, or where `RecordFields` names their fields; any other field is
refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from data_pipeline.convert.lines import CaptionLines
from data_pipeline.core.tables import read_json
from data_pipeline.datasets.base import plain_label
from data_pipeline.datasets.deepfakebench import FrameLocator
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL, VERDICTS

#: What a record's fields may be called, the first one that is there being read.
_NAMES: Final = {
    "image": ("image", "images"),
    "caption": ("caption", "conversations", "messages"),
    "label": ("label",),
}
#: Text that a line takes over.
_COLUMNS: Final = ("id", "dataset", "method", "video", "frame", "split")
_ANSWERS: Final = ("gpt", "assistant")
_Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RecordFields:
    """How a file's records are read.

    Attributes:
      names: our name (`image`, `caption`, `label`) -> the file's.
      ignored: fields of the file that are not read.
      label: of records that state none; None reads the verdict sentence of the caption.
    """

    names: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    label: int | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in _NAMES:
                raise UserError(f"--fields={name}=...: {name!r} is not one of {', '.join(_NAMES)}")

    def known(self) -> Iterator[str]:
        """Every field that a record may have."""
        for name, usual in _NAMES.items():
            yield from (self.names[name],) if name in self.names else usual
        yield from _COLUMNS


def read_records(
    file: Path, root: Path, out: Path, source: str, fields: RecordFields
) -> CaptionLines:
    """Reads the captions of a file for the pictures that are there.

    Args:
      file: JSON, see the module.
      root: the folder that the pictures lie in; leading folders of paths that are not there are dropped.
      out: the file of lines to be written.
      source: of the captions.
      fields: how they are called.

    Raises:
      UserError: the file is not such JSON; or a record lacks a field, has another one, or cannot be a line.
    """
    lines = CaptionLines(file, out, source)
    locate = FrameLocator(root)
    owners: dict[Path, str] = {}
    for name, record in _records(file):
        where = f"{file}, {name}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: is a {type(record).__name__}, not an object")
        row = {key: value for key, value in record.items() if key not in fields.ignored}
        image = _image(row, where, fields)
        picture = locate.find(image)
        caption = _caption(row, where, fields)
        _check_known(row, where, fields)
        label = _label(row, caption, where, fields)
        columns = {key: _text(row, key, where) for key in _COLUMNS if row.get(key) is not None}
        if picture is None:
            lines.left_out["picture not there"] += 1
            continue
        # Under a root that lies too deep, paths that differ above it would be one picture.
        if owners.setdefault(picture, image) != image:
            raise UserError(
                f"{where}: {image!r:.200} and {owners[picture]!r:.200} would both be {picture}; give the "
                "folder above it as --root"
            )
        lines.add(name, picture, label, [caption], columns)
    return lines


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    content = read_json(file)
    if isinstance(content, list):
        yield from ((f"record {number}", record) for number, record in enumerate(content, start=1))
    elif isinstance(content, dict):
        for key, value in content.items():
            record = {"caption": value} if isinstance(value, str) else value
            named = isinstance(record, dict) and not any(name in record for name in _NAMES["image"])
            yield f"record {key!r:.100}", {"image": key, **record} if named else record
    else:
        raise UserError(f"{file}: holds a {type(content).__name__}, not a list of records")


def _check_known(row: _Record, where: str, fields: RecordFields) -> None:
    known = set(fields.known())
    if unknown := [key for key in row if key not in known]:
        raise UserError(
            f"{where}: the field {unknown[0]!r:.100} is not known here; leave it out by "
            f"--ignore={unknown[0]:.100}, or name what it holds by --fields, such as --fields=label=NAME"
        )


def _value(row: _Record, name: str, where: str, fields: RecordFields) -> Any:
    names: Iterable[str] = (fields.names[name],) if name in fields.names else _NAMES[name]
    for key in names:
        if row.get(key) is not None:
            return row[key]
    there = ", ".join(row)[:200] or "none"
    raise UserError(
        f"{where}: has no field {' or '.join(map(repr, names))} (its fields: {there}); if another one "
        f"holds the {name}, add --fields={name}=NAME"
    )


def _image(row: _Record, where: str, fields: RecordFields) -> str:
    value = _value(row, "image", where, fields)
    paths = value if isinstance(value, list) else [value]
    if len(paths) != 1 or not isinstance(paths[0], str):
        raise UserError(f"{where}: its picture is not one path but {value!r:.100}")
    return paths[0]


def _caption(row: _Record, where: str, fields: RecordFields) -> str:
    value = _value(row, "caption", where, fields)
    if isinstance(value, list):
        value = _answer(value, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: its caption is not text but {value!r:.100}")
    return value


def _answer(turns: list[Any], where: str) -> Any:
    """What the first answer of a conversation says; further turns ask for other things."""
    for turn in turns:
        if isinstance(turn, dict) and (turn.get("from") or turn.get("role")) in _ANSWERS:
            return turn.get("value", turn.get("content"))
    raise UserError(f"{where}: its conversation has no answer, {{'from': 'gpt', 'value': text}}")


def _label(row: _Record, caption: str, where: str, fields: RecordFields) -> int:
    name = fields.names.get("label", "label")
    if row.get(name) is not None:
        label = plain_label(row[name])
        if label is None:
            raise UserError(f"{where}: the {name} {row[name]!r:.100} is neither real nor fake")
        return label
    if fields.label is not None:
        return fields.label
    stated = [
        label for label in (REAL, FAKE) if VERDICTS[label].rstrip(".").lower() in caption.lower()
    ]
    if len(stated) != 1:
        raise UserError(
            f"{where}: has no field {name!r}, and its caption does not say '{VERDICTS[FAKE]}' or "
            f"'{VERDICTS[REAL]}'; add --label=fake, or --fields=label=NAME"
        )
    return stated[0]


def _text(row: _Record, name: str, where: str) -> str:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{where}: its {name} is not text but {value!r:.100}")
    return str(value)
