"""CLIP's two towers in Flax NNX, and their Hugging Face weights."""
