"""The method on OpenAI's CLIP ViT-L/14 at 336 px: three branches, both towers tuned whole."""

from configs.clip import clip_recipe
from configs.sweeps import ablation
from jax_vlffd.clip.config import CLIPConfig

get_config = clip_recipe(CLIPConfig.l14_336(), fusion_heads=16, batch_size=256)
get_sweep = ablation
