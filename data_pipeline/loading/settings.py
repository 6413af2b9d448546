"""Data settings of a run: frozen and validated on construction.

Imports nothing heavy, so that a command can build them before anything else is loaded. The image
size and the text length belong to the model and are passed to the loader by the caller.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from jax_vlffd.errors import UserError
from jax_vlffd.settings import AsTuple, Name, Share, settings

#: Which captions of a record are drawn from.
CaptionChoice = Literal["all", "raw", "label_only", "shuffled"]
#: Views of the caption that feed the fusion branch (ours, against verdict leakage).
FusedCaption = Literal["full", "no_verdict", "shuffled"]


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("it must be (low, high)")
    return value


_Ascending = AfterValidator(_ascending)
_Side = Annotated[float, Field(ge=0.05, le=1)]
_Quality = Annotated[int, Field(ge=1, le=100)]
_Sigma = Annotated[float, Field(ge=0, le=50)]
_Level = Annotated[float, Field(ge=0, le=255)]


@settings("data.augment.")
class AugmentSettings:
    """Probabilities and ranges of the training augmentations; a probability of 0 turns one off.

    Attributes:
        flip: probability of mirroring left and right.
        resize_crop: probability of taking a smaller square somewhere in the image.
        resize_crop_side: its side, lowest and highest, as a share of the image's shorter side.
        jpeg: probability of compressing again as JPEG.
        jpeg_quality: quality, lowest and highest, 1 to 100.
        blur: probability of a Gaussian blur.
        blur_sigma: its sigma in pixels of the model's image, lowest and highest.
        noise: probability of Gaussian noise.
        noise_std: its standard deviation in gray levels of 255, lowest and highest.
        color: probability of changing brightness, contrast and saturation.
        color_strength: each changes by a factor between 1 - this and 1 + this.
        cutout: probability of covering a rectangle with CLIP's mean color.
        cutout_side: its sides as a share of the image's, lowest and highest.
    """

    flip: Share = 0.5
    resize_crop: Share = 0.5
    resize_crop_side: Annotated[tuple[_Side, _Side], AsTuple, _Ascending] = (0.8, 1.0)
    jpeg: Share = 0.3
    jpeg_quality: Annotated[tuple[_Quality, _Quality], AsTuple, _Ascending] = (40, 95)
    blur: Share = 0.1
    blur_sigma: Annotated[tuple[_Sigma, _Sigma], AsTuple, _Ascending] = (0.3, 1.5)
    noise: Share = 0.1
    noise_std: Annotated[tuple[_Level, _Level], AsTuple, _Ascending] = (1.0, 8.0)
    color: Share = 0.3
    color_strength: Share = 0.2
    cutout: Share = 0.1
    cutout_side: Annotated[tuple[Share, Share], AsTuple, _Ascending] = (0.1, 0.3)

    @classmethod
    def none(cls) -> AugmentSettings:
        """No augmentation at all: every probability is 0."""
        return cls(flip=0, resize_crop=0, jpeg=0, blur=0, noise=0, color=0, cutout=0)


@settings("data.")
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

    train: Annotated[tuple[Annotated[tuple[Name, PositiveFloat], AsTuple], ...], AsTuple] = ()
    validation: Annotated[tuple[Name, ...], AsTuple] = ()
    tokenizer: str = ""
    batch_size: PositiveInt = 256
    workers: NonNegativeInt = 0
    prefetch: PositiveInt = 2
    seed: NonNegativeInt = 0
    balance: Annotated[float, Field(gt=0, lt=1)] | None = None
    paired: bool = False
    methods: Annotated[tuple[Name, ...], AsTuple] = ()
    captions: CaptionChoice = "all"
    fused_caption: FusedCaption = "full"
    max_bad_share: Share = 0.01
    augment: AugmentSettings = AugmentSettings()

    def __post_init__(self) -> None:
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
