"""CLIP ViT-L/14's image branch alone, without captions: the control of the method."""

from configs.clip import clip_recipe
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import LossConfig

get_config = clip_recipe(
    CLIPConfig.l14(), fusion_heads=16, batch_size=512, loss=LossConfig(alignment=0, fusion=0)
)
