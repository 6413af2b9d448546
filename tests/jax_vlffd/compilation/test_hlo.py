"""Costs of compiled programs against what the programs are known to take."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jax_vlffd.compilation.costs import Costs, costs
from jax_vlffd.compilation.hlo import arrays, parse

F32 = np.float32


def of(function: Callable, *shapes: tuple[int, ...], **kwargs: Any) -> Costs:
    """The costs of a function of fp32 arrays, compiled here."""
    arguments = [jax.ShapeDtypeStruct(shape, F32) for shape in shapes]
    return costs(jax.jit(function).lower(*arguments).compile().as_text(), **kwargs)


# --- matrix products ---


def test_a_product() -> None:
    assert of(jnp.matmul, (8, 32), (32, 16)).flops == 2 * 8 * 32 * 16


def test_a_batched_product_with_two_contracted_axes() -> None:
    counted = of(partial(jnp.einsum, "bijk,bljk->bil"), (3, 4, 5, 6), (3, 7, 5, 6))
    assert counted.flops == 2 * 3 * 4 * 7 * 5 * 6


def test_a_product_that_is_fused_with_its_surroundings() -> None:
    counted = of(lambda x, w: jnp.tanh(jnp.sin(x) @ w + 1).sum(), (64, 32), (32, 16))
    assert counted.flops == 2 * 64 * 32 * 16


def chain(x: Any, weights: Any) -> Any:
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, weights)[0]


def test_a_loop_counts_as_often_as_it_turns() -> None:
    assert of(chain, (8, 32), (7, 32, 32)).flops == 7 * 2 * 8 * 32 * 32


def test_a_loop_in_a_loop() -> None:
    counted = of(
        lambda x, w: jax.lax.fori_loop(0, 5, lambda _, c: chain(c, w), x), (8, 32), (7, 32, 32)
    )
    assert counted.flops == 5 * 7 * 2 * 8 * 32 * 32


def test_a_gradient_through_a_loop_takes_three_products() -> None:
    gradient = jax.grad(lambda x, w: chain(x, w).sum(), (0, 1))
    assert of(gradient, (8, 32), (7, 32, 32)).flops == 3 * 7 * 2 * 8 * 32 * 32


def test_what_is_computed_again_counts_again() -> None:
    def layer(x: Any, w: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def loss(x: Any, weights: Any) -> Any:
        again = jax.checkpoint(layer, policy=jax.checkpoint_policies.nothing_saveable)
        return jax.lax.scan(lambda c, w: (again(c, w), None), x, weights)[0].sum()

    counted = of(jax.grad(loss, (0, 1)), (8, 32), (7, 32, 32))
    assert counted.flops == (2 * 3 + 2) * 7 * 2 * 8 * 32 * 32


@pytest.mark.parametrize(("stride", "pad", "groups"), [(1, 0, 1), (2, 1, 1), (1, 2, 4)])
def test_a_convolution_counts_no_padding(stride: int, pad: int, groups: int) -> None:
    size, window, inputs, outputs = 9, 3, 8, 16
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride), padding=[(pad, pad)] * 2, feature_group_count=groups,
    )  # fmt: skip
    counted = of(convolve, (2, inputs, size, size), (outputs, inputs // groups, window, window))
    places = range(-pad, size + pad - window + 1, stride)
    met = sum(0 <= at + k < size for at in places for k in range(window))
    assert counted.flops == 2 * 2 * met**2 * outputs * inputs / groups


def test_a_loop_of_unknown_length_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="trip count"):
        of(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), (8, 8))


def test_products_are_counted_by_scope() -> None:
    def two(x: Any, w: Any) -> Any:
        with jax.named_scope("inner"):
            y = jnp.tanh(x @ w)
        return (y @ w).sum()

    counted = of(jax.grad(two, (0, 1)), (8, 32), (32, 32), scopes=("inner",))
    assert counted.scoped["inner"] == 3 * 2 * 8 * 32 * 32
    assert counted.flops > counted.scoped["inner"]


# --- collectives ---


def over_devices(function: Callable, out: P) -> Costs:
    mesh = Mesh(np.asarray(jax.devices()), ("x",))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("x"), out_specs=out, check_vma=False)
    return of(mapped, (64, 32), devices=8)


def test_collectives_by_kind_with_their_bytes() -> None:
    size = 8 * 32 * 4  # of a device's share
    cases: dict[str, tuple[Callable, P, float, float]] = {
        "all-reduce": (lambda x: jax.lax.psum(x, "x"), P(), size, 2 * 7 / 8 * size),
        "all-gather": (lambda x: jax.lax.all_gather(x, "x"), P(), 8 * size, 7 * size),
        "reduce-scatter": (lambda x: jax.lax.psum_scatter(x, "x"), P("x"), size, 7 / 8 * size),
        "collective-permute": (
            lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]),
            P("x"), size, size,
        ),
    }  # fmt: skip
    for kind, (function, out, whole, wire) in cases.items():
        counted = over_devices(function, out).collectives
        assert list(counted) == [kind]
        assert (counted[kind].count, counted[kind].bytes) == (1, whole), kind
        assert counted[kind].wire_bytes == pytest.approx(wire), kind


def test_a_collective_in_a_loop_counts_as_often() -> None:
    def loop(x: Any) -> Any:
        return jax.lax.fori_loop(0, 6, lambda _, c: jnp.sin(jax.lax.psum(c, "x")), x)

    counted = over_devices(loop, P()).collectives["all-reduce"]
    assert (counted.count, counted.bytes) == (6, 6 * 8 * 32 * 4)


# --- memory ---


def test_what_is_read_and_written() -> None:
    assert of(lambda x: jnp.sin(x) + 1, (256, 256)).hbm_bytes == 2 * 256 * 256 * 4


def test_a_loop_over_slices_reads_each_once() -> None:
    def loop(x: Any, parts: Any) -> Any:
        return jax.lax.scan(lambda c, p: (jnp.sin(c) + p, None), x, parts)[0]

    counted = of(loop, (256, 256), (50, 256, 256)).hbm_bytes / (256 * 256 * 4)
    assert (
        50 * 3 <= counted < 50 * 6
    )  # at least: the carry in and out, and a slice; never the whole


def test_every_array_in_memory_is_known() -> None:
    counted = of(lambda x: jnp.sin(x @ x.T), (64, 2)).arrays
    assert (64, 64) in {array.dims for array in counted}
    assert (64, 64) not in {a.dims for a in of(lambda x: jnp.sin(x.T @ x), (64, 2)).arrays}


# --- a TPU's programs, shortened ---

TPU = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[5,64,32])) -> (s32[], bf16[5,64,32]) {
  %p = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  %copy.1 = s32[]{:T(128)S(6)} copy(%n)
  %next = s32[]{:T(128)} add(%copy.1, %one), metadata={op_name="jit(f)/while/body/add"}
  %x = bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %y = f32[64,64]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%product
  ROOT %out = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)}) tuple(%next, %x)
}

%product (q: bf16[5,64,32]) -> f32[64,64] {
  %q = bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %a = bf16[64,32]{1,0:T(8,128)(2,1)} bitcast(%q)
  ROOT %c = f32[64,64]{1,0:T(8,128)} convolution(%a, %a), dim_labels=bf_oi->bf
}

%condition (p.1: (s32[], bf16[5,64,32])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %n.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %end = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%n.1, %end), direction=LT
}

%part (q.2: bf16[2,128,4,64]) -> f32[256,64] {
  %q.2 = bf16[2,128,4,64]{1,3,2,0:T(8,128)(2,1)} parameter(0)
  ROOT %r = f32[256,64]{1,0} all-reduce(%q.2), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%body
}

ENTRY %main (x.1: bf16[5,64,32], q.1: bf16[2,128,4,64]) -> f32[2,4,128,128] {
  %x.1 = bf16[5,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %q.1 = bf16[2,128,4,64]{1,3,2,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, /*index=1*/bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)}) tuple(%zero, %x.1)
  %loop = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)S(1)}) while(%t), condition=%condition, body=%body
  %f = f32[256,64]{1,0} all-gather-start(%q.1), channel_id=1, replica_groups=[4,8]<=[32], dimensions={0}
  %g = f32[256,64]{1,0} fusion(%q.1), kind=kCustom, calls=%part
  %h = f32[256,64]{1,0} fusion(%q.1), kind=kCustom, calls=%part
  ROOT %s = f32[2,4,128,128]{2,3,1,0:T(8,128)} convolution(%q.1, %q.1), window={size=2x4 stride=1x3 lhs_dilate=2x4}, dim_labels=0b1f_0o1i->01bf, operand_precision={highest,highest}
}
"""  # noqa: E501


