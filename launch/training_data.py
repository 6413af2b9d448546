"""What a run was trained and validated on, kept in its workdir as `training_data.json`.

Whoever reads a workdir learns methods, data cards and digests from this file, and never opens a folder that the
workdir's config names: a workdir may be a stranger's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline import copied_sets, face_geometry
from data_pipeline.data_card import read_card
from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write_text, read_regular
from data_pipeline.json_reading import parse_json
from data_pipeline.records import PackedSplit
from data_pipeline.settings import DataSettings
from jax_vlffd import geometry

FILE: Final = geometry.FILE
VERSION: Final = 1
_MAX_BYTES: Final = 16 << 20
#: Splits that a run reads, by their key in the file.
_SPLITS: Final = {"train": "train", "validation": "validation"}


def describe(data: DataSettings) -> dict[str, Any]:
    """The sets of a run, each with its digest, its number of records, the methods used, its data card, and how
    its faces lie in their pictures (null where that is not known).

    Raises:
      UserError: a set is missing or damaged.
    """
    return describe_sets([folder for folder, _ in data.train], data.validation, data.methods)


def describe_sets(
    train: Sequence[str], validation: Sequence[str], methods: Sequence[str] = ()
) -> dict[str, Any]:
    """The same of packed sets that are named; `methods` are those trained on, all of the sets' when empty."""
    folders = {"train": train, "validation": validation}
    return {
        "version": VERSION,
        **{
            key: [_describe(folder, _SPLITS[key], methods) for folder in found]
            for key, found in folders.items()
        },
    }


def _describe(folder: str, split: str, methods: Sequence[str]) -> dict[str, Any]:
    opened = PackedSplit(folder, split)
    there = {opened.methods[number] for number in set(opened.index["method"].tolist())} - {"real"}
    return {
        "set": folder,
        "digest": copied_sets.set_digest(opened.folder),
        "records": len(opened),
        "methods": sorted(there & set(methods) if methods else there),
        "card": read_card(opened.folder),
        "geometry": geometry.quantiles(face_geometry.read(opened.folder, split, len(opened))),
    }


def save(workdir: Path, described: Mapping[str, Any]) -> None:
    """Writes `training_data.json`."""
    atomic_write_text(workdir / FILE, json.dumps(dict(described), indent=2) + "\n")


def read(folder: Path) -> dict[str, Any] | None:
    """What a workdir or an export was trained on; None where it was made before this was kept.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = parse_json(read_regular(path, _MAX_BYTES))
        assert content["version"] == VERSION
        for entry in (*content["train"], *content["validation"]):
            assert isinstance(entry["set"], str)
            assert isinstance(entry["digest"], str)
            assert all(isinstance(method, str) for method in entry["methods"])
            assert entry["card"] is None or isinstance(entry["card"], dict)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(
            f"{path}: not a description of training sets of version {VERSION}; copy the workdir again"
        ) from error
    return content  # type: ignore[no-any-return]


def methods(content: Mapping[str, Any], key: str = "train") -> tuple[str, ...]:
    """The methods of forgery over all sets of `train` or `validation`, sorted."""
    return tuple(sorted({method for entry in content[key] for method in entry["methods"]}))
