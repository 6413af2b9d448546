"""What a packed set holds, counted: `data_card.json`, a short `README.md`, and checksums."""

from __future__ import annotations

import collections
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.packed.record import SPLITS, Record
from data_pipeline.packed.remote import CHECKSUMS
from data_pipeline.packed.set_files import regular
from jax_vlffd.errors import UserError, plain_markdown
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import read_regular
from jax_vlffd.vocabulary import LABEL_NAMES

CARD: Final = "data_card.json"
_MAX_BYTES: Final = 1 << 18
#: Sum of the luminance table of the JPEG standard (Annex K), which is that of quality 50.
_LUMINANCE: Final = 3688


class RecordCounts:
    """Counts records while they are written."""

    def __init__(self) -> None:
        #: (split, dataset, method, label name) -> records.
        self.records: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
        #: Captions and masks of each split.
        self.captions: collections.Counter[str] = collections.Counter()
        self.masks: collections.Counter[str] = collections.Counter()
        #: Fakes by where their caption comes from.
        self.sources: collections.Counter[str] = collections.Counter()
        #: (label name, format) of the stored pictures.
        self.pictures: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, split: str, record: Record, source: str) -> None:
        """Counts a record; `source` is that of a fake's caption, empty for a real."""
        self.records[split, record.dataset, record.method, LABEL_NAMES[record.label]] += 1
        self.captions[split] += len(record.captions)
        self.masks[split] += bool(record.mask)
        self.pictures[LABEL_NAMES[record.label], stored_format(record.image)] += 1
        if source:
            self.sources[source] += 1


def stored_format(image: bytes) -> str:
    """Format of an encoded picture in words, of a JPEG with its quality, from its header alone.

    The quality is the one at which libjpeg's table for luminance is nearest to the picture's, rounded to 5.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(image)) as header:
            tables = getattr(header, "quantization", None) or {}
            name = str(header.format)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return "unknown"
    if 0 not in tables:
        return name
    scale = 100 * sum(tables[0]) / _LUMINANCE
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return f"{name}, quality about {min(max(5 * round(quality / 5), 5), 100)}"


def write_card(
    folder: Path,
    counts: RecordCounts,
    *,
    files: Sequence[Path],
    skipped: Mapping[str, int],
    split_rule: str,
    reals_without_video: int,
) -> dict[str, Any]:
    """Writes the card, the README and the checksums into a finished set; returns the card.

    Args:
        folder: the packed set.
        counts: what was written.
        files: the annotation files, of which the card keeps name and digest.
        skipped: pairs left out, by the code of their error.
        split_rule: how the splits were made, in words.
        reals_without_video: reals whose video no line names, which only their content keeps apart.
    """
    splits = {}
    for split in SPLITS:
        parts = {key[1:]: n for key, n in counts.records.items() if key[0] == split}
        if parts:
            splits[split] = {
                "records": sum(parts.values()),
                **{name: sum(n for k, n in parts.items() if k[2] == name) for name in LABEL_NAMES},
                "captions": counts.captions[split],
                "masks": counts.masks[split],
                "by_method": [
                    {"dataset": dataset, "method": method, "label": label, "records": n}
                    for (dataset, method, label), n in sorted(parts.items())
                ],
            }
    shards = sorted(folder.glob("*.array_record-*"))
    card = {
        "records": sum(counts.records.values()),
        "bytes": sum(path.stat().st_size for path in shards),
        "shards": len(shards),
        "splits": splits,
        "pictures": [
            {"label": label, "format": kind, "records": n}
            for (label, kind), n in sorted(counts.pictures.items())
        ],
        "split_rule": split_rule,
        "reals_told_by_content": reals_without_video,
        "fakes_by_caption_source": dict(sorted(counts.sources.items())),
        "skipped": dict(sorted(skipped.items())),
        "annotations": [{"file": file.name, "sha256": _digest(file)} for file in files],
    }
    atomic_write_text(folder / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    atomic_write_text(folder / "README.md", _readme(card))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    atomic_write_text(folder / CHECKSUMS, "".join(lines))
    return card


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a packed set; None where there is none that can be read. Its texts are untrusted."""
    try:
        card = json.loads(read_regular(regular(folder, CARD), _MAX_BYTES))
    except (UserError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) else None


def _readme(card: Mapping[str, Any]) -> str:
    rows = [
        f"| {split} | {plain_markdown(row['dataset'])} | {plain_markdown(row['method'])} | {row['label']} "
        f"| {row['records']} |"
        for split, content in card["splits"].items()
        for row in content["by_method"]
    ]
    sources = ", ".join(f"{n} {name}" for name, n in card["fakes_by_caption_source"].items())
    skipped = ", ".join(f"{n} {plain_markdown(code)}" for code, n in card["skipped"].items())
    return "\n".join(
        [
            "# Packed face-forgery set",
            "",
            f"{card['records']} records in {card['shards']} shards, {card['bytes']} bytes. "
            f"Splits: {card['split_rule']}.",
            "",
            "| split | data set | method | label | records |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Fakes by the source of their caption: {sources or 'no fakes'}.",
            f"Pairs left out because they were not annotated: {skipped or 'none'}.",
            "",
            "Read it with `tfds.builder_from_directory(DIR).as_data_source()`, or train on it by",
            f"naming this folder in `data.train`. `sha256sum -c {CHECKSUMS}` checks every file.",
            f"The same counts are in `{CARD}`.",
            "The images keep the terms of the data sets that they come from.",
            "",
        ]
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
