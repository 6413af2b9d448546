"""The losses against dense oracles, on meshes of one to eight devices, and what a device holds."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from jax_vlffd.config import AlignmentTargets
from jax_vlffd.losses import classification_loss, contrastive_loss
from jax_vlffd.training.sharding import AXES, batch_sharding, replicated

MESHES = {"1": (1, 1, 1), "2": (2, 1, 1), "8": (8, 1, 1), "fsdp 8": (1, 8, 1), "2x2x2": (2, 2, 2)}
BATCH, WIDTH = 32, 24
SCALE, BIAS = 2.6592, -3.0
ALIGNMENT_TARGETS = get_args(AlignmentTargets)

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


#: Of a relative difference: sums in float32 are taken in another order, which the kind of CPU decides.
LIMIT = 1e-5


def mesh_of(shape: tuple[int, ...]) -> Mesh:
    return Mesh(np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape), AXES)


def pairs(seed: int = 0, batch: int = BATCH, width: int = WIDTH, kinds: int = 5) -> Inputs:
    """Unit vectors, keys of which many are equal, the temperature and the bias."""
    rng = np.random.default_rng(seed)
    image, text = rng.standard_normal((2, batch, width))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    keys = rng.integers(-(2**31), 2**31 - 1, kinds)[rng.integers(0, kinds, batch)]
    return (
        image.astype(np.float32), text.astype(np.float32), keys.astype(np.int32),
        np.float32(SCALE), np.float32(BIAS),
    )  # fmt: skip


def oracle(inputs: Inputs, targets: str) -> float:
    """The loss in float64, written down from its definition, pair by pair."""
    image, text, keys, scale, bias = (np.asarray(x, np.float64) for x in inputs)
    count = len(image)
    positive = keys[:, None] == keys[None, :]
    if targets == "one_to_one":
        positive = np.eye(count, dtype=bool)
    logits = np.exp(scale) * image @ text.T
    if targets == "sigmoid":
        odds = (positive.sum() + 0.5) / ((~positive).sum() + 0.5)
        signed = np.where(positive, 1, -1) * (logits - logits.mean() + np.log(odds) + bias)
        return float(np.log1p(np.exp(-signed)).sum() / positive.sum())
    share = positive / positive.sum(1, keepdims=True)
    total = 0.0
    for similar in (logits, logits.T):
        total -= (share * (similar - np.log(np.exp(similar).sum(1, keepdims=True)))).sum()
    return float(total / (2 * count))


def dense(image: Any, text: Any, keys: Any, scale: Any, bias: Any, *, targets: str) -> Any:
    """The same in JAX, on one device."""
    positive = keys[:, None] == keys[None, :]
    if targets == "one_to_one":
        positive = jnp.eye(len(keys), dtype=bool)
    logits = jnp.exp(scale) * jnp.matmul(image, text.T, precision="highest")
    if targets == "sigmoid":
        odds = (positive.sum() + 0.5) / ((~positive).sum() + 0.5)
        logits = logits - logits.mean() + jnp.log(odds) + bias
        return jax.nn.softplus(jnp.where(positive, -1, 1) * logits).sum() / positive.sum()
    share = positive / positive.sum(1, keepdims=True)
    rows = (share * jax.nn.log_softmax(logits, axis=1)).sum()
    columns = (share * jax.nn.log_softmax(logits.T, axis=1)).sum()
    return -(rows + columns) / (2 * len(keys))


@functools.cache
def sharded(shape: tuple[int, ...], targets: str) -> Callable:
    """Jitted (value, gradients) of our loss on a mesh, with the batch laid over it."""
    mesh = mesh_of(shape)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    loss = functools.partial(contrastive_loss, mesh=mesh, targets=targets)
    return jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 3, 4)),
        in_shardings=(rows, rows, rows, whole, whole),
        out_shardings=(whole, (rows, rows, whole, whole)),
    )


@functools.cache
def dense_gradients(targets: str) -> Callable:
    return jax.jit(jax.grad(functools.partial(dense, targets=targets), argnums=(0, 1, 3, 4)))


def relative(result: Any, expected: Any) -> float:
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def differences(inputs: Inputs, mesh: str, targets: str) -> dict[str, float]:
    """Relative differences: of the value from the float64 oracle, of the gradients from the dense."""
    value, gradients = sharded(MESHES[mesh], targets)(*inputs)
    assert value.dtype == np.float32
    expected = dense_gradients(targets)(*inputs)
    both = zip(gradients, expected, strict=True)
    result = dict(zip(("image", "text", "scale", "bias"), both, strict=True))
    if targets != "sigmoid":  # they have no use for a bias
        np.testing.assert_array_equal(*result.pop("bias"))
    return {"value": relative(value, oracle(inputs, targets))} | {
        name: relative(*both) for name, both in result.items()
    }


@pytest.mark.parametrize("targets", ALIGNMENT_TARGETS)
@pytest.mark.parametrize("mesh", MESHES)
def test_the_sharded_loss_is_the_dense_one(mesh: str, targets: str) -> None:
    result = differences(pairs(), mesh, targets)
    assert {name: value for name, value in result.items() if not value < LIMIT} == {}


@pytest.mark.parametrize("targets", ALIGNMENT_TARGETS)
@pytest.mark.parametrize("kinds", [1, 2, 1000])
def test_any_number_of_captions_equals_the_oracle(kinds: int, targets: str) -> None:
    result = differences(pairs(seed=kinds, kinds=kinds), "8", targets)
    assert {name: value for name, value in result.items() if not value < LIMIT} == {}


def shapes_in(program: str) -> set[tuple[int, ...]]:
    """The shapes of all buffers that a compiled program names."""
    result = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", program)
    return {tuple(map(int, shape.split(","))) for shape in result}


@pytest.mark.parametrize("targets", ALIGNMENT_TARGETS)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
def test_no_device_holds_all_pairs(shape: tuple[int, ...], targets: str) -> None:
    batch = 128
    inputs = pairs(batch=batch, width=8)
    ours = shapes_in(sharded(shape, targets).lower(*inputs).compile().as_text())
    assert (batch, batch) not in ours
    assert (batch // 8, batch) in ours
    # In no other shape either: a device's rows against all columns are the largest buffer.
    assert max(map(math.prod, ours)) == batch * batch // 8

    whole = shapes_in(dense_gradients(targets).lower(*inputs).compile().as_text())
    assert (batch, batch) in whole, "the check finds the matrix where there is one"


@pytest.mark.parametrize("targets", ALIGNMENT_TARGETS)
def test_similarities_are_asked_for_in_full_fp32(targets: str) -> None:
    program = sharded(MESHES["8"], targets).lower(*pairs()).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert len(products) >= 3, "forward, and by images and by texts"
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products), products


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), kinds=st.integers(1, 40), data=st.data())
def test_the_order_of_pairs_does_not_matter(seed: int, kinds: int, data: st.DataObject) -> None:
    image, text, keys, *rest = pairs(seed, kinds=kinds)
    order = np.asarray(data.draw(st.permutations(range(BATCH))))
    for targets in ALIGNMENT_TARGETS:
        loss = sharded(MESHES["8"], targets)
        value, (by_image, *_) = loss(image, text, keys, *rest)
        other, (by_other, *_) = loss(image[order], text[order], keys[order], *rest)
        assert relative(other, value) < 3e-6
        assert relative(by_other, np.asarray(by_image)[order]) < 3e-6


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_unique_captions_have_one_partner_each(seed: int, data: st.DataObject) -> None:
    image, text, _, *rest = pairs(seed)
    keys = data.draw(
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=BATCH, max_size=BATCH, unique=True)
    )
    keys = np.asarray(keys, np.int32)
    value, gradients = sharded(MESHES["8"], "multi_positive")(image, text, keys, *rest)
    other, expected = sharded(MESHES["8"], "one_to_one")(image, text, keys, *rest)
    assert relative(value, other) < 3e-6
    for result, wanted in zip(gradients[:2], expected[:2], strict=True):
        assert relative(result, wanted) < 3e-6


def at_the_start(batch: int, repeated: float, scale: float, common: float, targets: str) -> float:
    """The loss of untrained embeddings with a bias of 0.

    Args:
      batch: size.
      repeated: share of the batch with one and the same caption; the other captions differ.
      scale: of the similarities.
      common: the similarity of any image to any text, as pretrained towers have it.
      targets: of the loss.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, batch, 512))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors = np.sqrt(1 - common) * vectors + np.sqrt(common) * np.eye(512)[0]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    image, text = vectors.astype(np.float32)
    keys = np.maximum(np.arange(batch), repeated * batch).astype(np.int32)
    value, _ = sharded(MESHES["8"], targets)(
        image, text, keys, np.float32(np.log(scale)), np.float32(0)
    )
    return float(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeated", "scale", "common"),
    [
        (0.0, 1 / 0.07, 0.0),
        (0.5, 1 / 0.07, 0.0),
        (0.9, 1 / 0.07, 0.0),
        (0.5, 100.0, 0.25),
        (0.9, 100.0, 0.25),
    ],
    ids=["own captions", "half alike", "most alike", "CLIP, half alike", "CLIP, most alike"],
)
def test_the_sigmoid_loss_starts_alike_at_all_batch_sizes(
    repeated: float, scale: float, common: float
) -> None:
    values = {
        batch: at_the_start(batch, repeated, scale, common, "sigmoid") for batch in (32, 256, 2048)
    }
    assert max(values.values()) < 2 * min(values.values()), values


