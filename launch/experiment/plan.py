"""Static plan of a run on its devices, and what follows from its settings alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.config import RunConfig
from jax_vlffd.errors import UserError

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.training.state import TrainPlan


def make_plan(
    run: RunConfig,
    data: DataSettings,
    *,
    steps: int,
    warmup_steps: int = 0,
    devices: list[Any] | None = None,
) -> TrainPlan:
    """The static side of a run on the devices there are.

    Args:
      run: the settings.
      data: the settings of the data.
      steps: of the whole run.
      warmup_steps: of these, as `optim.warmup` says; at most all but one.
      devices: all by default.

    Raises:
      UserError: the batch or the model does not divide over the mesh.
    """
    from jax_vlffd.training import sharding, state

    built = sharding.make_mesh(run.mesh, devices)
    sharding.check_batch(data.batch_size, built, run.train.accumulate)
    spec = state.StepSpec(
        run.model, run.loss, data.fused_caption != "full", accumulate=run.train.accumulate
    )
    return state.make_plan(
        spec, built, run.tuning, run.optim, steps=steps, warmup_steps=min(warmup_steps, steps - 1)
    )


def mask_grid(run: RunConfig) -> int:
    """Patches along a side of the image where the run learns from forgery masks, else 0."""
    return run.model.clip.vision.grid if run.loss.local > 0 else 0


def utilization_per_image(run: RunConfig, data: DataSettings) -> Callable[[int], float]:
    """Tokens of a text -> the share of all devices' peak arithmetic that one image a second takes.

    0 for unknown devices.
    """
    import jax

    from jax_vlffd.compilation.chips import chip_of, count_chips
    from jax_vlffd.compilation.flops import model_flops

    chip = chip_of(jax.devices()[0].device_kind)
    if chip is None:
        return lambda text_length: 0.0
    peak = chip.peak_flops * count_chips(jax.devices())

    @functools.cache
    def share(text_length: int) -> float:
        cost = model_flops(
            run.model, run.loss, run.tuning, batch_size=data.batch_size,
            separate_captions=data.fused_caption != "full", text_length=text_length,
        )  # fmt: skip
        return cost.total.train / peak

    return share


def with_tokenizer(run: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The settings with the text tower's end token set to the tokenizer's.

    Raises:
      UserError: the tokenizer has more words than the text tower.
    """
    clip = run.model.clip
    if tokenizer.vocab_size > clip.text.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and model.text.vocab_size is "
            f"{clip.text.vocab_size}; raise it, or give the tokenizer of this model by data.tokenizer"
        )
    text = dataclasses.replace(clip.text, eos_id=tokenizer.eos_id)
    model = dataclasses.replace(run.model, clip=dataclasses.replace(clip, text=text))
    return dataclasses.replace(run, model=model)
