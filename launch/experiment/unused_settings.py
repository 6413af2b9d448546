"""Refuses a changed setting that has no effect because of another setting.

Not covered, because only a run can tell: durations that coincide in steps, and settings that do not matter in a
workdir with checkpoints (`init.*`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from data_pipeline.loading.settings import DataSettings
from jax_vlffd.config import RunConfig
from jax_vlffd.errors import UserError


class _Rule(NamedTuple):
    """`keys` have an effect only if `used` is true, which the settings in `switches` decide."""

    keys: tuple[str, ...]
    switches: tuple[str, ...]
    used: Callable[[RunConfig, DataSettings], bool]
    remedy: str


def _needs_text(run: RunConfig, data: DataSettings) -> bool:
    return run.loss.uses_text


_BRANCHES = ("loss.alignment", "loss.fusion")
_RULES = (
    _Rule(
        ("loss.targets", "model.logit_scale_init"), ("loss.alignment",),
        lambda run, data: run.loss.alignment > 0, "set loss.alignment above 0",
    ),
    _Rule(
        ("model.fusion_heads", "model.fusion_mlp_width", "data.fused_caption"), ("loss.fusion",),
        lambda run, data: run.loss.fusion > 0, "set loss.fusion above 0",
    ),
    _Rule(
        ("tuning.text", "optim.text_scale", "compute.pad_to_multiple_of"), _BRANCHES,
        _needs_text, "set loss.alignment or loss.fusion above 0",
    ),
    _Rule(  # 'label_only' also lets sets without captions be read
        ("data.captions",), _BRANCHES,
        lambda run, data: run.loss.uses_text or data.captions == "label_only",
        "set loss.alignment or loss.fusion above 0",
    ),
    _Rule(
        ("optim.text_scale",), ("tuning.text",),
        lambda run, data: run.tuning.text != "frozen", "set tuning.text to a mode that trains it",
    ),
    _Rule(
        ("optim.vision_scale",), ("tuning.vision",),
        lambda run, data: run.tuning.vision != "frozen", "set tuning.vision to a mode that trains it",
    ),
    _Rule(
        ("optim.final_share",), ("optim.schedule",),
        lambda run, data: run.optim.schedule == "cosine", "set optim.schedule to 'cosine'",
    ),
    _Rule(
        ("compute.lora_alpha",), ("compute.lora_rank",),
        lambda run, data: run.model.compute.lora_rank > 0, "set compute.lora_rank above 0",
    ),
    _Rule(
        ("init.vit",), ("init.resume",),
        lambda run, data: not run.init.resume, "init.resume decides the first parameters; leave one out",
    ),
    _Rule(
        ("model.logit_scale_init",), ("init.clip",),
        lambda run, data: not run.init.clip, "the checkpoint of init.clip decides it",
    ),
    *(
        _Rule(
            (f"data.augment.{setting}",), (f"data.augment.{chance}",),
            lambda run, data, chance=chance: getattr(data.augment, chance) > 0,  # type: ignore[misc]
            f"set data.augment.{chance} above 0",
        )
        for chance, setting in (
            ("resize_crop", "resize_crop_side"), ("jpeg", "jpeg_quality"), ("blur", "blur_sigma"),
            ("noise", "noise_std"), ("color", "color_strength"), ("cutout", "cutout_side"),
        )
    ),
)  # fmt: skip


def check_used(
    run: RunConfig,
    data: DataSettings,
    values: dict[str, Any],
    defaults: dict[str, Any],
    changed: Collection[str],
) -> None:
    """Checks that every chosen setting has an effect.

    A recipe's setting that loses its effect by a change on the command line is not a mistake: such a run leaves
    out a part of the method. The sizes of the model are not checked in recipes.

    Args:
      run: the settings.
      data: the settings of the data.
      values: the config by dotted key.
      defaults: the default values by dotted key.
      changed: keys that the command line or a sweep sets.

    Raises:
      UserError: a setting differs from its default and has no effect; names it and the remedy.
    """
    for rule in _RULES:
        if rule.used(run, data):
            continue
        for key in rule.keys:
            chosen = key in changed or not (
                key.startswith("model.") or {*rule.switches} & {*changed}
            )
            if chosen and values.get(key) != defaults.get(key):
                raise UserError(f"{key} is {values[key]!r}: it would have no effect; {rule.remedy}")
