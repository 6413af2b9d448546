"""CLIP's image tower and text tower (Radford et al. 2021), and a plain ViT by two switches."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from jax_vlffd.clip.config import Compute, TextConfig, VisionConfig
from jax_vlffd.clip.layers import LayerNorm, Linear, run_blocks, stacked_blocks


class Features(NamedTuple):
    """A tower's outputs.

    pooled, tokens: after the tower's last LayerNorm (T in place of N for text). hidden_states: on request, the
    embeddings, then each layer's output.
    """

    pooled: Float[Array, "B D"]
    tokens: Float[Array, "B N D"]
    hidden_states: Float[Array, "L+1 B N D"] | None = None


class ImageTower(nnx.Module):
    """A vision transformer over patches and a class token."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, compute: Compute):
        width, patch = config.width, config.patch_size
        self.patch_embedding = Linear(
            3 * patch * patch, width, rngs=rngs, bias=config.patch_bias, compute=compute
        )
        self.patch_embedding.weight[...] = patch_filters(rngs.params(), width, patch)
        scale = width**-0.5
        first = jax.random.normal(rngs.params(), (width,), jnp.float32)
        self.class_embedding = nnx.Param(scale * first)
        self.position_embedding = nnx.Param(position_embeddings(width, config.grid))
        if config.pre_layernorm:
            self.pre_layernorm = LayerNorm(width, config.layernorm_eps)
        self.blocks = stacked_blocks(config, rngs=rngs, compute=compute)
        self.post_layernorm = LayerNorm(width, config.layernorm_eps)
        self.config = config
        self.compute = compute

    def __call__(
        self, images: Float32[Array, "B H W 3"], *, hidden_states: bool = False
    ) -> Features:
        """Embeds normalized images; H = W = config.image_size."""
        # A convolution whose stride is its size is a matrix product over patches; the order within a
        # patch (channel, row, column) is that of the convolution's weight in Hugging Face files.
        batch, grid, patch = images.shape[0], self.config.grid, self.config.patch_size
        patches = images.reshape(batch, grid, patch, grid, patch, 3).transpose(0, 1, 3, 5, 2, 4)
        x = self.patch_embedding(patches.reshape(batch, grid * grid, -1))
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (batch, 1, x.shape[-1]))
        positions = jnp.expand_dims(self.position_embedding[...].astype(x.dtype), 0)
        x = jnp.concatenate([first, x], axis=1) + positions
        if self.config.pre_layernorm:
            x = self.pre_layernorm(x)
        return _finish(self, x, causal=False, hidden_states=hidden_states, pool_at=None)


class TextTower(nnx.Module):
    """A causal transformer over text tokens."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, compute: Compute):
        self.token_embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (config.vocab_size, config.width), jnp.float32)
        )
        self.position_embedding = nnx.Param(
            0.01
            * jax.random.normal(rngs.params(), (config.context_length, config.width), jnp.float32)
        )
        self.blocks = stacked_blocks(config, rngs=rngs, compute=compute)
        self.post_layernorm = LayerNorm(config.width, config.layernorm_eps)
        self.config = config
        self.compute = compute

    def __call__(self, tokens: Int[Array, "B T"], *, hidden_states: bool = False) -> Features:
        """Embeds token ids, T <= config.context_length; pools at the first EOS."""
        positions = jnp.expand_dims(self.position_embedding[: tokens.shape[1]], 0)
        x = self.token_embedding[...][tokens] + positions
        pool_at = self.end(tokens)
        return _finish(
            self,
            x.astype(self.compute.dtype),
            causal=True,
            hidden_states=hidden_states,
            pool_at=pool_at,
        )

    def end(self, tokens: Int[Array, "B T"]) -> Int[Array, " B"]:
        """The position of the first EOS in each row of token ids."""
        return jnp.argmax(tokens == self.config.eos_id, axis=-1)


def _finish(
    tower: ImageTower | TextTower,
    x: Float[Array, "B N D"],
    *,
    causal: bool,
    hidden_states: bool,
    pool_at: Int[Array, " B"] | None,
) -> Features:
    y, layers = run_blocks(
        tower.blocks, x, causal=causal, compute=tower.compute, hidden_states=hidden_states
    )
    states = None if layers is None else jnp.concatenate([x[None], layers])
    tokens = tower.post_layernorm(y)
    pooled = tokens[:, 0] if pool_at is None else tokens[jnp.arange(x.shape[0]), pool_at]
    return Features(pooled, tokens, states)


# --- initialization of an image tower without pretrained weights (ours) ---
#
# With white random filters a token starts as little more than the mean color of its patch, since the spectrum
# of pictures falls with frequency, and a small tower needs thousands of steps to learn more. Forgeries show in
# fine detail, so the initial filters amplify it.

#: Amplitudes grow by this power of the frequency: 1 would whiten pictures, and amplify their noise.
_WHITENING = 0.7
#: Opponent colors as rows over (R, G, B), and their gains; the first is brightness.
_COLORS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
_COLOR_GAINS = (1.0, 2.0, 2.0)
#: Amplitude of the position embeddings; that of embedded patches is about 1.
_POSITION_SCALE = 0.5


def patch_filters(key: PRNGKeyArray, width: int, patch: int) -> Float[Array, "D 3*{patch}*{patch}"]:
    """Random filters, flattened by channel, row, column.

    White noise over the discrete cosine transform of the patch in opponent colors, amplified by frequency.
    """
    x, u = np.meshgrid(np.arange(patch), np.arange(patch))
    cosines = np.cos(np.pi * (x + 0.5) * u / patch) * np.sqrt(np.where(u == 0, 1, 2) / patch)
    gains = (0.35 + np.hypot(u, u.T)) ** _WHITENING
    noise = jax.random.normal(key, (width, 3, patch, patch), jnp.float32)
    noise = noise * (3 * patch * patch) ** -0.5
    noise = noise * jnp.asarray(np.multiply.outer(_COLOR_GAINS, gains)[None], jnp.float32)
    filters = jnp.einsum(
        "wcuv,ck,ux,vy->wkxy", noise, *(jnp.asarray(m, jnp.float32) for m in (_COLORS, cosines, cosines)),
        precision="highest",
    )  # fmt: skip
    return filters.reshape(width, -1)


def position_embeddings(width: int, grid: int) -> Float32[Array, "N D"]:
    """Position embeddings to learn from: sines and cosines of both coordinates (as Beyer et al. 2022, "Better
    plain ViT baselines"); zeros for the class token.
    """
    waves = -(-width // 4)
    frequencies = np.pi / 2 * 10 ** (-1.5 * np.arange(waves) / waves)
    y, x = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[:grid, :grid])
    patches = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[:, :width]
    return jnp.asarray(np.pad(_POSITION_SCALE * patches, ((1, 0), (0, 0))), jnp.float32)
