"""The demo: a tiny CLIP from scratch on drawn faces, three minutes on two CPU cores."""

from __future__ import annotations

from ml_collections import config_dict

from configs.base import recipe
from configs.sweeps import Sweep, ablation
from data_pipeline.settings import AugmentSettings, DataSettings
from jax_vlffd.clip.config import CLIPConfig, TextConfig, VisionConfig
from jax_vlffd.config import VIT_MEAN, VIT_STD, ModelConfig, OptimConfig, RunConfig, TrainConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; give the packed set by --config.data.train and --config.data.validation."""
    vision = VisionConfig(96, 4, 4, 384, "gelu", image_size=64, patch_size=8)
    text = TextConfig(64, 2, 4, 256, "gelu", vocab_size=1024, context_length=64, eos_id=1023)
    return recipe(
        RunConfig(
            model=ModelConfig(
                CLIPConfig(vision, text, embed_dim=64),
                fusion_heads=4,
                fusion_mlp_width=192,
                image_mean=VIT_MEAN,
                image_std=VIT_STD,
            ),
            optim=OptimConfig(
                learning_rate=1e-3, head_scale=1.0, warmup="5%", weight_decay=0.05, b2=0.99
            ),
            train=TrainConfig(duration="30 epochs", evaluate_every="5 epochs", log_every=5),
        ),
        DataSettings(
            batch_size=128,
            paired=True,
            augment=AugmentSettings(
                resize_crop=0.5,
                resize_crop_side=(0.85, 1.0),
                jpeg=0.0,
                blur=0.0,
                noise=0.0,
                cutout=0.0,
            ),
        ),
    )


def get_sweep() -> Sweep:
    """The method's parts, one changed at a time."""
    return ablation(lora_rank=4)
