"""Static plan of a run on its devices, and values derived from its settings."""

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
    """Plans a run: shapes, shardings and optimizer on the devices.

    Args:
      run: the settings.
      data: the settings of the data.
      steps: in total.
      warmup_steps: of these, by `optim.warmup`; capped at all but one.
      devices: all by default.

    Raises:
      UserError: the batch or the model does not divide over the mesh.
    """
    from jax_vlffd.training import sharding, state

    mesh = sharding.make_mesh(run.mesh, devices)
    sharding.check_batch(data.batch_size, mesh, run.train.accumulate)
    spec = state.StepSpec(
        run.model, run.loss, data.fused_caption != "full", accumulate=run.train.accumulate
    )
    return state.make_plan(
        spec, mesh, run.tuning, run.optim, steps=steps, warmup_steps=min(warmup_steps, steps - 1)
    )


def mask_grid(run: RunConfig) -> int:
    """Patches along a side of the image if the run learns from forgery masks, else 0."""
    return run.model.clip.vision.grid if run.loss.local > 0 else 0


def utilization_per_image(run: RunConfig, data: DataSettings) -> Callable[[int], float]:
    """Text length in tokens -> utilization (share of all devices' peak FLOP/s) at one image a second.

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
    """Sets the text tower's end token to the tokenizer's.

    Raises:
      UserError: the tokenizer has more tokens than the text tower.
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
