"""Every setting of the model and of training, as frozen dataclasses that check themselves.

Imports no JAX, so that a command reads and checks a config before anything heavy is loaded. The settings of
the data are the data pipeline's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from jax_vlffd.clip.config import CLIPConfig, Compute
from jax_vlffd.errors import UserError

#: The mean and spread of the pictures that OpenAI's and LAION's CLIP were trained on (RGB, of 0..1).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: What plain ViTs expect.
VIT_MEAN = VIT_STD = (0.5, 0.5, 0.5)

ALIGNMENT_TARGETS = ("multi_positive", "one_to_one", "sigmoid")
SCHEDULES = ("cosine", "constant")

#: Tuning mode of a tower -> the kinds of its parameters that train. 'layernorm' as GenD (Yermakov et al.
#: 2025), 'lora' as Hu et al. 2021, 'linear' trains the projections and heads alone.
TUNING: dict[str, frozenset[str]] = {
    "full": frozenset({"weight", "layernorm"}),
    "layernorm": frozenset({"layernorm"}),
    "lora": frozenset({"lora"}),
    "linear": frozenset(),
}


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: the towers' shapes, the fusion block's, the images' normalisation, the compute.

    fusion_heads, fusion_mlp_width: of the cross-attention block. image_mean, image_std: of RGB in 0..1.
    """

    clip: CLIPConfig
    fusion_heads: int = 8
    fusion_mlp_width: int = 2048
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if self.fusion_heads < 1 or self.clip.vision.width % self.fusion_heads:
            raise UserError(
                f"model.fusion_heads {self.fusion_heads} does not divide the image tower's width "
                f"{self.clip.vision.width}"
            )
        if self.fusion_mlp_width < 1:
            raise UserError("model.fusion_mlp_width must be at least 1")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise UserError("model.image_mean and image_std want three numbers, the spread above 0")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the three branches (0 leaves a branch out, and its computation), and the targets.

    image, alignment, fusion: weights of L_img, L_itc, L_fus (paper). local: weight of the first two's local
    counterparts, on top of their own: every patch is classified by the forgery mask, and the forged patches'
    mean embedding is aligned with the caption (ours; needs masks in the packed set). targets:
    'multi_positive' (pairs with equal caption keys share the probability), 'one_to_one' (InfoNCE),
    'sigmoid' (Zhai et al. 2023, equal keys are positives).
    """

    image: float = 1.0
    alignment: float = 1.0
    fusion: float = 1.0
    targets: str = "multi_positive"
    local: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.image, self.alignment, self.fusion)
        if min(*weights, self.local) < 0 or max(weights) == 0:
            raise UserError(
                "loss weights must not be negative, and of the branches one must be above 0"
            )
        if self.local > 0 and not self.image and not self.alignment:
            raise UserError(
                "loss.local is of the image and the alignment branch: set one of them above 0"
            )
        if self.targets not in ALIGNMENT_TARGETS:
            raise UserError(
                f"loss.targets {self.targets!r} is none of {', '.join(ALIGNMENT_TARGETS)}"
            )

    @property
    def uses_text(self) -> bool:
        """Whether any branch reads a caption."""
        return self.alignment > 0 or self.fusion > 0


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer.

    learning_rate: peak. vision_scale, text_scale, head_scale: factors on it for each part of the model.
    warmup: duration of the linear rise from 0 (resolved to steps by the caller). schedule: 'cosine' falls
    to final_share of the peak at the last step, 'constant' does not. weight_decay: decoupled, on the
    parameters whose rule says so. b1, b2, eps: Adam's. clip: largest global norm of the gradient; 0 does
    not clip.
    """

    learning_rate: float = 1e-5
    vision_scale: float = 1.0
    text_scale: float = 1.0
    head_scale: float = 10.0
    warmup: str = "5%"
    schedule: str = "cosine"
    final_share: float = 0.0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(f"optim.schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if self.learning_rate <= 0:
            raise UserError("optim.learning_rate must be above 0")
        for name in (
            "vision_scale",
            "text_scale",
            "head_scale",
            "weight_decay",
            "clip",
            "final_share",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} must not be negative")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.eps > 0 and self.final_share <= 1):
            raise UserError("optim wants 0 <= b1, b2 < 1, eps > 0 and final_share <= 1")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis: data parallel, parameters split, matrix products split.

    One of them may be -1: as many as the devices allow.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class TuningConfig:
    """Tuning mode of each tower, 'full', 'layernorm', 'lora', 'linear'."""

    vision: str = "full"
    text: str = "full"

    def __post_init__(self) -> None:
        for tower in ("vision", "text"):
            if getattr(self, tower) not in TUNING:
                raise UserError(
                    f"tuning.{tower} {getattr(self, tower)!r} is none of {', '.join(TUNING)}"
                )


@dataclass(frozen=True)
class InitConfig:
    """Where the first parameters come from; own run > resume > pretrained > random.

    A workdir that holds checkpoints of the same config always continues from the newest. resume: another
    run's workdir, whose whole state (parameters, optimizer, step, place in the data) is continued here.
    clip: a Hugging Face CLIP, folder or hub id. vit: a plain Hugging Face ViT for the image tower alone.
    """

    resume: str = ""
    clip: str = ""
    vit: str = ""

    def __post_init__(self) -> None:
        if self.clip and self.vit:
            raise UserError("init.clip and init.vit are both set; an image tower has one origin")


@dataclass(frozen=True)
class TrainConfig:
    """How long, and when to do what. Durations: see `in_steps`.

    duration: of the whole run. evaluate_every: between validations, each followed by a checkpoint.
    checkpoint_every: between further checkpoints; '' makes none. log_every: steps between logged lines.
    keep: newest checkpoints that stay; the best always does. accumulate: parts in which a batch goes
    through the towers; the contrastive loss still sees the whole batch. tensorboard: also write events.
    """

    duration: str = "10 epochs"
    evaluate_every: str = "1 epochs"
    checkpoint_every: str = ""
    log_every: int = 10
    keep: int = 2
    accumulate: int = 1
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("log_every", "keep", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} must be at least 1")


@dataclass(frozen=True)
class RunConfig:
    """All settings of a training run but the data's. seed: of the random parameters."""

    model: ModelConfig
    seed: int = 0
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
    """A duration in steps, rounded, at least 1; '' and 0 are 0.

    Args:
      duration: '300 steps', '2.5 epochs', '1e6 examples', or '5%' of `total` steps.
      batch_size: global.
      examples_per_epoch: of the training mixture.
      total: the run's steps, where a share of them is allowed.

    Raises:
      UserError: it is none of these.
    """
    if not duration.strip():
        return 0
    found = _DURATION.fullmatch(duration)
    try:
        count, unit = (float(found[1]), found[2][0]) if found else (-1.0, "")
    except ValueError:
        count, unit = -1.0, ""
    if count < 0 or (unit == "%" and total is None):
        raise UserError(
            f"duration {duration!r} is none of '300 steps', '2.5 epochs', '1e6 examples'"
            + (" or '5%'" if total is not None else "")
        )
    scale = {
        "s": 1.0,
        "e": examples_per_epoch / batch_size if found and "epoch" in found[2] else 1 / batch_size,
        "%": (total or 0) / 100,
    }[unit]
    return max(round(count * scale), 1) if count else 0
