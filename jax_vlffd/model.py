"""VLFFD: CLIP's towers, the alignment embeddings, the fusion block and the two heads (paper, section 3.2).

Branch 1 classifies the image feature and is the detector at test time; branch 2 aligns images with their
captions; branch 3 classifies image tokens that have attended to text tokens. The fusion block's inner
layout is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jax_vlffd.clip.config import Compute
from jax_vlffd.clip.layers import MLP, REMAT_POLICIES, Array, Attention, LayerNorm, Linear
from jax_vlffd.clip.towers import Features, ImageTower, TextTower
from jax_vlffd.config import ModelConfig


class Fusion(nnx.Module):
    """Image tokens attend to text tokens; residual, MLP, LayerNorm, mean over the image tokens (ours)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        vision, text = config.clip.vision, config.clip.text
        # The fusion block is new and trains whole in every mode: adapters are for pretrained weights.
        compute = dataclasses.replace(config.compute, lora_rank=0)
        self.layernorm1 = LayerNorm(vision.width, vision.layernorm_eps)
        self.attention = Attention(
            vision.width, config.fusion_heads, rngs=rngs, compute=compute, context_width=text.width
        )
        self.layernorm2 = LayerNorm(vision.width, vision.layernorm_eps)
        self.mlp = MLP(
            vision.width, config.fusion_mlp_width, vision.activation, rngs=rngs, compute=compute
        )
        self.layernorm3 = LayerNorm(vision.width, vision.layernorm_eps)
        self.remat = compute.remat

    def __call__(self, image_tokens: Array, text_tokens: Array, text_mask: Array) -> Array:
        """Maps [B, N, D], [B, T, D'] and a mask [B, T] (True = a word) to the pooled [B, D]."""

        def block(x: Array, text_tokens: Array) -> Array:
            x = x + self.attention(x, text_tokens, norm=self.layernorm1, context_mask=text_mask)
            x = x + self.mlp(x, norm=self.layernorm2)
            return self.layernorm3(x).mean(axis=1)

        # Outside a scan nothing but this keeps XLA from holding on to every intermediate.
        policy = REMAT_POLICIES["dots" if self.remat == "none" else self.remat]
        pooled: Array = jax.checkpoint(block, policy=policy)(image_tokens, text_tokens)
        return pooled


class VLFFD(nnx.Module):
    """The three-branch model. Parameters are fp32; every output that a loss reads is fp32."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        clip, compute = config.clip, config.compute
        self.vision = ImageTower(clip.vision, rngs=rngs, compute=compute)
        self.text = TextTower(clip.text, rngs=rngs, compute=compute)
        # The joint embedding and the heads are small and decide the result: they are computed in fp32.
        exact = Compute()
        self.visual_projection = Linear(
            clip.vision.width, clip.embed_dim, rngs=rngs, bias=False, compute=exact
        )
        self.text_projection = Linear(
            clip.text.width, clip.embed_dim, rngs=rngs, bias=False, compute=exact
        )
        self.logit_scale = nnx.Param(jnp.asarray(clip.logit_scale_init, jnp.float32))
        self.logit_bias = nnx.Param(jnp.asarray(0.0, jnp.float32))
        self.image_head = Linear(clip.vision.width, 2, rngs=rngs, stddev=0.01, compute=exact)
        self.fusion = Fusion(config, rngs=rngs)
        self.fusion_head = Linear(clip.vision.width, 2, rngs=rngs, stddev=0.01, compute=exact)

    def encode_image(self, images: Array) -> Features:
        """The image tower's features of normalized images [B, H, W, 3]."""
        features: Features = self.vision(images)
        return features

    def encode_text(self, tokens: Array) -> Features:
        """The text tower's features of int32 tokens [B, T]."""
        features: Features = self.text(tokens)
        return features

    def embed_image(self, pooled: Array) -> Array:
        """Pooled image features [B, D] as unit vectors [B, E]."""
        return unit(self.visual_projection(pooled.astype(jnp.float32)))

    def embed_text(self, pooled: Array) -> Array:
        """Pooled text features [B, D] as unit vectors [B, E]."""
        return unit(self.text_projection(pooled.astype(jnp.float32)))

    def classify_image(self, pooled: Array) -> Array:
        """Branch 1: logits [B, 2] of (real, fake) from pooled image features [B, D]."""
        logits: Array = self.image_head(pooled.astype(jnp.float32))
        return logits

    def classify_fused(self, image_tokens: Array, text_tokens: Array, tokens: Array) -> Array:
        """Branch 3: logits [B, 2] from both towers' tokens; `tokens` [B, T] tells words from padding."""
        positions = jnp.arange(tokens.shape[1])
        words = positions[None, :] <= self.text.end(tokens)[:, None]
        pooled = self.fusion(image_tokens, text_tokens, words)
        logits: Array = self.fusion_head(pooled.astype(jnp.float32))
        return logits


def unit(x: Array) -> Array:
    """Vectors [..., E] at length 1."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)


def normalize(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """uint8 images [B, H, W, 3] as the tower's fp32 input."""
    scaled = images.astype(jnp.float32) / 255.0
    center, spread = (
        jax.lax.broadcast_to_rank(jnp.asarray(value, jnp.float32), images.ndim)
        for value in (mean, std)
    )
    return (scaled - center) / spread


# The model as a pure function: a static graph and a flat dict of parameters, path -> array.

Parameters = dict[str, jax.Array]


def graph_and_shapes(config: ModelConfig) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """The model's static part, and the shape of every parameter by path; computes nothing."""
    model = nnx.eval_shape(lambda: VLFFD(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    return graph, flat_parameters(state)


def initial_parameters(config: ModelConfig, key: Array) -> Parameters:
    """Fresh fp32 parameters; traceable, so that it can be jitted into any sharding."""
    _, state = nnx.split(VLFFD(config, rngs=nnx.Rngs(params=key)))
    return flat_parameters(state)


def bind(graph: nnx.GraphDef, parameters: Mapping[str, Array]) -> VLFFD:
    """The model with these parameters; to be called inside a jitted function."""
    flat = [(_path(name), nnx.Param(value)) for name, value in parameters.items()]
    model: VLFFD = nnx.merge(graph, nnx.from_flat_state(flat))
    return model


def flat_parameters(state: nnx.State) -> dict:
    """A module's state as path -> array or shape."""
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(name.split("/"))
