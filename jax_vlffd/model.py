"""VLFFD: CLIP's towers, the alignment embeddings, the fusion block and the two heads (paper, section 3.2).

Branch 1 classifies the image feature and is the detector at test time; branch 2 aligns images with their
captions; branch 3 classifies image tokens that have attended to text tokens. The fusion block's inner
layout is ours.

Letters in the shapes of every module: B batch, H W image, P patches, N image tokens (the class token, then the
patches), T text tokens, D tower width (C where a second one occurs), E joint embedding, L layers; G patches
along a side of an image, S sentences and K entries of an explainer's bank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray, UInt8

from jax_vlffd.clip.config import Compute
from jax_vlffd.clip.layers import MLP, REMAT_POLICIES, Attention, LayerNorm, Linear
from jax_vlffd.clip.towers import Features, ImageTower, TextTower
from jax_vlffd.config import ModelConfig


class Fusion(nnx.Module):
    """Image tokens attend to text tokens; residual, MLP, LayerNorm, mean over the image tokens (ours)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        vision, text = config.clip.vision, config.clip.text
        # The fusion block is not pretrained and always trains fully, without adapters.
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

    def __call__(
        self,
        image_tokens: Float[Array, "B N D"],
        text_tokens: Float[Array, "B T C"],
        text_mask: Bool[Array, "B T"],
    ) -> Float[Array, "B D"]:
        """Pooled image tokens that have attended to the text tokens whose mask is True."""

        def block(x: Array, text_tokens: Array) -> Array:
            x = x + self.attention(x, text_tokens, norm=self.layernorm1, context_mask=text_mask)
            x = x + self.mlp(x, norm=self.layernorm2)
            return self.layernorm3(x).mean(axis=1)

        # Without a scan, only this keeps XLA from saving every intermediate.
        policy = REMAT_POLICIES["dots" if self.remat == "none" else self.remat]
        return jax.checkpoint(block, policy=policy)(image_tokens, text_tokens)


class VLFFD(nnx.Module):
    """The three-branch model. Parameters are fp32; every output that a loss reads is fp32."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        clip, compute = config.clip, config.compute
        self.vision = ImageTower(clip.vision, rngs=rngs, compute=compute)
        self.text = TextTower(clip.text, rngs=rngs, compute=compute)
        # The joint embedding and the heads are small and decide the result, so they are computed in fp32.
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

    def encode_image(self, images: Float32[Array, "B H W 3"]) -> Features:
        """The image tower's features of normalized images."""
        return self.vision(images)

    def encode_text(self, tokens: Int[Array, "B T"]) -> Features:
        """The text tower's features of token ids."""
        return self.text(tokens)

    def embed_image(self, pooled: Float[Array, "B D"]) -> Float32[Array, "B E"]:
        """Pooled image features as unit vectors of the joint embedding."""
        return unit(self.visual_projection(pooled.astype(jnp.float32)))

    def embed_text(self, pooled: Float[Array, "B D"]) -> Float32[Array, "B E"]:
        """Pooled text features as unit vectors of the joint embedding."""
        return unit(self.text_projection(pooled.astype(jnp.float32)))

    def classify_image(self, pooled: Float[Array, "*rest D"]) -> Float32[Array, "*rest 2"]:
        """Branch 1: logits of (real, fake) from pooled image features, or from each patch's."""
        return self.image_head(pooled.astype(jnp.float32))

    def classify_fused(
        self,
        image_tokens: Float[Array, "B N D"],
        text_tokens: Float[Array, "B T C"],
        tokens: Int[Array, "B T"],
    ) -> Float32[Array, "B 2"]:
        """Branch 3: logits of (real, fake) from both towers' tokens; `tokens` are the ids of the text."""
        positions = jnp.arange(tokens.shape[1])
        words = positions[None, :] <= self.text.end(tokens)[:, None]
        pooled = self.fusion(image_tokens, text_tokens, words)
        return self.fusion_head(pooled.astype(jnp.float32))


class ImageScores(NamedTuple):
    """The image branch's outputs.

    logits: of (real, fake). embedding: unit vectors. margins: each patch's logit of fake less that of real.
    similarities: of each patch to each entry of the bank.
    """

    logits: Float32[Array, "B 2"]
    embedding: Float32[Array, "B E"]
    margins: Float32[Array, "B P"]
    similarities: Float32[Array, "B P K"]


class ImageBranch(nnx.Module):
    """The part of the model that a verdict needs; parameters are named as in `VLFFD`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        vision, exact = config.clip.vision, Compute()
        self.vision = ImageTower(vision, rngs=rngs, compute=config.compute)
        self.visual_projection = Linear(
            vision.width, config.clip.embed_dim, rngs=rngs, bias=False, compute=exact
        )
        self.image_head = Linear(vision.width, 2, rngs=rngs, compute=exact)
        self.mean, self.std = tuple(config.image_mean), tuple(config.image_std)

    def __call__(
        self, images: UInt8[Array, "B H W 3"], directions: Float32[Array, "K E"]
    ) -> ImageScores:
        """Scores images, and compares their patches with the directions of a bank's entries."""
        features = self.vision(normalize(images, self.mean, self.std))
        pooled = features.pooled.astype(jnp.float32)
        patches = features.tokens[:, 1:].astype(jnp.float32)
        patch_logits = self.image_head(patches)
        return ImageScores(
            self.image_head(pooled),
            unit(self.visual_projection(pooled)),
            patch_logits[..., 1] - patch_logits[..., 0],
            jnp.matmul(
                unit(self.visual_projection(patches)),
                directions.T,
                precision=jax.lax.Precision.HIGHEST,
            ),
        )


def unit(x: Float[Array, "*rest E"]) -> Float[Array, "*rest E"]:
    """Scales vectors to length 1."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)


def normalize(
    images: UInt8[Array, "B H W 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[Array, "B H W 3"]:
    """Scales images to 0..1, then subtracts the mean and divides by the spread of each color."""
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


def initial_parameters(config: ModelConfig, key: PRNGKeyArray) -> Parameters:
    """Fresh fp32 parameters; traceable, so that it can be jitted into any sharding."""
    _, state = nnx.split(VLFFD(config, rngs=nnx.Rngs(params=key)))
    return flat_parameters(state)


def bind(graph: nnx.GraphDef, parameters: Mapping[str, ArrayLike]) -> Any:
    """The VLFFD or ImageBranch of a graph with these parameters; to be called inside a jitted function."""
    flat = [(_path(name), nnx.Param(value)) for name, value in parameters.items()]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def flat_parameters(state: nnx.State) -> dict:
    """A module's state as path -> array or shape."""
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(name.split("/"))
