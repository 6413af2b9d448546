"""The method on OpenAI's CLIP ViT-L/14 at 224 px: three branches, both towers tuned whole."""

from __future__ import annotations

from ml_collections import config_dict

from configs.clip import clip_recipe
from configs.sweeps import Sweep, ablation
from jax_vlffd.clip.config import CLIPConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; --config.init.clip names the checkpoint's folder or hub id."""
    # 64 images a chip fit any chip that launch.compile knows; where there is room, 'none' computes less.
    return clip_recipe(CLIPConfig.l14(), fusion_heads=16, batch_size=512, remat="full")


def get_sweep() -> Sweep:
    """The method's parts, one changed at a time."""
    return ablation()
