"""The transformer blocks of both towers, stacked over layers and run under one scan.

Weights keep the layout of their Hugging Face files, `weight` [out, in], so that a checkpoint is mapped by
renaming and stacking alone. Parameters are fp32; `dtype` is that of the matrix products. LayerNorm's
statistics and the softmax are always fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_vlffd.clip.config import Compute, TowerConfig

Array = jax.Array
_Made = TypeVar("_Made")

REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def recomputed(function: Callable[..., _Made], *arguments: Any) -> _Made:
    """`function(*arguments)`, of which only the arguments are kept for the backward pass.

    For what is cheap to compute and dear to keep: a LayerNorm and what it gives, and the fp32 intermediates
    of an activation and of the softmax, are most of what a layer would keep otherwise. Of the matrix
    products only the scores of the attention are computed twice, which is under 1 % of a step.
    """
    # Layers run within a scan, whose loop keeps the two computations apart without a barrier.
    again = jax.checkpoint(
        function, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False
    )
    result: _Made = again(*arguments)
    return result


@jax.custom_vjp
def gradient_once(x: Array) -> Array:
    """`x`, whose gradient is written to memory before it is used.

    XLA would fuse the product that it comes from into each of its uses, and so compute it twice.
    """
    return x


gradient_once.defvjp(lambda x: (x, None), lambda _, g: (jax.lax.optimization_barrier(g),))


def gelu_quick(x: Array) -> Array:
    """OpenAI CLIP's activation, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": gelu_quick,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Linear(nnx.Module):
    """y = x @ weight.T + bias, with an optional low-rank adapter (`lora_b @ lora_a`, zero at first)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        stddev: float | None = None,
        compute: Compute = Compute(),  # noqa: B008 - frozen
        lora: bool = False,
    ):
        stddev = inputs**-0.5 if stddev is None else stddev
        self.weight = nnx.Param(stddev * jax.random.normal(rngs.params(), (outputs, inputs)))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,)))
        if lora and compute.lora_rank:
            down = jax.random.normal(rngs.params(), (compute.lora_rank, inputs)) * inputs**-0.5
            self.lora_a = nnx.Param(down)
            self.lora_b = nnx.Param(jnp.zeros((outputs, compute.lora_rank)))
        self.dtype = compute.dtype
        self.lora_scale = compute.lora_alpha / max(compute.lora_rank, 1)

    def __call__(self, x: Array) -> Array:
        """Maps [..., in] to [..., out] in the compute dtype."""
        x = x.astype(self.dtype)
        y = _contract(x, self.weight[...].astype(self.dtype))
        if hasattr(self, "lora_a"):
            # Merged into a bf16 weight, a change of a hundredth of it would lose a fifth to rounding.
            low = _contract(x, self.lora_a[...].astype(self.dtype))
            y = y + self.lora_scale * _contract(low, self.lora_b[...].astype(self.dtype))
        if not hasattr(self, "bias"):
            return y
        return y + jax.lax.broadcast_to_rank(self.bias[...].astype(self.dtype), y.ndim)


def _precision(dtype: Any) -> str | None:
    """TPUs and GPUs round fp32 factors to bf16 or TF32 unless told not to; fp32 is to mean fp32."""
    return "highest" if dtype == jnp.float32 else None


def _contract(x: Array, weight: Array) -> Array:
    axes = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weight, axes, precision=_precision(x.dtype))


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis in fp32, given back in the dtype of its input."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """Normalizes [..., D]."""

        def normalized(x: Array, scale: Array, bias: Array) -> Array:
            y = x.astype(jnp.float32)
            centered = y - y.mean(-1, keepdims=True)
            variance = jnp.square(centered).mean(-1, keepdims=True)
            y = centered * jax.lax.rsqrt(variance + self.eps)
            scale, bias = (jax.lax.broadcast_to_rank(v, y.ndim) for v in (scale, bias))
            return (y * scale + bias).astype(x.dtype)

        return recomputed(normalized, x, self.scale[...], self.bias[...])


class Attention(nnx.Module):
    """Multi-head attention of `x` over `context` (over itself when none is given)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        compute: Compute,
        context_width: int | None = None,
    ):
        context_width = width if context_width is None else context_width
        self.query = Linear(width, width, rngs=rngs, compute=compute, lora=True)
        self.key = Linear(context_width, width, rngs=rngs, compute=compute, lora=True)
        self.value = Linear(context_width, width, rngs=rngs, compute=compute, lora=True)
        self.out = Linear(width, width, rngs=rngs, compute=compute, lora=True)
        self.heads = heads
        self.implementation = compute.attention

    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        *,
        norm: LayerNorm,
        causal: bool = False,
        context_mask: Array | None = None,
    ) -> Array:
        """Maps `x` [B, N, D], through `norm` first, and `context` [B, T, C] to [B, N, D].

        `context_mask` [B, T] is True where to look.
        """

        def project(x: Array, context: Array | None) -> tuple[Array, Array, Array]:
            x = norm(x)
            context = x if context is None else context
            return self.query(x), self.key(context), self.value(context)

        def split(y: Array) -> Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        mask = None if context_mask is None else context_mask[:, None, None, :]
        query, key, value = recomputed(project, x, context)

        # cuDNN would turn a mask that differs by example into a bias of the scores' full size.
        implementation: Any = self.implementation if context_mask is None else "xla"

        def mix(query: Array, key: Array, value: Array) -> Array:
            with jax.default_matmul_precision(_precision(query.dtype)):
                mixed = jax.nn.dot_product_attention(
                    split(query), split(key), split(value),
                    mask=mask, is_causal=causal, implementation=implementation,
                )  # fmt: skip
            return mixed.reshape(query.shape)

        # cuDNN's keeps no scores by itself.
        keeps_little = implementation == "cudnn"
        mixed = mix(query, key, value) if keeps_little else recomputed(mix, query, key, value)
        return self.out(mixed)


