"""The method on OpenAI's CLIP ViT-L/14 at 224 px: three branches, both towers tuned whole."""

from configs.clip import clip_recipe
from configs.sweeps import ablation
from jax_vlffd.clip.config import CLIPConfig

# 64 images a chip fit any chip that launch.compile knows; where there is room, 'none' computes less.
get_config = clip_recipe(CLIPConfig.l14(), fusion_heads=16, batch_size=512, remat="full")
get_sweep = ablation
