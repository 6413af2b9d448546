"""The demo: a tiny CLIP from scratch on drawn faces, three minutes on two CPU cores."""

from __future__ import annotations

import dataclasses

from ml_collections import config_dict

from configs.base import recipe
from configs.sweeps import Sweep, ablation
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from jax_vlffd.clip.config import CLIPConfig, TextConfig, VisionConfig
from jax_vlffd.config import (
    VIT_MEAN,
    VIT_STD,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; give the packed set by --config.data.train and --config.data.validation."""
    vision = VisionConfig(64, 3, 2, 128, image_size=64, patch_size=8)
    text = TextConfig(48, 2, 2, 96, vocab_size=1024, context_length=48, eos_id=1023)
    return recipe(
        RunConfig(
            model=ModelConfig(
                CLIPConfig(vision, text, embed_dim=48),
                fusion_heads=2,
                fusion_mlp_width=64,
                image_mean=VIT_MEAN,
                image_std=VIT_STD,
            ),
            loss=LossConfig(local=1.0),
            optim=OptimConfig(learning_rate=2e-3, head_scale=1.0, weight_decay=0.05),
            train=TrainConfig(duration="1000 steps", evaluate_every="250 steps", log_every=20),
        ),
        DataSettings(
            batch_size=32,
            paired=True,
            augment=dataclasses.replace(AugmentSettings.none(), flip=0.5),
        ),
    )


def get_sweep() -> Sweep:
    """The method's parts, one changed at a time."""
    return ablation(lora_rank=4, local=0.0)
