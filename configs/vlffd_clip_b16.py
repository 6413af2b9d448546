"""The method on OpenAI's CLIP ViT-B/16 at 224 px: three branches, both towers tuned whole."""

from __future__ import annotations

from ml_collections import config_dict

from configs.clip import clip_recipe
from configs.sweeps import Sweep, ablation
from jax_vlffd.clip.config import CLIPConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; --config.init.clip names the checkpoint's folder or hub id."""
    return clip_recipe(CLIPConfig.b16(), fusion_heads=12, batch_size=1024)


def get_sweep() -> Sweep:
    """The method's parts, one changed at a time."""
    return ablation()