def test_one_caption_a_picture_has_the_sigmoid_loss_of_its_authors() -> None:
    image, text, _, scale, _ = pairs()
    bias, keys = np.float64(-10), np.arange(BATCH, dtype=np.int32)
    logits = np.exp(np.float64(scale)) * image.astype(np.float64) @ text.astype(np.float64).T
    ours = bias + logits.mean() - np.log((BATCH + 0.5) / (BATCH * (BATCH - 1) + 0.5))
    expected = np.logaddexp(0, -(2 * np.eye(BATCH) - 1) * (logits + bias)).sum() / BATCH
    value, _ = sharded(MESHES["8"], "sigmoid")(image, text, keys, scale, np.float32(ours))
    assert value == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000), kinds=st.integers(1, 40), shift=st.integers(-(2**31), 2**31 - 1)
)
def test_keys_only_tell_equal_from_unequal(seed: int, kinds: int, shift: int) -> None:
    image, text, keys, *rest = pairs(seed, kinds=kinds)
    renamed = (keys.astype(np.int64) + shift).astype(np.int32)  # wraps, and stays one to one
    for targets in ALIGNMENT_TARGETS:
        loss = sharded(MESHES["8"], targets)
        assert loss(image, text, keys, *rest)[0] == loss(image, text, renamed, *rest)[0]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), kinds=st.integers(1, 40))
