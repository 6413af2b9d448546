"""What a run reads and how: plain, frozen settings, checked when they are made.

Imports nothing heavy, so that a command can build them before anything else is loaded. The image
size and the text length belong to the model and are passed to the loader by the caller.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Final

from jax_vlffd.errors import UserError

#: Views of the caption that feed the fusion branch (ours, against verdict leakage).
FUSED_CAPTIONS: Final = ("full", "no_verdict", "shuffled")

#: Which captions of a record are drawn from.
CAPTION_CHOICES: Final = ("all", "raw", "label_only", "shuffled")


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """Probabilities and ranges of the training augmentations; a probability of 0 turns one off.

    Attributes:
        flip: probability of mirroring left and right.
        resize_crop: probability of taking a smaller square somewhere in the image.
        resize_crop_side: its side, least and most, as a share of the image's shorter side.
        jpeg: probability of compressing again as JPEG.
        jpeg_quality: quality, least and most, 1 to 100.
        blur: probability of a Gaussian blur.
        blur_sigma: its sigma in pixels of the model's image, least and most.
        noise: probability of Gaussian noise.
        noise_std: its standard deviation in grey levels of 255, least and most.
        color: probability of changing brightness, contrast and saturation.
        color_strength: each changes by a factor between 1 - this and 1 + this.
        cutout: probability of covering a rectangle with CLIP's mean colour.
        cutout_side: its sides as a share of the image's, least and most.
    """

    flip: float = 0.5
    resize_crop: float = 0.5
    resize_crop_side: tuple[float, float] = (0.8, 1.0)
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (40, 95)
    blur: float = 0.1
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    noise: float = 0.1
    noise_std: tuple[float, float] = (1.0, 8.0)
    color: float = 0.3
    color_strength: float = 0.2
    cutout: float = 0.1
    cutout_side: tuple[float, float] = (0.1, 0.3)

    def __post_init__(self) -> None:
        for name in ("flip", "resize_crop", "jpeg", "blur", "noise", "color", "cutout"):
            _check_number(f"augment.{name}", getattr(self, name), 0.0, 1.0)
        _check_number("augment.color_strength", self.color_strength, 0.0, 1.0)
        for name, least, most in (
            ("resize_crop_side", 0.05, 1.0),
            ("jpeg_quality", 1, 100),
            ("blur_sigma", 0.0, 50.0),
            ("noise_std", 0.0, 255.0),
            ("cutout_side", 0.0, 1.0),
        ):
            object.__setattr__(
                self, name, _range(f"augment.{name}", getattr(self, name), least, most)
            )

    @classmethod
    def none(cls) -> AugmentSettings:
        """No augmentation at all: every probability is 0."""
        return cls(flip=0, resize_crop=0, jpeg=0, blur=0, noise=0, color=0, cutout=0)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What is read for training and validation.

    Attributes:
        train: packed sets and their weights, `((folder, weight), ...)`; the split `train` of each is
            read. Weights are relative: the share of the examples that comes from each set.
        validation: folders of packed sets whose split `validation` is watched during training.
        tokenizer: folder or hub id of the tokenizer's files; "" means that the caller names it (the
            trainer takes the one that lies with the pretrained checkpoint).
        batch_size: examples of one step over all processes.
        workers: processes that read and decode on each host; 0 reads in threads of the main process.
        prefetch: batches kept ready by each worker (or by the main process when `workers` is 0).
        seed: the order, the captions and the augmentations follow from it and from nothing else.
        balance: share of fakes among the examples, strictly between 0 and 1, or None for the set's
            own. A paired batch is half and half by construction, so it goes without.
        paired: a fake comes together with the real it was made from, in the same batch.
        methods: forgery methods to train on, and to be judged by in validation; empty means all.
            Reals are always kept.
        captions: `all` draws one of the record's captions at random, `raw` takes the caption before
            refinement, `label_only` takes the fixed verdict sentence alone, `shuffled` takes one of
            another record with the same label: a control, whose verdict is true and whose regions
            and types are another face's.
        fused_caption: what the fusion branch reads: `full` the same caption, `no_verdict` the caption
            without the sentences that state the verdict, `shuffled` that of another record.
        max_bad_share: the run stops when a larger share of the images read does not decode; judged
            against at least 1000 images, so that one of the first does not stop it.
        augment: the training augmentations.
    """

    train: tuple[tuple[str, float], ...] = ()
    validation: tuple[str, ...] = ()
    tokenizer: str = ""
    batch_size: int = 256
    workers: int = 0
    prefetch: int = 2
    seed: int = 0
    balance: float | None = None
    paired: bool = False
    methods: tuple[str, ...] = ()
    captions: str = "all"
    fused_caption: str = "full"
    max_bad_share: float = 0.01
    augment: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", _weighted_folders(self.train))
        object.__setattr__(self, "validation", _strings("data.validation", self.validation))
        object.__setattr__(self, "methods", _strings("data.methods", self.methods))
        _check_integer("data.batch_size", self.batch_size, 1)
        _check_integer("data.workers", self.workers, 0)
        _check_integer("data.prefetch", self.prefetch, 1)
        _check_integer("data.seed", self.seed, 0)
        _check_number("data.max_bad_share", self.max_bad_share, 0.0, 1.0)
        _check_choice("data.fused_caption", self.fused_caption, FUSED_CAPTIONS)
        _check_choice("data.captions", self.captions, CAPTION_CHOICES)
        if self.balance is not None and not 0.0 < self.balance < 1.0:
            raise UserError(
                f"data.balance is {self.balance}: give a share of fakes strictly between 0 and 1, "
                "or None"
            )
        if self.paired and self.balance is not None:
            raise UserError(
                "data.balance cannot be set with data.paired: pairs are half and half already"
            )
        if self.paired and self.batch_size % 2:
            low = self.batch_size - 1
            raise UserError(
                f"data.batch_size is {self.batch_size}, but data.paired needs an even one: take "
                + (f"{low} or {low + 2}" if low else "2")
            )


def _weighted_folders(value: Any) -> tuple[tuple[str, float], ...]:
    pairs = []
    for entry in _sequence("data.train", value):
        if isinstance(entry, str) or len(tuple(entry)) != 2:
            raise UserError(f"data.train holds {entry!r}: each entry is (folder, weight)")
        folder, weight = entry
        if not isinstance(folder, str) or not folder:
            raise UserError(f"data.train holds {entry!r}: the folder must be a path")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"data.train holds {entry!r}: the weight must be a number")
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(f"data.train gives {folder} the weight {weight}: it must be above 0")
        pairs.append((folder, float(weight)))
    return tuple(pairs)


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{name} is {value!r}: it must be a tuple, for example ('one',)")
    return tuple(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    entries = _sequence(name, value)
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise UserError(f"{name} holds {entry!r}: each entry must be text")
    return entries


def _range(name: str, value: Any, least: float, most: float) -> tuple[Any, Any]:
    entries = _sequence(name, value)
    if len(entries) != 2 or not least <= entries[0] <= entries[1] <= most:
        raise UserError(f"{name} is {value!r}: it must be (low, high) within {least} and {most}")
    return entries[0], entries[1]


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise UserError(f"{name} is {value!r}: it must be between {least} and {most}")


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} is {value!r}: it must be a whole number of at least {least}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
