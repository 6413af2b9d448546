"""The method on OpenAI's CLIP ViT-B/16 at 224 px: three branches, both towers tuned whole."""

from configs.clip import clip_recipe
from configs.sweeps import ablation
from jax_vlffd.clip.config import CLIPConfig

get_config = clip_recipe(CLIPConfig.b16(), fusion_heads=12, batch_size=1024)
get_sweep = ablation
