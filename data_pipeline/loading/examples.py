"""From stored records to batches of arrays: the work that Grain's threads and workers do."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import cv2
import numpy as np

from data_pipeline.core.images import InputError, decode_image
from data_pipeline.loading.augment import degrade, draw_geometry
from data_pipeline.loading.sampling import Mixture
from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.record import Sample
from jax_vlffd.errors import UserError
from jax_vlffd.preprocessing import CENTER, Geometry, square_view
from jax_vlffd.settings import Resize
from jax_vlffd.vocabulary import LABEL_NAMES, VERDICTS, without_verdict

#: A batch; see `loader` for its fields.
Batch = dict[str, np.ndarray]

#: A pixel of a mask counts as forged from so many gray levels of 255 on. The annotator's masks are differences
#: of color less the noise of compression, and a clear forgery is often a difference of a few levels.
FORGED_FROM: Final = 5

#: So many undecodable units in a row mean that the set is broken, not some image.
_MAX_ATTEMPTS: Final = 100


class Example(NamedTuple):
    """One example before it is put into a batch."""

    image: np.ndarray
    caption: str
    fused: str
    label: int
    caption_key: int
    number: int
    forged_patches: np.ndarray | None = None
    bad: int = 0
    bad_number: int = -1
    valid: bool = True


class Units(Protocol):
    """Units by number: a Grain dataset, a range."""

    def __getitem__(self, number: int, /) -> Any:
        """The unit."""


def caption_key_number(key: str) -> int:
    """A caption key as a non-negative int32, the same in every process and run (CRC-32)."""
    return zlib.crc32(key.encode()) & 0x7FFFFFFF


def choose_caption(record: Sample, choice: str, rng: np.random.Generator | None) -> tuple[str, int]:
    """The caption of a record, and its key's number.

    Args:
        record: the record.
        choice: as `DataSettings.captions`.
        rng: draws among the captions; None takes the first.

    Raises:
        UserError: the record has no caption.
    """
    if choice == "label_only":
        return VERDICTS[record.label], caption_key_number(LABEL_NAMES[record.label])
    captions = (record.raw_caption,) if choice == "raw" else record.captions
    if not captions or not captions[0]:
        raise UserError(
            f"record {record.id!r} has no {'raw ' if choice == 'raw' else ''}caption: annotate its "
            "set with `python -m launch.annotate` and pack it again, or set "
            "data.captions=label_only"
        )
    position = 0 if rng is None or len(captions) == 1 else int(rng.integers(len(captions)))
    return captions[position], caption_key_number(record.caption_key)


def forged_patches(
    record: Sample,
    image: np.ndarray,
    size: int,
    grid: int,
    geometry: Geometry = CENTER,
    resize: Resize = "antialiased",
) -> np.ndarray:
    """How much of each patch of a view is forged, as the record's mask has it.

    Args:
        record: of a real, nothing is forged; a fake's mask, whose pixels are forged from `FORGED_FROM`
            on, may be missing or damaged.
        image: the record's, uint8 [H, W, 3]; a mask of another size is not its mask.
        size: side of the view in pixels.
        grid: patches along it; divides it.
        geometry: of the view.
        resize: of the view.

    Returns:
        float32 [grid * grid], shares from 0 to 1, row by row; all -1 where they are not known.
    """
    if not record.label:
        return np.zeros(grid * grid, np.float32)
    try:
        mask = decode_image(record.mask)
    except InputError:
        mask = np.zeros((0, 0, 3), np.uint8)
    if mask.shape != image.shape:
        return np.full(grid * grid, -1, np.float32)
    forged = np.where(mask >= FORGED_FROM, np.uint8(255), np.uint8(0))
    view = square_view(forged, size, geometry, resize)[..., 0]
    shares = cv2.resize(view, (grid, grid), interpolation=cv2.INTER_AREA)
    return shares.reshape(-1).astype(np.float32) / 255


class LoadUnit:
    """Reads, decodes and augments one unit of the training mixture.

    A unit with an image that does not decode is replaced by another of its stream, drawn by the
    same generator, so the replacement depends on the seed alone; the examples say how many were
    skipped.
    """

    def __init__(
        self,
        mixture: Mixture,
        settings: DataSettings,
        image_size: int,
        mask_grid: int = 0,
        resize: Resize = "antialiased",
    ) -> None:
        self._mixture = mixture
        self._settings = settings
        self._size = image_size
        self._grid = mask_grid
        self._resize: Resize = resize

    def __call__(self, unit: int, rng: np.random.Generator) -> list[Example]:
        """Makes the examples of a unit of `Mixture.units`: one, or the fake's and its real's."""
        stream, number = self._mixture.locate(unit)
        skipped, last_bad = 0, -1
        for _ in range(_MAX_ATTEMPTS):
            rows = stream.unit(number)
            records = [stream.split.sample(row) for row in rows]
            numbers = [stream.start + row for row in rows]
            if len(records) == 2 and (records[0].pair != records[1].id or records[1].label):
                raise UserError(
                    f"{stream.split.folder} ({stream.split.split}): the index pairs {records[0].id!r:.80} with "
                    f"{records[1].id!r:.80}, which is not its real; pack the set again"
                )
            images = []
            for record, record_number in zip(records, numbers, strict=True):
                try:
                    images.append(decode_image(record.image))
                except InputError:
                    skipped, last_bad = skipped + 1, record_number
            if len(images) == len(records):
                break
            number = int(rng.integers(len(stream)))
        else:
            raise UserError(
                f"{stream.split.folder} ({stream.split.split}): {_MAX_ATTEMPTS} records in a row "
                "do not decode; pack the set again from sound images"
            )
        geometry = draw_geometry(self._settings.augment, rng)
        examples = []
        for record, record_number, image in zip(records, numbers, images, strict=True):
            view = square_view(image, self._size, geometry, self._resize)
            view = degrade(view, self._settings.augment, rng)
            caption, key = self._caption(record, rng)
            forged = None
            if self._grid:
                forged = forged_patches(
                    record, image, self._size, self._grid, geometry, self._resize
                )
            examples.append(
                Example(
                    view, caption, self._fused(caption, rng), record.label, key, record_number,
                    forged,
                )
            )  # fmt: skip
        examples[0] = examples[0]._replace(bad=skipped, bad_number=last_bad)
        return examples

    def _caption(self, record: Sample, rng: np.random.Generator) -> tuple[str, int]:
        choice = self._settings.captions
        if choice == "shuffled":
            choice, label = "all", record.label
            record = self._mixture.draw(rng)
            while record.label != label:  # it has records of this label: here is one
                record = self._mixture.draw(rng)
        return choose_caption(record, choice, rng)

    def _fused(self, caption: str, rng: np.random.Generator) -> str:
        if self._settings.fused_caption == "no_verdict":
            return without_verdict(caption)
        if self._settings.fused_caption == "shuffled":
            return choose_caption(self._mixture.draw(rng), self._settings.captions, rng)[0]
        return caption


class LoadRow:
    """Reads one record for evaluation: the centered view, the first caption, no augmentation."""

    def __init__(
        self,
        split: PackedSplit,
        rows: Sequence[int] | np.ndarray,
        image_size: int,
        captions: str,
        fused_caption: str,
        corrupt: Callable[[np.ndarray], np.ndarray] | None,
        resize: Resize,
    ) -> None:
        self._split = split
        self._rows = rows
        self._size = image_size
        self._captions = captions
        self._fused_caption = fused_caption
        self._corrupt = corrupt
        self._resize: Resize = resize

    def __call__(self, position: int, rng: np.random.Generator) -> list[Example]:
        """Makes the example of the `position`-th selected row, or padding beyond the last."""
        black = np.zeros((self._size, self._size, 3), np.uint8)
        if position >= len(self._rows):
            return [Example(black, "", "", 0, 0, -1, valid=False)]
        row = int(self._rows[position])
        record = self._split.sample(row)
        caption, key = choose_caption(record, self._captions, None)
        fused = caption
        if self._fused_caption == "no_verdict":
            fused = without_verdict(caption)
        elif self._fused_caption == "shuffled":
            other = self._split.sample(int(self._rows[int(rng.integers(len(self._rows)))]))
            fused = choose_caption(other, self._captions, None)[0]
        example = Example(black, caption, fused, record.label, key, row)
        try:
            image = square_view(decode_image(record.image), self._size, resize=self._resize)
        except InputError:
            return [example._replace(bad=1, bad_number=row, valid=False)]
        if self._corrupt is not None:
            image = self._corrupt(image)
        return [example._replace(image=image)]


class LoadBatch:
    """Makes the n-th batch of a sequence of units.

    A batch is one element for Grain: a chain of its own for every unit would take about as long as reading
    the record does, and an image goes into the batch while the processor's cache still holds it.

    Args:
        units: gives a unit by its number, as a Grain dataset does.
        load: makes a unit's examples, with a generator whose draws follow from the seed and the unit's number.
        count: units in a batch.
        size: examples in a batch.
        image_size: side of the model's image.
        tokenizer: the model's.
        text_length: tokens a caption.
        seed: of the generators.
    """

    def __init__(
        self,
        units: Units,
        load: Callable[[Any, np.random.Generator], list[Example]],
        *,
        count: int,
        size: int,
        image_size: int,
        tokenizer: Tokenizer,
        text_length: int,
        seed: int,
    ) -> None:
        self._units = units
        self._load = load
        self._count = count
        self._shape = (size, image_size, image_size, 3)
        self._tokenizer = tokenizer
        self._length = text_length
        self._seed = seed

    def __call__(self, number: int) -> Batch:
        """Makes the batch; see `loader` for its fields."""
        images = np.empty(self._shape, np.uint8)
        examples: list[Example] = []
        rng = np.random.Generator(np.random.Philox(self._seed))
        state = rng.bit_generator.state
        for unit in range(number * self._count, (number + 1) * self._count):
            state["state"]["counter"][3] = unit  # no unit draws 2^192 times
            rng.bit_generator.state = state
            for example in self._load(self._units[unit], rng):
                position = len(examples)
                images[position] = example.image
                examples.append(example._replace(image=images[position]))
        return self._batch(images, examples)

    def _batch(self, images: np.ndarray, examples: list[Example]) -> Batch:
        tokens = self._tokenizer.encode([e.caption for e in examples], self._length)
        if all(e.fused == e.caption for e in examples):
            fused = tokens.copy()
        else:
            fused = self._tokenizer.encode([e.fused for e in examples], self._length)
        batch = {
            "image": images,
            "tokens": tokens,
            "fused_tokens": fused,
            "label": np.array([e.label for e in examples], np.int32),
            "caption_key": np.array([e.caption_key for e in examples], np.int32),
            "valid": np.array([e.valid for e in examples], bool),
            "index": np.array([e.number for e in examples], np.int64),
            "bad": np.array([e.bad for e in examples], np.int32),
            "bad_index": np.array([e.bad_number for e in examples], np.int64),
        }
        forged = [e.forged_patches for e in examples if e.forged_patches is not None]
        return batch | ({"forged_patches": np.stack(forged)} if forged else {})
