"""Reads the files of a packed set by fixed names: the set is untrusted, so no path in it is followed.

TFDS imports the classes that `features.json` names and opens the files that `dataset_info.json` names. Here
both are compared with what we write, and the shards are opened by their own names; TFDS is not used.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from jax_vlffd.errors import UserError
from jax_vlffd.files import read_regular

_MAX_BYTES: Final = 16 << 20  # of a JSON file: 100,000 shards take 1 MB
_MAX_SHARDS: Final = 100_000
_MAX_RECORDS: Final = 1 << 40
_FORMAT: Final = "array_record"
#: TFDS's default, the only one that we write.
_TEMPLATE: Final = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_REMEDY: Final = "pack the set again"


class Shard(NamedTuple):
    """A shard to read whole, with the fields that ArrayRecord's data source asks for."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def shards(folder: Path, split: str, name: str, schema: Mapping[str, Any]) -> list[Shard]:
    """The shards of a split, in order; none is opened.

    Args:
        folder: the packed set.
        split: one of its splits.
        name: of the TFDS data set, as shards are called by it.
        schema: what `features.json` must hold.

    Raises:
        UserError: the set has another schema, name, format or file names than ours, or a file is missing, is no
            regular file, or lies outside the folder.
    """
    if read_json(folder, "features.json") != schema:
        raise UserError(
            f"{folder / 'features.json'} is not the schema of a packed set of this version; {_REMEDY}"
        )
    lengths = _lengths(folder, split, name)
    listed = []
    for number, length in enumerate(lengths):
        file = f"{name}-{split}.{_FORMAT}-{number:05d}-of-{len(lengths):05d}"
        listed.append(Shard(str(regular(folder, file)), 0, length, length))
    return listed


def _lengths(folder: Path, split: str, name: str) -> list[int]:
    """The number of records in each shard of a split."""
    path = folder / "dataset_info.json"
    info = read_json(folder, path.name)
    try:
        for key, expected in (("name", name), ("fileFormat", _FORMAT)):
            if info[key] != expected:
                raise UserError(f"{path}: {key} is {info[key]!r:.80}, not {expected!r}; {_REMEDY}")
        (entry,) = (entry for entry in info["splits"] if entry["name"] == split)
        template = entry.get("filepathTemplate", _TEMPLATE)
        if template != _TEMPLATE:
            raise UserError(
                f"{path}: filepathTemplate is {template!r:.80}, not {_TEMPLATE!r}; {_REMEDY}"
            )
        if not 0 < len(entry["shardLengths"]) <= _MAX_SHARDS:
            raise ValueError(f"split {split} has no such number of shards")
        lengths = [int(str(length)) for length in entry["shardLengths"]]
        if min(lengths) < 0 or sum(lengths) > _MAX_RECORDS:
            raise ValueError(f"split {split} has no such shards")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.200}); {_REMEDY}") from error
    return lengths


def read_json(folder: Path, file: str) -> Any:
    """The content of a small JSON file of a set.

    Raises:
        UserError: it is missing, damaged, too large, no regular file, or outside the folder.
    """
    path = regular(folder, file)
    try:
        return json.loads(read_regular(path, _MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.200}); {_REMEDY}") from error


def regular(folder: Path, file: str) -> Path:
    """The path of a regular file in a set; links are followed, and may not lead out of it.

    In the Hugging Face cache every file is a link into the `blobs` beside the snapshots; those are let be.

    Raises:
        UserError: it is missing, another kind of file, or lies outside.
    """
    path = folder / file
    try:
        real, home = path.resolve(strict=True), folder.resolve()
        mode = os.stat(real).st_mode
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({why}); {_REMEDY}") from error
    hub = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not (real.is_relative_to(home) or real.is_relative_to(hub)):
        raise UserError(f"{path} is a link out of its set; copy the file itself there")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a regular file; {_REMEDY}")
    return path
