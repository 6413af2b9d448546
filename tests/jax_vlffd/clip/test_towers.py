"""The towers and the model around them: compute settings, precision, padding, adapters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_vlffd import model
from jax_vlffd.clip.config import CLIPConfig, Compute, TextConfig, VisionConfig
from jax_vlffd.clip.towers import ImageTower
from jax_vlffd.config import ModelConfig

EOS = 39
CLIP = CLIPConfig(
    VisionConfig(32, 4, 4, 64, image_size=32, patch_size=8),
    TextConfig(32, 4, 4, 64, "gelu", vocab_size=40, context_length=12, eos_id=EOS),
    embed_dim=16,
)
#: Deep enough for rounding to pile up.
DEEP = dataclasses.replace(
    CLIP,
    vision=dataclasses.replace(CLIP.vision, layers=24),
    text=dataclasses.replace(CLIP.text, layers=24),
)


def config_of(clip: CLIPConfig = CLIP, **compute: Any) -> ModelConfig:
    return ModelConfig(clip, fusion_heads=4, fusion_mlp_width=48, compute=Compute(**compute))


@functools.cache
def graph_of(config: ModelConfig) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    return model.graph_and_shapes(config)


def parameters_of(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random fp32 parameters with no trivial bias or scale; layers keep the size of what they get."""
    rng = np.random.default_rng(seed)
    result = {}
    for path, shape in sorted(graph_of(config)[1].items()):
        value = rng.standard_normal(shape.shape)
        if path.endswith("scale"):
            value = 1 + 0.1 * value
        elif path.endswith("weight"):
            value *= shape.shape[-1] ** -0.5
        elif "embedding" not in path:
            value *= 0.1
        result[path] = value.astype(np.float32)
    return result


def inputs(batch: int = 3, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch, 32, 32, 3)).astype(np.float32)
    tokens = rng.integers(1, EOS, (batch, 12)).astype(np.int32)
    for row, end in zip(tokens, (4, 11, 1, 8), strict=False):
        row[end:] = EOS
    return jnp.asarray(images), jnp.asarray(tokens)


def forward(config: ModelConfig, parameters: Any, images: Any, tokens: Any) -> dict[str, Any]:
    """Every output of the model."""
    vlffd = model.bind(graph_of(config)[0], parameters)
    image, text = vlffd.encode_image(images), vlffd.encode_text(tokens)
    return {
        "image pooled": image.pooled,
        "text pooled": text.pooled,
        "image embedding": vlffd.embed_image(image.pooled),
        "text embedding": vlffd.embed_text(text.pooled),
        "image logits": vlffd.classify_image(image.pooled),
        "fused logits": vlffd.classify_fused(image.tokens, text.tokens, tokens),
    }


@functools.cache
def program(config: ModelConfig) -> Callable:
    return jax.jit(functools.partial(forward, config))


def run(config: ModelConfig, parameters: Any, images: Any, tokens: Any) -> dict[str, np.ndarray]:
    with jax.default_matmul_precision("highest"):
        out = program(config)(parameters, images, tokens)
    return {name: np.asarray(value) for name, value in out.items()}


def text_gradient(config: ModelConfig) -> Callable:
    """(parameters, tokens) -> (a scalar of the text tower, its gradient); not jitted."""

    def scalar(parameters: Any, tokens: Any) -> jax.Array:
        vlffd = model.bind(graph_of(config)[0], parameters)
        return (vlffd.encode_text(tokens).tokens ** 2 * jnp.arange(32)[None, None]).mean()

    return jax.value_and_grad(scalar)


@functools.cache
def computed_gradient(config: ModelConfig) -> tuple[float, dict[str, np.ndarray]]:
    _, tokens = inputs()
    with jax.default_matmul_precision("highest"):
        value, gradient = jax.jit(text_gradient(config))(parameters_of(config), tokens)
    return float(value), {path: np.asarray(leaf) for path, leaf in gradient.items()}


# How it is computed does not change what it says


@pytest.mark.slow
@pytest.mark.parametrize(
    "compute", [{"remat": "dots"}, {"remat": "full", "unroll": 4}, {"unroll": 2}], ids=str
)
def test_remat_and_unrolling_change_nothing(compute: dict[str, Any]) -> None:
    value, gradient = computed_gradient(config_of())
    other_value, other_gradient = computed_gradient(config_of(**compute))
    assert other_value == pytest.approx(value, rel=1e-6)
    for path, wanted in gradient.items():
        limit = 1e-6 * max(1.0, float(np.abs(wanted).max()))
        assert np.abs(other_gradient[path] - wanted).max() <= limit, path
    assert max(float(np.abs(value).max()) for value in gradient.values()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [1, 5, 8])