def test_images_and_texts_are_treated_alike(seed: int, kinds: int) -> None:
    image, text, *rest = pairs(seed, kinds=kinds)
    for targets in ALIGNMENT_TARGETS:
        loss = sharded(MESHES["8"], targets)
        value, (by_image, by_text, *_) = loss(image, text, *rest)
        other, (by_first, by_second, *_) = loss(text, image, *rest)
        assert relative(other, value) < 3e-6
        assert relative(by_first, by_text) < 3e-6
        assert relative(by_second, by_image) < 3e-6


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), kinds=st.integers(1, 40))
def test_shared_captions_cost_at_least_their_entropy(seed: int, kinds: int) -> None:
    image, text, keys, *rest = pairs(seed, kinds=kinds)
    value, _ = sharded(MESHES["8"], "multi_positive")(image, text, keys, *rest)
    entropy = np.log((keys[:, None] == keys[None, :]).sum(1)).mean()
    assert value > entropy - 1e-5


@pytest.mark.parametrize("scale", [math.log(100), 4.7, 5.5])
@pytest.mark.parametrize("targets", ALIGNMENT_TARGETS)
def test_the_temperature_has_its_whole_gradient_at_the_limit_and_above(
    targets: str, scale: float
) -> None:
    image, text, keys, _, bias = pairs()
    _, (*_, result, _) = sharded(MESHES["8"], targets)(image, text, keys, np.float32(scale), bias)
    around = [oracle((image, text, keys, scale + h, bias), targets) for h in (1e-5, -1e-5)]
    assert result == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
)
def test_cross_entropy_equals_its_definition(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((16, 2))).astype(np.float32)
    labels = rng.integers(0, 2, 16).astype(np.int32)
    other, own = (logits.astype(np.float64)[np.arange(16), x] for x in (1 - labels, labels))
    expected = np.logaddexp(0, other - own).mean()
    result = classification_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)


def test_cross_entropy_of_half_precision_logits_is_fp32() -> None:
    logits = jnp.asarray([[0.0, 3.0], [1.0, 0.0]], jnp.bfloat16)
    loss = classification_loss(logits, jnp.asarray([1, 1]))
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.e)) / 2, rel=1e-6)
