"""Writes packed sets: a TFDS builder over ArrayRecord, shard by shard.

A packed set is an ordinary TFDS folder, `tfds.builder_from_directory(DIR).as_data_source()` reads
it; TensorFlow is not needed. Beside the shards lies `index/`: one row of `INDEX_DTYPE` a record and
split, so that pairing, balance and restriction to some methods never scan the images.

TFDS's `GeneratorBasedBuilder` spills to TensorFlow's file system above 1 GB a split, so the builder
here is the shard-by-shard one, which needs neither TensorFlow nor memory beyond one shard.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from data_pipeline.packed.record import DATASET_NAME, INDEX_DTYPE, INDEX_FOLDER, Record, features
from jax_vlffd.file_writing import atomic_write_text

VERSION: Final = "1.0.0"
_DESCRIPTION: Final = (
    "Face images, real and forged, with captions that name the forged regions and how they look."
)
#: Yields one shard's records, each with the row of its real in the split (-1 when it has none).
Shard = Callable[[], Iterator[tuple[Record, int]]]


class FaceForgery(tfds.core.dataset_builder.ShardBasedBuilder):
    """TFDS builder of a packed set; `write_packed_set` runs it."""

    name = DATASET_NAME
    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = Path(__file__).parent

    def __init__(self, folder: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
        self._shards = shards
        self._methods: dict[str, int] = {}
        # In files, because there may be many.
        self._rows = {split: folder / f"{split}.rows" for split in shards}
        super().__init__(data_dir=str(folder), file_format="array_record")

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features(),
            disable_shuffling=True,
        )

    def _log_download_bytes(self) -> None:
        """Says nothing: nothing is downloaded, and the caller shows its own progress."""

    def _log_download_done(self) -> None:
        """Says nothing, as above."""

    def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
        del dl_manager
        return {
            split: [
                lambda split=split, shard=shard: self._examples(split, shard) for shard in shards
            ]
            for split, shards in self._shards.items()
        }

    def _examples(self, split: str, shard: Shard) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = []
        for key, (record, pair) in enumerate(shard()):
            method = self._methods.setdefault(record.method, len(self._methods))
            rows.append((pair, method, record.label))
            example = dataclasses.asdict(record)
            example["captions"] = list(record.captions)
            yield key, example
        index = np.zeros(
            len(rows), INDEX_DTYPE
        )  # by field, or its padding would be whatever was in memory
        for field, values in zip(INDEX_DTYPE.names or (), zip(*rows, strict=True), strict=False):
            index[field] = values
        with self._rows[split].open("ab") as file:
            file.write(index.tobytes())

    def write_index(self, folder: Path) -> None:
        """Writes `index/` into the finished set."""
        index = folder / INDEX_FOLDER
        index.mkdir()
        records = {}
        for split, path in self._rows.items():
            rows = np.memmap(path, INDEX_DTYPE, "r")
            records[split] = len(rows)
            np.save(index / f"{split}.npy", rows, allow_pickle=False)
        content = {"version": 1, "methods": list(self._methods), "records": records}
        atomic_write_text(index / "index.json", json.dumps(content, indent=2) + "\n")


def write_packed_set(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> Path:
    """Writes a packed set under `folder` and returns its folder.

    Args:
        folder: an existing, empty folder to work in.
        shards: for each split that has records, its shards in order.
    """
    builder = FaceForgery(folder, shards)
    # Asking Google's bucket whether it holds our set would need the network.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TFDS tells of working folders that are renamed later
    try:
        builder.download_and_prepare(download_config=config)
    finally:
        logging.set_verbosity(verbosity)
    written = Path(builder.data_dir)
    builder.write_index(written)
    return written
