"""The transformer blocks of both towers, stacked over layers and run by one scan.

Weights have the layout of Hugging Face files, `weight` [out, in], so that a checkpoint is only renamed and
stacked. Parameters are fp32; `dtype` is that of the matrix products. LayerNorm's statistics and the softmax are
always fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jax_vlffd.clip.config import Compute, TowerConfig

_Result = TypeVar("_Result")

REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def recomputed(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Returns `function(*arguments)`, saving only the arguments for the backward pass.

    For operations that are cheap to compute but large to save: a LayerNorm's output and the fp32 intermediates
    of the activation and the softmax are most of a layer's residuals. Of the matrix products only the
    attention's scores are computed twice, which is under 1 % of a step.
    """
    # Layers run within a scan, across whose loop XLA merges no computations: no barrier is needed.
    again = jax.checkpoint(
        function, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False
    )
    return again(*arguments)


@jax.custom_vjp
def gradient_once(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns `x`; its gradient is written to memory before it is used.

    XLA would fuse the matrix product of the gradient into each of its uses, and so compute it twice.
    """
    return x


gradient_once.defvjp(lambda x: (x, None), lambda _, g: (jax.lax.optimization_barrier(g),))


def gelu_quick(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
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
        weight = jax.random.normal(rngs.params(), (outputs, inputs), jnp.float32)
        self.weight = nnx.Param(stddev * weight)
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        if lora and compute.lora_rank:
            down = jax.random.normal(rngs.params(), (compute.lora_rank, inputs), jnp.float32)
            self.lora_a = nnx.Param(down * inputs**-0.5)
            self.lora_b = nnx.Param(jnp.zeros((outputs, compute.lora_rank), jnp.float32))
        self.dtype = compute.dtype
        self.lora_scale = compute.lora_alpha / max(compute.lora_rank, 1)

    def __call__(self, x: Float[Array, "*rest inputs"]) -> Float[Array, "*rest outputs"]:
        """Applies the map in the compute dtype."""
        x = x.astype(self.dtype)
        y = _contract(x, self.weight[...].astype(self.dtype))
        if hasattr(self, "lora_a"):
            # Not merged into the weight: in bf16, a change of a hundredth would lose a fifth to rounding.
            low = _contract(x, self.lora_a[...].astype(self.dtype))
            y = y + self.lora_scale * _contract(low, self.lora_b[...].astype(self.dtype))
        if not hasattr(self, "bias"):
            return y
        return y + jax.lax.broadcast_to_rank(self.bias[...].astype(self.dtype), y.ndim)


def _precision(dtype: Any) -> str | None:
    """Full precision for fp32, whose factors TPUs and GPUs round to bf16 or TF32 by default."""
    return "highest" if dtype == jnp.float32 else None


def _contract(
    x: Float[Array, "*rest inputs"], weight: Float[Array, "outputs inputs"]
) -> Float[Array, "*rest outputs"]:
    axes = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weight, axes, precision=_precision(x.dtype))


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in fp32 and returned in the dtype of its input."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rest D"]) -> Float[Array, "*rest D"]:
        """Normalizes the last axis."""

        def normalized(x: Array, scale: Array, bias: Array) -> Array:
            y = x.astype(jnp.float32)
            centered = y - y.mean(-1, keepdims=True)
            variance = jnp.square(centered).mean(-1, keepdims=True)
            y = centered * jax.lax.rsqrt(variance + self.eps)
            scale, bias = (jax.lax.broadcast_to_rank(v, y.ndim) for v in (scale, bias))
            return (y * scale + bias).astype(x.dtype)

        return recomputed(normalized, x, self.scale[...], self.bias[...])


class Attention(nnx.Module):
    """Multi-head attention of `x` over `context`, or over itself."""

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
        x: Float[Array, "B N D"],
        context: Float[Array, "B T C"] | None = None,
        *,
        norm: LayerNorm,
        causal: bool = False,
        context_mask: Bool[Array, "B T"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Normalizes `x` by `norm`, then attends from it to `context`.

        `context_mask` is True for the tokens to attend to.
        """

        def project(x: Array, context: Array | None) -> tuple[Array, Array, Array]:
            x = norm(x)
            context = x if context is None else context
            return self.query(x), self.key(context), self.value(context)

        def split(y: Array) -> Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        mask = None if context_mask is None else context_mask[:, None, None, :]
        query, key, value = recomputed(project, x, context)

        # cuDNN would expand a mask that differs by example to a bias of the scores' full size.
        implementation: Any = self.implementation if context_mask is None else "xla"

        def mix(query: Array, key: Array, value: Array) -> Array:
            with jax.default_matmul_precision(_precision(query.dtype)):
                mixed = jax.nn.dot_product_attention(
                    split(query), split(key), split(value),
                    mask=mask, is_causal=causal, implementation=implementation,
                )  # fmt: skip
            return mixed.reshape(query.shape)

        if implementation == "cudnn":  # its kernel saves no scores
            return self.out(mix(query, key, value))
        return self.out(recomputed(mix, query, key, value))


class MLP(nnx.Module):
    """Two linear maps with the tower's activation between them."""

    def __init__(
        self, width: int, hidden: int, activation: str, *, rngs: nnx.Rngs, compute: Compute
    ):
        self.fc1 = Linear(width, hidden, rngs=rngs, compute=compute)
        self.fc2 = Linear(hidden, width, rngs=rngs, compute=compute)
        self.activation = activation

    def __call__(self, x: Float[Array, "*rest D"], *, norm: LayerNorm) -> Float[Array, "*rest D"]:
        """Normalizes `x` by `norm`, then applies both maps."""

        def first(x: Array) -> Array:
            return self.fc1(norm(x))

        def second(hidden: Array) -> Array:  # the backward pass needs its input only
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

    def __call__(self, x: Float[Array, "B N D"], *, causal: bool) -> Float[Array, "B N D"]:
        """Attention and MLP, each with its residual connection."""
        x = x + self.attention(x, norm=self.layernorm1, causal=causal)
        return x + self.mlp(x, norm=self.layernorm2)


def stacked_blocks(config: TowerConfig, *, rngs: nnx.Rngs, compute: Compute) -> Block:
    """A Block whose parameters all have a leading axis of L layers."""

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs, compute=compute)

    return create(rngs)


def run_blocks(
    blocks: Block,
    x: Float[Array, "B N D"],
    *,
    causal: bool,
    compute: Compute,
    hidden_states: bool = False,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None]:
    """Runs stacked blocks by one scan.

    Args:
      blocks: of `stacked_blocks`.
      x: embedded tokens.
      causal: whether a token sees only those before it.
      compute: remat policy and unrolling.
      hidden_states: also return every layer's output.

    Returns:
      The last layer's output and, if `hidden_states`, every layer's.
    """
    graph, parameters = nnx.split(blocks)
    unroll = compute.unroll

    def layer(carry: Array, values: nnx.State) -> tuple[Array, Array | None]:
        carry = nnx.merge(graph, values)(carry, causal=causal)
        return carry, carry if hidden_states else None

    if compute.remat != "none":
        # Across the boundary of a loop, XLA merges no common subexpressions. A loop of one iteration is none:
        # the recomputed layers would be merged with the first ones, and everything saved.
        unroll = min(unroll, max(jax.tree.leaves(parameters)[0].shape[0] // 2, 1))
        policy = REMAT_POLICIES[compute.remat]
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(layer, x, parameters, unroll=unroll)
