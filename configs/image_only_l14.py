"""CLIP ViT-L/14's image branch alone, without captions: the control of the method."""

from __future__ import annotations

from ml_collections import config_dict

from configs.clip import clip_recipe
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import LossConfig


def get_config() -> config_dict.ConfigDict:
    """Builds the recipe; --config.init.clip names the checkpoint's folder or hub id."""
    loss = LossConfig(image=1.0, alignment=0.0, fusion=0.0)
    return clip_recipe(CLIPConfig.l14(), fusion_heads=16, batch_size=512, loss=loss)
