"""Every setting of the model and of training, checked when it is built; each class documents its keys.

Imports no JAX, so that a command checks a config before anything heavy is loaded. The settings of the data are
in `data_pipeline.loading.settings`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jax_vlffd.clip.config import CLIPConfig, Compute, TextConfig, VisionConfig
from jax_vlffd.errors import UserError
from jax_vlffd.settings import AsTuple, Resize, Share, build, check_group, check_known, settings

#: The mean and spread of the pictures that OpenAI's and LAION's CLIP were trained on (RGB, of 0..1).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: What plain ViTs expect.
VIT_MEAN = VIT_STD = (0.5, 0.5, 0.5)

#: The resizing of models whose config does not name one.
UNRECORDED_RESIZE: Resize = "truncated"

AlignmentTargets = Literal["multi_positive", "one_to_one", "sigmoid"]
TuningMode = Literal["full", "layernorm", "lora", "frozen"]

#: Tuning mode of a tower -> the kinds of its parameters that train. 'layernorm' as GenD (Yermakov et al.
#: 2025), 'lora' as Hu et al. 2021, 'frozen' trains the projections and heads only.
TUNING: dict[str, frozenset[str]] = {
    "full": frozenset({"weight", "layernorm"}),
    "layernorm": frozenset({"layernorm"}),
    "lora": frozenset({"lora"}),
    "frozen": frozenset(),
}

_Decay = Annotated[float, Field(ge=0, lt=1)]
_MeshAxis = Annotated[int, Field(ge=-1)]


@settings("model.")
class ModelConfig:
    """The model: shapes of the towers and of the fusion block, preprocessing of the images, compute.

    fusion_heads, fusion_mlp_width: of the cross-attention block. image_mean, image_std: of RGB in 0..1.
    resize: how pictures become the model's view, see `settings.Resize`.
    """

    clip: CLIPConfig
    fusion_heads: PositiveInt = 8
    fusion_mlp_width: PositiveInt = 2048
    image_mean: Annotated[tuple[float, float, float], AsTuple] = CLIP_MEAN
    image_std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], AsTuple] = CLIP_STD
    resize: Resize = "antialiased"
    compute: Compute = Compute()

    def __post_init__(self) -> None:
        if self.clip.vision.width % self.fusion_heads:
            raise UserError(
                f"model.fusion_heads is {self.fusion_heads}: it must divide the image tower's width "
                f"{self.clip.vision.width}"
            )


def model_config(model: Any, compute: Any) -> ModelConfig:
    """Builds the model's settings from the groups `model` (with `vision` and `text`) and `compute` of a config.

    Raises:
      UserError: an unknown key, or a value of another type or out of range.
    """
    model = dict(check_group(model, "model"))
    vision = build(VisionConfig, model.pop("vision", {}), "model.vision")
    text = build(TextConfig, model.pop("text", {}), "model.text")
    own = [f.name for f in dataclasses.fields(CLIPConfig) if f.name in model]
    clip = CLIPConfig(vision, text, **{name: model.pop(name) for name in own})
    names = [f.name for f in dataclasses.fields(ModelConfig) if f.name not in ("clip", "compute")]
    check_known("model", model, names)
    return ModelConfig(**{**model, "clip": clip, "compute": build(Compute, compute, "compute")})


def on_any_device(model: ModelConfig) -> ModelConfig:
    """The same model, computed as every device can: how it was computed in training is not its own."""
    compute = dataclasses.replace(model.compute, attention="xla", remat="none", unroll=1)
    return dataclasses.replace(model, compute=compute)


@settings("loss.")
class LossConfig:
    """Weights of the three branches (a branch of weight 0 is not computed), and the targets.

    image, alignment, fusion: weights of L_img, L_itc, L_fus (paper). local: weight of the first two's local
    counterparts, on top of their own: every patch is classified by the forgery mask, and the forged patches'
    mean embedding is aligned with the caption (ours; needs masks in the packed set). targets:
    'multi_positive' (pairs with equal caption keys share the probability), 'one_to_one' (InfoNCE),
    'sigmoid' (Zhai et al. 2023, equal keys are positives).
    """

    image: NonNegativeFloat = 1.0
    alignment: NonNegativeFloat = 1.0
    fusion: NonNegativeFloat = 1.0
    targets: AlignmentTargets = "multi_positive"
    local: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if not (self.image or self.alignment or self.fusion):
            raise UserError("loss.image, loss.alignment and loss.fusion: one must be above 0")
        if self.local > 0 and not self.image and not self.alignment:
            raise UserError(
                "loss.local needs the image or the alignment branch: set one of them above 0"
            )

    @property
    def uses_text(self) -> bool:
        """Whether any branch reads a caption."""
        return self.alignment > 0 or self.fusion > 0


@settings("optim.")
class OptimConfig:
    """The optimizer.

    learning_rate: peak. vision_scale, text_scale, head_scale: factors on it for each part of the model.
    warmup: duration of the linear rise from 0 (resolved to steps by the caller). schedule: 'cosine' falls
    to final_share of the peak at the last step, 'constant' does not. weight_decay: decoupled, on the
    parameters whose rule has `decay`. b1, b2, eps: Adam's. clip: maximum global norm of the gradient; 0 does
    not clip.
    """

    learning_rate: PositiveFloat = 1e-5
    vision_scale: NonNegativeFloat = 1.0
    text_scale: NonNegativeFloat = 1.0
    head_scale: NonNegativeFloat = 10.0
    warmup: str = "5%"
    schedule: Literal["cosine", "constant"] = "cosine"
    final_share: Share = 0.0
    weight_decay: NonNegativeFloat = 0.01
    b1: _Decay = 0.9
    b2: _Decay = 0.98
    eps: PositiveFloat = 1e-6
    clip: NonNegativeFloat = 1.0


@settings("mesh.")
class MeshConfig:
    """Devices along each axis: data parallelism, sharded parameters, tensor parallelism.

    One of them may be -1: as many as the devices allow.
    """

    data: _MeshAxis = -1
    fsdp: _MeshAxis = 1
    tensor: _MeshAxis = 1


@settings("tuning.")
class TuningConfig:
    """Tuning mode of each tower: a key of TUNING."""

    vision: TuningMode = "full"
    text: TuningMode = "full"


@settings("init.")
class InitConfig:
    """Source of the initial parameters: own checkpoint > resume > pretrained > random.

    A workdir with checkpoints of the same config always continues from the newest. resume: another run's
    workdir, whose state (parameters, optimizer, step, position in the data) is continued here.
    clip: a Hugging Face CLIP, folder or hub id. vit: a plain Hugging Face ViT for the image tower alone.
    """

    resume: str = ""
    clip: str = ""
    vit: str = ""

    def __post_init__(self) -> None:
        if self.clip and self.vit:
            raise UserError("init.clip and init.vit are both set; set one of them")


@settings("train.")
class TrainConfig:
    """Duration and schedule of a run. Durations: see `in_steps`.

    duration: of the whole run. evaluate_every: between validations, each followed by a checkpoint.
    checkpoint_every: between further checkpoints; '' makes none. log_every: steps between logged lines.
    keep: newest checkpoints that are kept; the best always is. accumulate: parts in which a batch goes
    through the towers; the contrastive loss still sees the whole batch. tensorboard: also write events.
    """

    duration: str = "10 epochs"
    evaluate_every: str = "1 epochs"
    checkpoint_every: str = ""
    log_every: PositiveInt = 10
    keep: PositiveInt = 2
    accumulate: PositiveInt = 1
    tensorboard: bool = True


@settings("")
class RunConfig:
    """All settings of a training run except the data's. seed: of the random parameters."""

    model: ModelConfig
    seed: NonNegativeInt = 0
    init: InitConfig = InitConfig()
    tuning: TuningConfig = TuningConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        lora, rank = "lora" in (self.tuning.vision, self.tuning.text), self.model.compute.lora_rank
        if lora and not rank:
            raise UserError("tuning 'lora' wants compute.lora_rank of at least 1")
        if rank and not lora:
            raise UserError(
                f"compute.lora_rank is {rank}, yet no tower is tuned by adapters; set tuning.vision or "
                "tuning.text to 'lora', or the rank to 0"
            )


_DURATION = re.compile(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(steps?|epochs?|examples?|%)\s*")


def in_steps(
    duration: str, *, batch_size: int, examples_per_epoch: int, total: int | None = None
) -> int:
    """Converts a duration to steps, rounded, at least 1; '' and 0 are 0.

    Args:
      duration: '300 steps', '2.5 epochs', '1e6 examples', or '5%' of `total` steps.
      batch_size: global.
      examples_per_epoch: of the training mixture.
      total: the run's steps; None if '%' is not allowed.

    Raises:
      UserError: `duration` has another form.
    """
    if not duration.strip():
        return 0
    match = _DURATION.fullmatch(duration)
    try:
        count, unit = (float(match[1]), match[2][0]) if match else (-1.0, "")
    except ValueError:
        count, unit = -1.0, ""
    if count < 0 or (unit == "%" and total is None):
        raise UserError(
            f"duration {duration!r} must be like '300 steps', '2.5 epochs', '1e6 examples'"
            + (" or '5%'" if total is not None else "")
        )
    scale = {
        "s": 1.0,
        "e": examples_per_epoch / batch_size if match and "epoch" in match[2] else 1 / batch_size,
        "%": (total or 0) / 100,
    }[unit]
    return max(round(count * scale), 1) if count else 0
