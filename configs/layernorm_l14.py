"""CLIP ViT-L/14 with LayerNorms and heads tuned alone, as GenD (Yermakov et al. 2025)."""

from configs.clip import clip_recipe
from jax_vlffd.clip.config import CLIPConfig

get_config = clip_recipe(
    CLIPConfig.l14(), fusion_heads=16, batch_size=512, tuning="layernorm", learning_rate=3e-4
)
