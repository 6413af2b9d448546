"""The shared recipe on pretrained CLIP; the values are ours: the authors' training code is not known to us."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import config_dict

from configs.base import recipe
from data_pipeline.loading.settings import DataSettings
from jax_vlffd.clip.config import CLIPConfig, Compute, Remat
from jax_vlffd.config import (
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TuningConfig,
    TuningMode,
)


def clip_recipe(
    clip: CLIPConfig,
    *,
    fusion_heads: int,
    batch_size: int,
    tuning: TuningMode = "full",
    loss: LossConfig | None = None,
    learning_rate: float = 1e-5,
    remat: Remat = "dots",
) -> Callable[[], config_dict.ConfigDict]:
    """A `get_config` that fine-tunes a pretrained CLIP in bf16 on paired batches.

    `--config.init.clip` names the checkpoint's folder or hub id (`ID` or `ID@REVISION`).

    Args:
      clip: the checkpoint's shape.
      fusion_heads: of the cross-attention block.
      batch_size: global.
      tuning: mode of both towers.
      loss: which branches; all three by default.
      learning_rate: of the towers; the heads learn ten times as fast.
      remat: what the backward pass computes again; see `Compute`.
    """
    compute = Compute(dtype="bfloat16", remat=remat)
    run = RunConfig(
        model=ModelConfig(clip, fusion_heads=fusion_heads, compute=compute),
        tuning=TuningConfig(vision=tuning, text=tuning),
        loss=loss or LossConfig(),
        optim=OptimConfig(learning_rate=learning_rate),
    )
    return lambda: recipe(run, DataSettings(batch_size=batch_size, paired=True, workers=8))
