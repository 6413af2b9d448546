"""AdamW with warm-up, a schedule, clipping, and per-parameter decay and learning rates from the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optax

from jax_vlffd.errors import UserError
from jax_vlffd.training.rules import Rule

SCHEDULES = ("cosine", "constant")


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
        for name in ("vision_scale", "text_scale", "head_scale", "weight_decay", "clip", "final_share"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} must not be negative")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.eps > 0 and self.final_share <= 1):
            raise UserError("optim wants 0 <= b1, b2 < 1, eps > 0 and final_share <= 1")


def learning_rate(config: OptimConfig, *, steps: int, warmup_steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then the schedule to the last step."""
    rest = max(steps - warmup_steps, 1)
    after = (
        optax.cosine_decay_schedule(config.learning_rate, rest, config.final_share)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.learning_rate)
    )
    if not warmup_steps:
        return after
    # The first step already moves: it has 1 / warmup of the peak, not 0.
    rise = optax.linear_schedule(
        config.learning_rate / warmup_steps, config.learning_rate, max(warmup_steps - 1, 1)
    )
    return optax.join_schedules([rise, after], [warmup_steps])


def make_optimizer(
    config: OptimConfig, rules: Mapping[str, Rule], schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW over a flat dict of the trainable parameters.

    Args:
      config: hyper-parameters.
      rules: path -> rule, of the trainable parameters only.
      schedule: step -> learning rate, before the scales of the parts.
    """
    scales = {
        "vision": config.vision_scale,
        "text": config.text_scale,
        "head": config.head_scale,
    }
    parts = {path: rule.part for path, rule in rules.items()}
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(
            config.weight_decay, {path: rule.decay for path, rule in rules.items()}
        ),
        optax.partition({part: optax.scale(scale) for part, scale in scales.items()}, parts),
        optax.scale_by_learning_rate(schedule),
    )
