"""An example of a packed set: its fields, its schema in TFDS's words, and how one is read from its bytes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.proto import tf_example_pb2

from jax_vlffd.vocabulary import FAKE, LABEL_NAMES, REAL, REGIONS, TYPES

SPLITS: Final = ("train", "validation", "test")
DATASET_NAME: Final = "face_forgery"
INDEX_FOLDER: Final = "index"

#: One row a record: the row of its real in the same split (-1: none, or it is a real), the place of
#: its method in the index's list of methods, and its label.
INDEX_DTYPE: Final = np.dtype([("pair", "<i8"), ("method", "<u2"), ("label", "u1")], align=True)


#: Letters of a name, such as an id, and of a caption; a letter has at most four bytes.
MAX_NAME: Final = 4096
MAX_CAPTION: Final = 1 << 16
_MAX_CAPTIONS: Final = 16 << 20  # bytes of all captions of a record


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


class Sample(NamedTuple):
    """What of a record goes into batches; read in less than half a `Record`'s time. Fields as there."""

    id: str
    method: str
    pair: str
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


def parse_record(data: bytes) -> Record:
    """Reads one stored example (serialized `tf.train.Example`); the image stays encoded.

    About six times as fast as TFDS's own decoding, which goes through NumPy for every field.
    """
    field = _fields(data)

    def numbers(name: str) -> np.ndarray:
        return np.array(field[name].int64_list.value[:], np.int64)

    return Record(
        **_sample(field)._asdict(),
        dataset=_text(field, "dataset"),
        video=_text(field, "video"),
        frame=_text(field, "frame"),
        regions=numbers("regions"),
        types=numbers("types").reshape(len(REGIONS), len(TYPES)),
    )


def parse_sample(data: bytes) -> Sample:
    """Reads the batch fields of a stored example."""
    return _sample(_fields(data))


def _fields(data: bytes) -> Any:
    return tf_example_pb2.Example.FromString(data).features.feature


def _sample(field: Any) -> Sample:
    captions = field["captions"].bytes_list.value
    lengths = [len(caption) for caption in captions]
    if sum(lengths) > _MAX_CAPTIONS or max(lengths, default=0) > 4 * MAX_CAPTION:
        raise ValueError("its captions are longer than a record may have")
    label = field["label"].int64_list.value[0]
    if label not in (REAL, FAKE):
        raise ValueError(f"the label is {label}, neither {REAL} nor {FAKE}")
    return Sample(
        id=_text(field, "id"),
        method=_text(field, "method"),
        pair=_text(field, "pair"),
        image=field["image"].bytes_list.value[0],
        mask=field["mask"].bytes_list.value[0],
        label=label,
        captions=tuple(caption.decode() for caption in captions),
        raw_caption=_text(field, "raw_caption", MAX_CAPTION),
        caption_key=_text(field, "caption_key"),
    )


def _text(field: Any, name: str, max_letters: int = MAX_NAME) -> str:
    value: bytes = field[name].bytes_list.value[0]
    if len(value) > 4 * max_letters:
        raise ValueError(f"{name} has {len(value):,} bytes, more than a record may have")
    return value.decode()
