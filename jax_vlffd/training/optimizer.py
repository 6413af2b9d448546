"""AdamW with warm-up, a schedule, clipping, and per-parameter decay and learning rates from the rules."""

from __future__ import annotations

from collections.abc import Mapping

import optax

from jax_vlffd.config import OptimConfig
from jax_vlffd.training.parameter_rules import Rule


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
    # The first step's rate is 1 / warmup of the peak, not 0.
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
      schedule: step -> learning rate, before each part's scale.
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