def test_a_tpu_program_with_batched_products_and_unlabeled_loops() -> None:
    counted = costs(TPU)
    assert counted.flops == 5 * 2 * 64 * 64 * 32 + 2 * 2 * 4 * 128 * 128 * 64
    assert counted.collectives["all-gather"].wire_bytes == 7 / 8 * 256 * 64 * 4
    # One sum, threaded through two fusions.
    assert counted.collectives["all-reduce"].count == 1
    assert counted.collectives["all-reduce"].wire_bytes == 2 * 3 / 4 * 256 * 64 * 4


def test_shapes_with_layouts_and_tuples() -> None:
    counted = arrays("(s32[]{:T(128)}, /*index=5*/bf16[5,64]{1,0:T(8,128)(2,1)S(1)}, pred[7])")
    assert [(a.dtype, a.dims, a.space, a.bytes) for a in counted] == [
        ("s32", (), 0, 4), ("bf16", (5, 64), 1, 640), ("pred", (7,), 0, 7),
    ]  # fmt: skip


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(ValueError, match="no entry computation"):
        parse("HloModule empty\n")


def test_a_long_product_is_exact() -> None:
    side = 2**13
    text = f"""HloModule m

ENTRY %main (x: f32[{side},{side}]) -> f32[{side},{side}] {{
  %x = f32[{side},{side}]{{1,0}} parameter(0)
  ROOT %d = f32[{side},{side}]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""
    assert costs(text).flops == math.ldexp(1.0, 40)
