"""Record of the sets that a run was trained and validated on: `training_data.json` in its workdir.

It also names the pretrained weights that the run began with, as `initial_weights`; null for none.

Readers of a workdir take methods, data cards and digests from this file, and never open a folder that its
config names: a workdir is untrusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.loading.settings import DataSettings
from data_pipeline.packed import face_geometry, remote
from data_pipeline.packed.card import read_card
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd import geometry, hub
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import read_regular
from jax_vlffd.json_reading import parse_json

FILE: Final = geometry.FILE
VERSION: Final = 1
_MAX_BYTES: Final = 16 << 20
#: Split of the sets, by their key in the file.
_SPLITS: Final = {"train": "train", "validation": "validation"}


def describe(data: DataSettings) -> dict[str, Any]:
    """Describes a run's sets: digest, number of records, methods used, data card, and face geometry or None.

    Raises:
      UserError: a set is missing or damaged.
    """
    return describe_sets([folder for folder, _ in data.train], data.validation, data.methods)


def describe_sets(
    train: Sequence[str], validation: Sequence[str], methods: Sequence[str] = ()
) -> dict[str, Any]:
    """Describes packed sets like `describe`; `methods` are those trained on, all if empty."""
    folders = {"train": train, "validation": validation}
    return {
        "version": VERSION,
        **{
            key: [_describe(folder, _SPLITS[key], methods) for folder in paths]
            for key, paths in folders.items()
        },
    }


def _describe(folder: str, split: str, methods: Sequence[str]) -> dict[str, Any]:
    packed = PackedSplit(folder, split)
    available = {packed.methods[number] for number in set(packed.index["method"].tolist())} - {
        "real"
    }
    return {
        "set": folder,
        "digest": remote.set_digest(packed.folder),
        "records": len(packed),
        "methods": sorted(available & set(methods) if methods else available),
        "card": read_card(packed.folder),
        "geometry": geometry.quantiles(face_geometry.read(packed.folder, split, len(packed))),
    }


def digests(described: Mapping[str, Any]) -> dict[str, str]:
    """Name -> digest of the sets and of the files of the pretrained weights."""
    by_name = {
        f"{key} set {entry['set']}": entry["digest"] for key in _SPLITS for entry in described[key]
    }
    huggingface = described.get("initial_weights") or {"files": {}}
    return by_name | {
        f"{huggingface['source']}/{name}": d for name, d in huggingface["files"].items()
    }


def initial_weights(source: str, *, cached: bool = False) -> dict[str, Any]:
    """Describes the pretrained weights of a run: source, commit, and a digest of each file.

    Args:
      source: a folder, or `ID` or `ID@REVISION` of the Hugging Face hub, which is downloaded first.
      cached: nothing is downloaded; a hub id must be in the cache.

    Raises:
      UserError: they cannot be opened.
    """
    from jax_vlffd.clip import huggingface

    opened = huggingface.open_checkpoint(source, cached=cached)
    files = {}
    for path in [opened.folder / "config.json", *sorted(set(opened.tensors.values()))]:
        with path.open("rb") as file:
            files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    of_hub = not Path(source).is_dir()
    revision = hub.commit(opened.folder) if of_hub else None
    return {"source": source, "revision": revision, "files": files}


def check_same_weights(workdir: Path, source: str, weights: Mapping[str, Any] | None) -> None:
    """Checks that a continued run names the weights that it began with, although it does not read them again.

    They are compared where they are at hand: a folder, or files in the hub's cache. Nothing is downloaded.

    Args:
      workdir: of the run.
      source: a folder or a hub id, as the config names it now; '' for none.
      weights: of `initial_weights` when the run began; None if it is not recorded.

    Raises:
      UserError: they are others; names the first file that differs.
    """
    if not source or not weights or not weights["files"]:
        return
    try:
        now = initial_weights(source, cached=True)
    except UserError:
        return
    then, files = weights["files"], now["files"]
    changed = sorted(name for name in {*then, *files} if then.get(name) != files.get(name))
    if changed:
        began = hub.pinned(weights["source"], weights["revision"])
        raise UserError(
            f"{hub.pinned(source, now['revision'])} is not what {workdir} was begun with, {began} "
            f"({changed[0]} differs); give init.clip or init.vit as then, or use another --workdir"
        )


def check_same(workdir: Path, described: Mapping[str, Any]) -> dict[str, Any] | None:
    """Checks that the sets are those that the workdir began with; older workdirs have no record of them.

    Returns:
      The workdir's record, or None.

    Raises:
      UserError: a set has changed; names it.
    """
    before = read(workdir)
    if before is None:
        return None
    for key in _SPLITS:
        for then, now in zip(before[key], described[key], strict=False):
            if then["digest"] != now["digest"]:
                raise UserError(
                    f"data.{key}: {now['set']} is not the set that {workdir} was begun with (it was packed "
                    "anew, or its files were changed); use that set, or another --workdir"
                )
    return before


def save(workdir: Path, described: Mapping[str, Any]) -> None:
    """Writes `training_data.json`."""
    atomic_write_text(workdir / FILE, json.dumps(dict(described), indent=2) + "\n")


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a workdir or an export; None if it was made by an older version.

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
        weights = content.get("initial_weights")
        assert weights is None or isinstance(weights["source"], str)
        assert weights is None or isinstance(weights["revision"], str | None)
        assert weights is None or all(isinstance(d, str) for d in weights["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{path}: not a description of training sets of version {VERSION}; copy the workdir again"
        ) from error
    return content  # type: ignore[no-any-return]


def methods(content: Mapping[str, Any], key: str = "train") -> tuple[str, ...]:
    """The sorted methods of forgery over all sets of `train` or `validation`."""
    return tuple(sorted({method for entry in content[key] for method in entry["methods"]}))
