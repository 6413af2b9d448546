"""Real pairs of face crops: a ViT-Tiny image tower, pretrained where a folder is given, and a small text tower.

`--config.init.vit=FOLDER` names a plain Hugging Face ViT-Tiny/16 checkpoint; without it the tower starts
from random parameters.
"""

from __future__ import annotations

from ml_collections import config_dict

from configs.base import recipe
from configs.sweeps import Sweep, ablation
from data_pipeline.loading.settings import DataSettings
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import VIT_MEAN, VIT_STD, ModelConfig, OptimConfig, RunConfig, TrainConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe."""
    return recipe(
        RunConfig(
            model=ModelConfig(
                CLIPConfig.vit_tiny(),
                fusion_heads=3,
                fusion_mlp_width=768,
                image_mean=VIT_MEAN,
                image_std=VIT_STD,
            ),
            optim=OptimConfig(
                learning_rate=1e-4, text_scale=5.0, head_scale=5.0, warmup="10%", weight_decay=0.05
            ),
            train=TrainConfig(duration="20 epochs", evaluate_every="2 epochs", log_every=1),
        ),
        DataSettings(batch_size=32, paired=True),
    )


def get_sweep() -> Sweep:
    """The method's parts, one changed at a time."""
    return ablation(lora_rank=4)