def test_remat_saves_memory_however_far_the_layers_are_unrolled(unroll: int) -> None:
    def memory(**compute: Any) -> int:
        shape = VisionConfig(64, 8, 2, 256, "gelu", image_size=64, patch_size=8)
        tower = nnx.eval_shape(
            lambda: ImageTower(shape, rngs=nnx.Rngs(0), compute=Compute(**compute))
        )
        graph, state = nnx.split(tower)

        def value(state: Any, x: Any) -> jax.Array:
            return nnx.merge(graph, state)(x).pooled.sum()

        gradient = jax.grad(value)
        images = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32)
        compiled = jax.jit(gradient).lower(state, images).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    assert memory(remat="full", unroll=unroll) < 0.65 * memory(unroll=8)


@pytest.mark.slow
def test_remat_and_unrolling_are_in_the_program() -> None:
    _, tokens = inputs()
    shapes = graph_of(config_of())[1]

    def text_of(**compute: Any) -> str:
        return str(jax.make_jaxpr(text_gradient(config_of(**compute)))(shapes, tokens))

    plain, dots, full = text_of(), text_of(remat="dots"), text_of(remat="full")
    policies = ("DotsSaveable", "dots_with_no_batch_dims_saveable")
    assert any(policy in dots for policy in policies)
    assert not any(policy in plain + full for policy in policies)
    assert full.count("nothing_saveable") > plain.count("nothing_saveable")
    assert "unroll=1" in plain
    assert "unroll=4" in text_of(unroll=4)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "jaxpr"):
                    inner = inner.jaxpr
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def traced(config: ModelConfig) -> list[Any]:
    images, tokens = inputs()
    shapes = graph_of(config)[1]

    def gradient(parameters: Any) -> Any:
        return jax.grad(
            lambda p: sum(x.sum() for x in forward(config, p, images, tokens).values())
        )(parameters)

    return list(equations(jax.make_jaxpr(gradient)(shapes).jaxpr))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_float64_even_where_jax_would_allow_it(dtype: str) -> None:
    assert not jax.config.jax_enable_x64
    config = config_of(dtype=dtype, remat="dots", lora_rank=2)
    graph_of(config)
    with jax.enable_x64(True):
        actual = {
            str(variable.aval.dtype)
            for equation in traced(config)
            for variable in equation.outvars
            if jnp.issubdtype(variable.aval.dtype, jnp.floating)
        }
    assert actual == {"float32", dtype}


def test_parameters_are_fp32_even_where_jax_would_make_float64() -> None:
    config = config_of(lora_rank=2)
    with jax.enable_x64(True):
        _, shapes = model.graph_and_shapes(config)
        drawn = jax.eval_shape(lambda: model.initial_parameters(config, jax.random.key(0)))
    assert {str(leaf.dtype) for leaf in (*shapes.values(), *drawn.values())} == {"float32"}