class MLP(nnx.Module):
    """Two linear maps with the tower's activation between."""

    def __init__(
        self, width: int, hidden: int, activation: str, *, rngs: nnx.Rngs, compute: Compute
    ):
        self.fc1 = Linear(width, hidden, rngs=rngs, compute=compute)
        self.fc2 = Linear(hidden, width, rngs=rngs, compute=compute)
        self.activation = activation

    def __call__(self, x: Array, *, norm: LayerNorm) -> Array:
        """Maps [..., D] to [..., D], through `norm` first."""

        def first(x: Array) -> Array:
            return self.fc1(norm(x))

        def second(hidden: Array) -> Array:  # its product is not needed again, only what goes in
            return self.fc2(_ACTIVATIONS[self.activation](hidden))

        return recomputed(second, gradient_once(recomputed(first, x)))


class Block(nnx.Module):
    """A pre-LayerNorm transformer layer."""

    def __init__(self, config: TowerConfig, *, rngs: nnx.Rngs, compute: Compute):
        self.layernorm1 = LayerNorm(config.width, config.layernorm_eps)
        self.attention = Attention(config.width, config.heads, rngs=rngs, compute=compute)
        self.layernorm2 = LayerNorm(config.width, config.layernorm_eps)
        self.mlp = MLP(
            config.width, config.mlp_width, config.activation, rngs=rngs, compute=compute
        )

    def __call__(self, x: Array, *, causal: bool) -> Array:
        """Maps [B, N, D] to [B, N, D]."""
        x = x + self.attention(x, norm=self.layernorm1, causal=causal)
        return x + self.mlp(x, norm=self.layernorm2)


def stacked_blocks(config: TowerConfig, *, rngs: nnx.Rngs, compute: Compute) -> Block:
    """A Block whose every parameter has a leading axis of L layers."""

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs, compute=compute)

    return create(rngs)


def run_blocks(
    blocks: Block, x: Array, *, causal: bool, compute: Compute, hidden_states: bool = False
) -> tuple[Array, Array | None]:
    """Runs stacked blocks by one scan.

    Args:
      blocks: as `stacked_blocks` makes them.
      x: [B, N, D].
      causal: whether a token sees only those before it.
      compute: remat policy and unrolling.
      hidden_states: also return every layer's output.

    Returns:
      The last output [B, N, D] and, when asked for, all outputs [L, B, N, D].
    """
    graph, parameters = nnx.split(blocks)

    def layer(carry: Array, values: nnx.State) -> tuple[Array, Array | None]:
        carry = nnx.merge(graph, values)(carry, causal=causal)
        return carry, carry if hidden_states else None

    if compute.remat != "none":
        # Within a scan, common subexpressions cannot be merged across the loop's boundary anyway.
        policy = REMAT_POLICIES[compute.remat]
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(layer, x, parameters, unroll=compute.unroll)
