"""CLIP's image tower and text tower (Radford et al. 2021), and a plain ViT by two switches."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jax_vlffd.clip import init
from jax_vlffd.clip.config import Compute, TextConfig, VisionConfig
from jax_vlffd.clip.layers import Array, LayerNorm, Linear, run_blocks, stacked_blocks


class Features(NamedTuple):
    """What a tower gives.

    pooled: [B, D], after the tower's last LayerNorm. tokens: [B, N or T, D], likewise.
    hidden_states: [L + 1, B, N or T, D] when asked for: the embeddings, then each layer's output.
    """

    pooled: Array
    tokens: Array
    hidden_states: Array | None = None


class ImageTower(nnx.Module):
    """A vision transformer over patches and a class token."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, compute: Compute):
        width, patch = config.width, config.patch_size
        self.patch_embedding = Linear(
            3 * patch * patch, width, rngs=rngs, bias=config.patch_bias, compute=compute
        )
        self.patch_embedding.weight[...] = init.patch_filters(rngs.params(), width, patch)
        scale = width**-0.5
        self.class_embedding = nnx.Param(scale * jax.random.normal(rngs.params(), (width,)))
        self.position_embedding = nnx.Param(init.positions(width, config.grid))
        if config.pre_layernorm:
            self.pre_layernorm = LayerNorm(width, config.layernorm_eps)
        self.blocks = stacked_blocks(config, rngs=rngs, compute=compute)
        self.post_layernorm = LayerNorm(width, config.layernorm_eps)
        self.config = config
        self.compute = compute

    def __call__(self, images: Array, *, hidden_states: bool = False) -> Features:
        """Embeds normalised images [B, H, W, 3] (fp32); H = W = config.image_size."""
        # A convolution whose stride is its size is a matrix product over patches; the order within a
        # patch (channel, row, column) is that of the convolution's weight in Hugging Face files.
        batch, grid, patch = images.shape[0], self.config.grid, self.config.patch_size
        patches = images.reshape(batch, grid, patch, grid, patch, 3).transpose(0, 1, 3, 5, 2, 4)
        x = self.patch_embedding(patches.reshape(batch, grid * grid, -1))
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (batch, 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.position_embedding[...].astype(x.dtype)
        if self.config.pre_layernorm:
            x = self.pre_layernorm(x)
        return _finish(self, x, causal=False, hidden_states=hidden_states, pool_at=None)


class TextTower(nnx.Module):
    """A causal transformer over text tokens."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, compute: Compute):
        self.token_embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (config.vocab_size, config.width))
        )
        self.position_embedding = nnx.Param(
            0.01 * jax.random.normal(rngs.params(), (config.context_length, config.width))
        )
        self.blocks = stacked_blocks(config, rngs=rngs, compute=compute)
        self.post_layernorm = LayerNorm(config.width, config.layernorm_eps)
        self.config = config
        self.compute = compute

    def __call__(self, tokens: Array, *, hidden_states: bool = False) -> Features:
        """Embeds int32 tokens [B, T], T <= config.context_length; pools at the first EOS."""
        x = self.token_embedding[...][tokens] + self.position_embedding[: tokens.shape[1]]
        pool_at = self.end(tokens)
        return _finish(
            self,
            x.astype(self.compute.dtype),
            causal=True,
            hidden_states=hidden_states,
            pool_at=pool_at,
        )

    def end(self, tokens: Array) -> Array:
        """The position of the first EOS in each row of int32 tokens [B, T]: int32 [B]."""
        return jnp.argmax(tokens == self.config.eos_id, axis=-1)


def _finish(
    tower: ImageTower | TextTower,
    x: Array,
    *,
    causal: bool,
    hidden_states: bool,
    pool_at: Array | None,
) -> Features:
    y, layers = run_blocks(
        tower.blocks, x, causal=causal, compute=tower.compute, hidden_states=hidden_states
    )
    every = None if layers is None else jnp.concatenate([x[None], layers])
    tokens = tower.post_layernorm(y)
    pooled = tokens[:, 0] if pool_at is None else tokens[jnp.arange(x.shape[0]), pool_at]
    return Features(pooled, tokens, every)
