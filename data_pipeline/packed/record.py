"""The packed set: an example's schema, its writer (a TFDS builder over ArrayRecord) and its reader.

A packed set is an ordinary TFDS folder, `tfds.builder_from_directory(DIR).as_data_source()` reads
it; TensorFlow is not needed. The reader here never asks TFDS, which imports what a set names. Beside
the shards lies `index/`: one row of `INDEX_DTYPE` a record and split, memory-mapped, so that pairing,
balance and restriction to some methods never scan the images.

TFDS's `GeneratorBasedBuilder` spills to TensorFlow's file system above 1 GB a split, so the builder
here is the shard-by-shard one, which needs neither TensorFlow nor memory beyond one shard.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf import json_format
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.core.files import atomic_write_text
from data_pipeline.packed import remote, set_files
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import LABEL_NAMES, REGIONS, TYPES

SPLITS: Final = ("train", "validation", "test")
DATASET_NAME: Final = "face_forgery"
VERSION: Final = "1.0.0"
INDEX_FOLDER: Final = "index"

#: One row a record: the row of its real in the same split (-1: none, or it is a real), the place of
#: its method in the index's list of methods, and its label.
INDEX_DTYPE: Final = np.dtype([("pair", "<i8"), ("method", "<u2"), ("label", "u1")], align=True)

_DESCRIPTION: Final = (
    "Face images, real and forged, with captions that name the forged regions and how they look."
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a packed set.

    Attributes:
        id: unique in its set.
        image: the encoded image, bytes as they were on disk.
        label: 0 real, 1 fake.
        dataset: the data set it comes from.
        method: the forgery method; of a real, "real".
        video: the video's name, or the record's id when it comes from no video.
        frame: the frame's name or number as text, may be empty.
        pair: id of the real that a fake came from; of a real, empty.
        captions: at least one; the first is the annotation's own, the others are paraphrases.
        raw_caption: the caption before refinement.
        caption_key: equal for captions that mean the same.
        regions: [4] int, 1 where forged, in the order of `vocabulary.REGIONS`.
        types: [4, 5] int, 1 where found, columns in the order of `vocabulary.TYPES`.
        mask: the encoded forgery mask, may be empty.
    """

    id: str
    image: bytes
    label: int
    dataset: str
    method: str
    video: str
    frame: str
    pair: str
    captions: tuple[str, ...]
    raw_caption: str
    caption_key: str
    regions: np.ndarray
    types: np.ndarray
    mask: bytes = b""


_Parsed = TypeVar("_Parsed")


class Sample(NamedTuple):
    """What of a record goes into batches; read in less than half a `Record`'s time. Fields as there."""

    id: str
    image: bytes
    mask: bytes
    label: int
    captions: tuple[str, ...]
    raw_caption: str
    caption_key: str


def features() -> Any:
    """The schema as TFDS features; `mask` is kept as plain bytes, because it may be empty."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "image": tfds.features.Image(shape=(None, None, 3), doc="Encoded as it was on disk."),
            "label": tfds.features.ClassLabel(names=list(LABEL_NAMES)),
            "dataset": text(),
            "method": text(),
            "video": text(),
            "frame": text(),
            "pair": text(doc="Id of the real that a fake came from."),
            "captions": tfds.features.Sequence(text()),
            "raw_caption": text(),
            "caption_key": text(),
            "regions": tfds.features.Tensor(shape=(len(REGIONS),), dtype=np.int64),
            "types": tfds.features.Tensor(shape=(len(REGIONS), len(TYPES)), dtype=np.int64),
            "mask": text(doc="Encoded forgery mask, may be empty."),
        }
    )


@functools.cache
def schema() -> dict[str, Any]:
    """What `features.json` of a packed set holds."""
    return json_format.MessageToDict(features().to_proto())  # type: ignore[no-any-return]


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
        self._rows: dict[str, list[np.ndarray]] = {split: [] for split in shards}
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
        self._rows[split].append(np.array(rows, INDEX_DTYPE))

    def write_index(self, folder: Path) -> None:
        """Writes `index/` into the finished set."""
        index = folder / INDEX_FOLDER
        index.mkdir()
        records = {}
        for split, parts in self._rows.items():
            rows = np.concatenate(parts)
            records[split] = len(rows)
            np.save(index / f"{split}.npy", rows, allow_pickle=False)
        content = {"version": 1, "methods": list(self._methods), "records": records}
        atomic_write_text(index / "index.json", json.dumps(content, indent=2) + "\n")


def write_packed_set(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> Path:
    """Writes a packed set under `folder` and returns the folder it lies in.

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


def parse_record(data: bytes) -> Record:
    """Reads one stored example (serialised `tf.train.Example`); the image stays encoded.

    About six times as fast as TFDS's own decoding, which goes through NumPy for every field.
    """
    field = _fields(data)

    def text(name: str) -> str:
        return field[name].bytes_list.value[0].decode()  # type: ignore[no-any-return]

    def numbers(name: str) -> np.ndarray:
        return np.array(field[name].int64_list.value[:], np.int64)

    return Record(
        **_sample(field)._asdict(),
        dataset=text("dataset"),
        method=text("method"),
        video=text("video"),
        frame=text("frame"),
        pair=text("pair"),
        regions=numbers("regions"),
        types=numbers("types").reshape(len(REGIONS), len(TYPES)),
    )


def parse_sample(data: bytes) -> Sample:
    """Reads of a stored example what goes into batches."""
    return _sample(_fields(data))


def _fields(data: bytes) -> Any:
    return tf_example_pb2.Example.FromString(data).features.feature


def _sample(field: Any) -> Sample:
    return Sample(
        id=field["id"].bytes_list.value[0].decode(),
        image=field["image"].bytes_list.value[0],
        mask=field["mask"].bytes_list.value[0],
        label=field["label"].int64_list.value[0],
        captions=tuple(caption.decode() for caption in field["captions"].bytes_list.value),
        raw_caption=field["raw_caption"].bytes_list.value[0].decode(),
        caption_key=field["caption_key"].bytes_list.value[0].decode(),
    )


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

    @property
    def index(self) -> np.ndarray:
        """Memory-mapped rows of `INDEX_DTYPE`, one a record."""
        if self._index is None:
            path = set_files.regular(self.folder, f"{INDEX_FOLDER}/{self.split}.npy")
            try:
                index = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read ({error}); pack the set again") from error
            if index.dtype != INDEX_DTYPE or index.ndim != 1:
                raise UserError(f"{path} is not an index of this version; pack the set again")
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
            return parse(self._source[row])
        except Exception as error:  # ArrayRecord and protobuf have errors of their own
            raise UserError(
                f"record {row} of {self.folder} ({self.split}) cannot be read ({error}); check the "
                "set with `sha256sum -c SHA256SUMS` and pack or copy it again"
            ) from error

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
        if not all(isinstance(name, str) for name in methods) or not set(records) <= set(SPLITS):
            raise ValueError("unknown methods or splits")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.200}); pack the set again") from error
    return {"methods": methods, "records": records}
