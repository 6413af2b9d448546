"""CLIP ViT-L/14 with LayerNorms and heads tuned alone, as GenD (Yermakov et al. 2025)."""

from __future__ import annotations

from ml_collections import config_dict

from configs.clip import clip_recipe
from jax_vlffd.clip.config import CLIPConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; --config.init.clip names the checkpoint's folder or hub id."""
    return clip_recipe(
        CLIPConfig.l14(), fusion_heads=16, batch_size=512, tuning="layernorm", learning_rate=3e-4
    )
