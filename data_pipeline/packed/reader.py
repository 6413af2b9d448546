"""Reads packed sets without TFDS, which would import classes that the set names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from data_pipeline.packed import remote, set_files
from data_pipeline.packed.record import (
    DATASET_NAME,
    INDEX_DTYPE,
    INDEX_FOLDER,
    MAX_NAME,
    SPLITS,
    Record,
    Sample,
    parse_record,
    parse_sample,
    schema,
)
from jax_vlffd.errors import UserError, fault
from jax_vlffd.vocabulary import FAKE

_Parsed = TypeVar("_Parsed", Record, Sample)


class PackedSplit:
    """One split of a packed set, read at random; opening costs one look at each shard's header.

    A set in a bucket, as gs://BUCKET/SET, is copied to a local disk first.

    It pickles without its index and its open files, so Grain can send it to workers.

    Raises:
        UserError: the folder is missing, is not a packed set, or has no such split.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = remote.local(folder)
        self.split = split
        content = _index_content(self.folder)
        if split not in content["records"]:
            has = ", ".join(sorted(content["records"])) or "none"
            raise UserError(
                f"{self.folder} has no records in split {split!r} (it has: {has}); name another "
                "set, or pack again with --split or with a `split` in the annotation lines"
            )
        #: Method names; a row's `method` is a place in it.
        self.methods: tuple[str, ...] = tuple(content["methods"])
        shards = set_files.shards(self.folder, split, DATASET_NAME, schema())
        self._source = ArrayRecordDataSource(shards)
        self._index: np.ndarray | None = None
        if len(self.index) != len(self._source):
            raise UserError(
                f"{self.folder}: the index of split {split!r} has {len(self.index)} rows, the "
                f"shards have {len(self._source)}; pack it again"
            )
        remote.check_index(self.folder, split)

    @property
    def index(self) -> np.ndarray:
        """Memory-mapped rows of `INDEX_DTYPE`, one a record."""
        if self._index is None:
            path = set_files.regular(self.folder, f"{INDEX_FOLDER}/{self.split}.npy")
            try:
                index = np.lib.format.open_memmap(path, mode="r")
            except Exception as error:  # NumPy's reader of headers raises what it likes
                raise UserError(
                    f"{path} cannot be read ({fault(error)}); pack the set again"
                ) from error
            if index.dtype != INDEX_DTYPE or index.ndim != 1:
                raise UserError(f"{path} is not an index of this version; pack the set again")
            if len(index) and (
                index["method"].max() >= len(self.methods)
                or index["label"].max() > FAKE
                or not -1 <= index["pair"].min() <= index["pair"].max() < len(index)
            ):
                raise UserError(
                    f"{path} names methods, labels or rows that are not there; pack the set again"
                )
            self._index = index
        return self._index

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> Record:
        return self._read(row, parse_record)

    def sample(self, row: int) -> Sample:
        """What of a record goes into batches."""
        return self._read(row, parse_sample)

    def _read(self, row: int, parse: Callable[[bytes], _Parsed]) -> _Parsed:
        try:
            record = parse(self._source[row])
            self._check(row, record)
            return record
        except Exception as error:  # ArrayRecord and protobuf have errors of their own
            raise UserError(
                f"record {row} of {self.folder} ({self.split}) cannot be read ({error}); check the "
                "set with `sha256sum -c SHA256SUMS` and pack or copy it again"
            ) from error

    def _check(self, row: int, record: Record | Sample) -> None:
        """Checks a record against its row: by the index it was chosen, and a set is untrusted."""
        _, method, label = self.index[row].item()
        if label != record.label:
            raise ValueError(f"its label is {record.label}, in the index {label}")
        if label == FAKE and self.methods[method] != record.method:
            raise ValueError(f"its method is {record.method!r:.80}, in the index another")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}


def is_packed_set(folder: Path) -> bool:
    """Whether the folder holds a packed set."""
    return (folder / "dataset_info.json").is_file() and (
        folder / INDEX_FOLDER / "index.json"
    ).is_file()


def split_names(folder: str | Path) -> tuple[str, ...]:
    """The splits of a packed set that have records, in the usual order."""
    records = _index_content(Path(folder))["records"]
    return tuple(sorted(records, key=SPLITS.index))


def _index_content(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist; make the packed set with `python -m launch.pack`"
        )
    if not is_packed_set(folder):
        raise UserError(f"{folder} is not a packed set; make one with `python -m launch.pack`")
    path = folder / INDEX_FOLDER / "index.json"
    content = set_files.read_json(folder, f"{INDEX_FOLDER}/index.json")
    try:
        if content["version"] != 1:
            raise UserError(
                f"{path} is of version {content['version']!r:.80}, not 1; pack the set again"
            )
        methods, records = content["methods"], content["records"]
        if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in methods):
            raise ValueError("methods that are not names")
        if not set(records) <= set(SPLITS):
            raise ValueError("unknown splits")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.200}); pack the set again") from error
    return {"methods": methods, "records": records}