def test_every_fp32_product_of_the_detector_is_at_full_precision() -> None:
    config = config_of()
    branch = nnx.eval_shape(lambda: model.ImageBranch(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(branch)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
    directions = jax.ShapeDtypeStruct((21, CLIP.embed_dim), np.float32)
    program = jax.make_jaxpr(lambda state, *given: nnx.merge(graph, state)(*given))
    products = [
        equation
        for equation in equations(program(state, images, directions).jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) > 5
    for product in products:
        assert "HIGHEST" in str(product.params["precision"]), product


def test_bf16_is_for_products_and_not_for_statistics() -> None:
    config = config_of(dtype="bfloat16")
    used: dict[tuple[str, int], set[str]] = {}
    for equation in traced(config):
        for variable in equation.invars:
            if hasattr(variable.aval, "dtype"):
                name = equation.primitive.name, len(variable.aval.shape)
                used.setdefault(name, set()).add(str(variable.aval.dtype))
    assert "bfloat16" in used["dot_general", 3], "the maps of [B, N, D]"
    assert used["rsqrt", 3] == {"float32"}, "LayerNorm"
    assert used["exp", 5] == {"float32"}, "softmax"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp32_products_are_never_rounded_to_less(dtype: str) -> None:
    products = [e for e in traced(config_of(dtype=dtype)) if e.primitive.name == "dot_general"]
    if dtype == "bfloat16":  # there, those of the joint embedding and of the heads
        products = [e for e in products if all(len(x.aval.shape) == 2 for x in e.invars)]
    assert len(products) > 10
    for equation in products:
        assert {str(x.aval.dtype) for x in equation.invars} == {"float32"}, equation
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, equation


def test_parameters_and_outputs_are_fp32_under_bf16() -> None:
    config = config_of(dtype="bfloat16", lora_rank=2)
    assert {str(shape.dtype) for shape in graph_of(config)[1].values()} == {"float32"}
    outputs = jax.eval_shape(functools.partial(forward, config), graph_of(config)[1], *inputs())
    for name in ("image embedding", "text embedding", "image logits", "fused logits"):
        assert outputs[name].dtype == jnp.float32


@pytest.mark.slow
def test_bf16_stays_near_fp32() -> None:
    exact, half = config_of(DEEP), config_of(DEEP, dtype="bfloat16")
    parameters = parameters_of(exact)
    wanted, actual = (run(config, parameters, *inputs()) for config in (exact, half))
    for name, value in wanted.items():
        difference = np.linalg.norm(actual[name].astype(np.float32) - value) / np.linalg.norm(value)
        # Eight bits of mantissa, 24 layers.
        assert 1e-4 < difference < 0.03, name


def test_initial_parameters_have_the_announced_shapes() -> None:
    config = config_of(lora_rank=2)
    parameters = jax.eval_shape(
        functools.partial(model.initial_parameters, config), jax.random.key(0)
    )
    shapes = graph_of(config)[1]
    assert {k: (v.shape, v.dtype) for k, v in parameters.items()} == {
        k: (v.shape, v.dtype) for k, v in shapes.items()
    }


# Text


def text_outputs(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Pooled text features and fused logits, of fixed images and parameters."""
    config = config_of()
    outputs = run(config, parameters_of(config), inputs()[0], tokens)
    return {name: outputs[name] for name in ("text pooled", "fused logits")}


ROW = st.lists(st.integers(0, EOS - 1), min_size=12, max_size=12)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(ROW, min_size=3, max_size=3),
    ends=st.lists(st.integers(0, 11), min_size=3, max_size=3),
    junk=st.lists(st.lists(st.integers(0, EOS), min_size=12, max_size=12), min_size=3, max_size=3),
)
def test_what_follows_the_end_does_not_leak(
    rows: list[list[int]], ends: list[int], junk: list[list[int]]
) -> None:
    tokens, other = np.asarray(rows, np.int32), np.asarray(junk, np.int32)
    for row, end in enumerate(ends):
        tokens[row, end:] = EOS
        other[row, : end + 1] = tokens[row, : end + 1]
    before, after = text_outputs(tokens), text_outputs(other)
    for name, value in before.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_what_precedes_the_end_does_count() -> None:
    _, tokens = inputs()
    before = text_outputs(tokens)
    changed = np.array(tokens)
    changed[:, 0] = (tokens[:, 0] + 1) % EOS
    after = text_outputs(changed)
    for name, value in before.items():
        assert (np.abs(np.asarray(after[name]) - value).max(axis=1) > 1e-4).all(), name


def test_a_shorter_row_says_the_same() -> None:
    config = config_of()
    parameters, (images, tokens) = parameters_of(config), inputs()
    tokens = np.array(tokens)
    tokens[:, 6:] = EOS
    whole, short = (run(config, parameters, images, t) for t in (tokens, tokens[:, :7]))
    for name, value in whole.items():
        np.testing.assert_allclose(short[name], value, atol=1e-6, err_msg=name)


def test_text_is_pooled_at_the_first_end() -> None:
    config = config_of()
    vlffd = model.bind(graph_of(config)[0], parameters_of(config))
    tokens = jnp.asarray([[1, 2, EOS, 3, EOS, EOS], [EOS, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, EOS]])
    np.testing.assert_array_equal(vlffd.text.end(tokens), [2, 0, 5])


# Adapters


@pytest.mark.slow
def test_adapters_change_nothing_at_first() -> None:
    plain, adapted = config_of(), config_of(lora_rank=3)

    @jax.jit
    def adapters(key: jax.Array) -> model.Parameters:
        fresh = model.initial_parameters(adapted, key)
        return {path: value for path, value in fresh.items() if "/lora_" in path}

    fresh = adapters(jax.random.key(1))
    assert len(fresh) == 2 * 4 * 2, "two matrices for each of four projections of both towers"
    for path, value in fresh.items():
        assert path.split("/")[1:3] == ["blocks", "attention"]
        assert (np.asarray(value) == 0).all() == path.endswith("lora_b"), path
    parameters = parameters_of(plain)
    expected = run(plain, parameters, *inputs())
    actual = run(adapted, parameters | fresh, *inputs())
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_adapters_equal_the_weights_they_stand_for() -> None:
    plain, adapted = config_of(), config_of(lora_rank=3)
    parameters = parameters_of(adapted)
    merged = {path: value for path, value in parameters.items() if "/lora_" not in path}
    for path in parameters:
        if path.endswith("lora_a"):
            layer = path.removesuffix("lora_a")
            low = parameters[layer + "lora_b"] @ parameters[path]
            merged[layer + "weight"] = merged[layer + "weight"] + 16.0 / 3 * low
    expected, actual = run(plain, merged, *inputs()), run(adapted, parameters, *inputs())
    base = run(plain, {k: v for k, v in parameters.items() if "/lora_" not in k}, *inputs())
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-5, err_msg=name)
        assert np.abs(base[name] - value).max() > 1e-3, name
