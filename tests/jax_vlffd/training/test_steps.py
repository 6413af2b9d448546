"""The train and the eval step: meshes, accumulation, precision, what moves, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jax_vlffd.config import LossConfig, MeshConfig, OptimConfig
from jax_vlffd.errors import UserError
from jax_vlffd.losses import classification_loss, contrastive_loss, patch_loss
from jax_vlffd.model import bind, initial_parameters
from jax_vlffd.training.sharding import check_batch, make_mesh, to_devices
from jax_vlffd.training.state import TrainPlan, TrainState, initial_state
from jax_vlffd.training.step import forward, make_eval_step, make_loss, make_train_step
from tests.support import tiny

STEPS = 5
# Where a gradient is nearly 0, Adam makes whole steps of its rounding error: 3e-4 keeps that below 1e-5.
OPTIM = OptimConfig(learning_rate=3e-4, head_scale=1.0)
BATCH = tiny.abstract_batch(tiny.BATCH)

LOSS = LossConfig(image=2.0, alignment=0.5, fusion=3.0)
LOCAL = dataclasses.replace(LOSS, local=0.25)


class Stepped(NamedTuple):
    """Parameters after some steps, the metrics of each, and how many programs that took."""

    parameters: dict[str, np.ndarray]
    metrics: list[dict[str, float]]
    programs: int


def run(plan: TrainPlan, steps: int = STEPS) -> Stepped:
    step, state, logged = make_train_step(plan), tiny.state(plan), []
    for n in range(steps):
        state, metrics = step(state, to_devices(tiny.batch(n), plan.mesh))
        logged.append({name: float(value) for name, value in metrics.items()})
    assert int(state.step) == steps
    return Stepped(tiny.host(state.parameters), logged, step._cache_size())


@pytest.fixture(scope="module")
def single() -> Stepped:
    return run(tiny.plan(optim=OPTIM, loss=LOSS))


# --- the same result however the work is laid out ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "accumulate"),
    [
        ((8, 1, 1), 1),
        pytest.param((2, 4, 1), 1, marks=pytest.mark.campaign),
        pytest.param((4, 1, 2), 1, marks=pytest.mark.campaign),
        ((2, 2, 2), 2),
        pytest.param((1, 1, 1), 4, marks=pytest.mark.campaign),
    ],
    ids=["data 8", "fsdp 4", "tensor 2", "2x2x2 in 2 parts", "one device in 4 parts"],
)
def test_every_layout_takes_the_steps_of_one_device(
    mesh: tuple[int, int, int], accumulate: int, single: Stepped
) -> None:
    result = run(tiny.plan(mesh, accumulate=accumulate, optim=OPTIM, loss=LOSS))
    difference = tiny.difference(result.parameters, single.parameters)
    print(f"mesh {mesh}, accumulate {accumulate}: largest difference {difference:.1e}")
    assert difference < 1e-5
    assert result.programs == single.programs == 1
    assert result.metrics[-1].keys() == single.metrics[-1].keys()
    for name, value in result.metrics[-1].items():
        assert value == pytest.approx(single.metrics[-1][name], abs=1e-4), name


def gradients(plan: TrainPlan, batch: dict[str, np.ndarray]) -> Any:
    """((loss, metrics), gradient of every parameter that trains) at the start."""
    values = tiny.state(plan).parameters
    trainable = {k: v for k, v in values.items() if k in plan.trainable}
    frozen = {k: v for k, v in values.items() if k not in plan.trainable}
    result = jax.jit(jax.value_and_grad(make_loss(plan), has_aux=True))
    return tiny.host(result(trainable, frozen, to_devices(batch, plan.mesh)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "accumulate"),
    [pytest.param((8, 1, 1), 1, marks=pytest.mark.campaign), ((2, 2, 2), 2)],
    ids=["data 8", "2x2x2 in 2 parts"],
)
def test_local_losses_are_those_of_one_device(mesh: tuple[int, int, int], accumulate: int) -> None:
    batch = tiny.batch()
    batch["forged_patches"][3] = -1  # so that devices do not know equally many
    (loss, _), expected = gradients(tiny.plan(loss=LOCAL), batch)
    (result, _), moved = gradients(tiny.plan(mesh, accumulate=accumulate, loss=LOCAL), batch)
    assert result == pytest.approx(loss, rel=1e-6)
    for path, gradient in expected.items():
        apart = np.linalg.norm(moved[path] - gradient)
        # Sums in float32 in another order: the largest of these was 2.2e-6, on one kind of CPU.
        assert apart <= 1e-5 * np.linalg.norm(gradient) + 1e-7, path


def test_the_steps_move_every_parameter(single: Stepped) -> None:
    # So that the agreement above is one of training and not of standing still.
    start = tiny.start()
    unused = {"logit_bias"}  # of the sigmoid loss alone
    still = {path for path in start if np.array_equal(start[path], single.parameters[path])}
    assert still == unused
    moved = single.parameters["image_head/weight"] - start["image_head/weight"]
    assert np.abs(moved).max() > 5e-4


@pytest.mark.slow
def test_a_seed_gives_the_same_parameters_on_every_mesh() -> None:
    state = initial_state(tiny.plan((2, 2, 2)), seed=3)
    other = jax.jit(lambda: initial_parameters(tiny.model(), jax.random.key(3)))()
    for path, value in other.items():
        np.testing.assert_array_equal(state.parameters[path], value, err_msg=path)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.optimizer))
    assert int(state.step) == 0


@pytest.mark.slow
def test_the_parameters_are_split_and_the_state_is_donated() -> None:
    plan = tiny.plan((2, 2, 2), loss=LossConfig(alignment=0, fusion=0))
    state = tiny.state(plan)
    weight = state.parameters["vision/blocks/mlp/fc1/weight"]
    assert weight.sharding.shard_shape(weight.shape) == (2, 32, 16)  # of [2, 64, 32]
    moment = state.optimizer[1].mu["vision/blocks/mlp/fc1/weight"]
    assert moment.sharding == weight.sharding
    after, _ = make_train_step(plan)(state, to_devices(tiny.batch(), plan.mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert jax.tree.map(lambda x: x.sharding, after) == plan.sharding


# --- precision ---


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def products(plan: TrainPlan) -> set[str]:
    """The dtypes of the matrix products of a train step."""
    return {
        str(equation.outvars[0].aval.dtype)
        for equation in equations(make_train_step(plan).trace(plan.abstract, BATCH).jaxpr.jaxpr)
        if equation.primitive.name == "dot_general"
    }


def test_no_branch_computes_in_float64() -> None:
    # With 64 bits allowed, a double that NumPy or Python brought in would show.
    plan = tiny.plan()
    with jax.enable_x64(True):
        whole = jax.make_jaxpr(lambda p, b: forward(bind(plan.graph, p), b, plan.spec))(
            plan.abstract.parameters, BATCH
        )
    kinds = [v.aval.dtype for eqn in equations(whole.jaxpr) for v in eqn.outvars]
    assert np.dtype("float32") in kinds
    assert np.dtype("float64") not in kinds


@pytest.mark.slow
def test_bfloat16_is_that_of_the_products_and_not_of_the_parameters() -> None:
    assert products(tiny.plan()) == {"float32"}
    plan = tiny.plan(dtype="bfloat16")
    assert products(plan) == {"bfloat16", "float32"}  # the joint embedding and the heads stay fp32
    state, metrics = jax.eval_shape(make_train_step(plan), plan.abstract, BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {np.dtype("float32")}
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {np.dtype("float32")}


@pytest.mark.slow
def test_bfloat16_follows_float32(single: Stepped) -> None:
    metrics = run(tiny.plan(dtype="bfloat16", optim=OPTIM, loss=LOSS)).metrics[-1]
    for name in ("loss", "loss_image", "loss_alignment", "loss_fusion"):
        assert metrics[name] == pytest.approx(single.metrics[-1][name], rel=0.02), name


# --- what the losses see ---


@pytest.fixture(scope="module")
def outputs() -> Callable[..., dict[str, np.ndarray]]:
    """Runs the forward pass of the untrained tiny model."""

    @functools.cache
    def compiled(separate_captions: bool) -> Callable:
        plan = tiny.plan(loss=LOCAL, separate_captions=separate_captions)
        return jax.jit(lambda p, b: forward(bind(plan.graph, p), b, plan.spec))

    def compute(
        batch: dict[str, np.ndarray], separate_captions: bool = False
    ) -> dict[str, np.ndarray]:
        return tiny.host(compiled(separate_captions)(tiny.start(), batch))

    return compute


@pytest.mark.slow
def test_the_logged_losses_are_those_of_the_global_batch_with_the_configured_weights(
    single: Stepped, outputs: Callable[..., dict[str, np.ndarray]]
) -> None:
    metrics, batch = single.metrics[0], jax.tree.map(jnp.asarray, tiny.batch(0))
    out = jax.tree.map(jnp.asarray, outputs(batch))
    whole = contrastive_loss(
        out["image_embedding"], out["text_embedding"], batch["caption_key"],
        jnp.float32(tiny.CLIP.logit_scale_init), jnp.float32(0), mesh=tiny.plan().mesh,
    )  # fmt: skip
    assert metrics["loss_alignment"] == pytest.approx(float(whole), rel=1e-5)
    for name, logits in (("image", "image_logits"), ("fusion", "fused_logits")):
        expected = classification_loss(out[logits], batch["label"])
        assert metrics[f"loss_{name}"] == pytest.approx(float(expected), rel=1e-5)
        right = out[logits].argmax(-1) == batch["label"]
        assert metrics[f"accuracy_{name}"] == pytest.approx(float(right.mean()))
    weighed = [getattr(LOSS, n) * metrics[f"loss_{n}"] for n in ("image", "alignment", "fusion")]
    assert metrics["loss"] == pytest.approx(sum(weighed), rel=1e-6)


@pytest.mark.slow
def test_the_local_losses_are_of_patches_and_weigh_on_top_of_their_branches(
    outputs: Callable[..., dict[str, np.ndarray]],
) -> None:
    batch, plan = jax.tree.map(jnp.asarray, tiny.batch(0)), tiny.plan(loss=LOCAL)
    out = jax.tree.map(jnp.asarray, outputs(batch))
    (total, metrics), _ = gradients(plan, batch)
    patches = patch_loss(out["patch_logits"], batch["forged_patches"])
    assert metrics["loss_local_image"] == pytest.approx(float(patches), rel=1e-5)
    local = contrastive_loss(
        out["local_embedding"], out["text_embedding"], batch["caption_key"],
        jnp.float32(tiny.CLIP.logit_scale_init), jnp.float32(0), mesh=plan.mesh,
    )  # fmt: skip
    assert metrics["loss_local_alignment"] == pytest.approx(float(local), rel=1e-5)
    (without, _), _ = gradients(tiny.plan(loss=LOSS), batch)
    more = LOCAL.local * (LOSS.image * float(patches) + LOSS.alignment * float(local))
    assert total - without == pytest.approx(more, rel=1e-5)


@pytest.mark.slow
def test_branch_3_reads_its_own_captions_where_they_differ(
    outputs: Callable[..., dict[str, np.ndarray]],
) -> None:
    batch, other = tiny.batch(0), tiny.batch(1)
    changed = batch | {"fused_tokens": other["fused_tokens"]}
    together, apart = outputs(changed), outputs(changed, separate_captions=True)
    swapped = outputs(batch | {"tokens": other["fused_tokens"]})
    for name in ("image_logits", "image_embedding", "text_embedding"):
        np.testing.assert_allclose(apart[name], together[name], atol=1e-6)
    for name in ("fused_logits", "blind_logits"):
        assert np.abs(apart[name] - together[name]).max() > 1e-4
        np.testing.assert_allclose(apart[name], swapped[name], atol=1e-6)


def test_what_branch_3_knows_without_the_image(
    outputs: Callable[..., dict[str, np.ndarray]],
) -> None:
    batch = tiny.batch()
    other = batch | {"image": tiny.batch(1)["image"]}
    before, after = outputs(batch), outputs(other)
    np.testing.assert_array_equal(before["blind_logits"], after["blind_logits"])
    assert np.abs(before["fused_logits"] - after["fused_logits"]).max() > 1e-5


@pytest.mark.slow
def test_a_caption_that_tells_the_label_is_seen_to_leak() -> None:
    """Tokens that state the label, images that do not: the accuracy without the image goes to 1."""
    loss = LossConfig(image=0.0, alignment=0.0, fusion=1.0)
    plan = tiny.plan(loss=loss, optim=OptimConfig(learning_rate=1e-2, head_scale=1.0))
    step, state = make_train_step(plan), tiny.state(plan)
    result = []
    for n in range(30):
        batch = tiny.batch(n)
        batch["tokens"][:, 1] = batch["label"] + 7
        state, metrics = step(state, to_devices(batch, plan.mesh))
        result.append({name: float(value) for name, value in metrics.items()})
    assert result[0]["accuracy_fusion_without_image"] < 0.9
    assert result[-1]["accuracy_fusion_without_image"] == 1
    assert result[-1]["auc_fusion_without_image"] == 1
    assert result[-1]["accuracy_fusion"] == 1
    assert result[-1]["accuracy_image"] < 0.9


# --- the eval step ---


def test_the_eval_step_is_the_image_branch(
    outputs: Callable[..., dict[str, np.ndarray]],
) -> None:
    plan, batch = tiny.plan((8, 1, 1)), tiny.batch()
    fields = {
        "image": batch["image"],
        "label": batch["label"],
        "index": np.arange(tiny.BATCH, dtype=np.int32)[::-1].copy(),
        "valid": np.arange(tiny.BATCH) < 12,
    }
    result = make_eval_step(plan)(tiny.state(plan).parameters, to_devices(fields, plan.mesh))
    np.testing.assert_allclose(result["logits"], outputs(batch)["image_logits"], atol=1e-6)
    for name in ("label", "index", "valid"):
        np.testing.assert_array_equal(result[name], fields[name])
        assert result[name].is_fully_replicated


# --- what does not divide ---


def test_the_error_for_an_indivisible_batch_names_the_nearest_sizes() -> None:
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(16, mesh)
    check_batch(16, mesh, accumulate=4)
    with pytest.raises(UserError, match=r"batch of 18 .* 16 or 20 would"):
        check_batch(18, mesh)
    with pytest.raises(UserError, match=r"batch of 3 .*; 4 would"):
        check_batch(3, mesh)
    with pytest.raises(UserError, match=r"batch of 20 .* 3 accumulated parts; 12 or 24 would"):
        check_batch(20, mesh, accumulate=3)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshConfig(3, 1, 1), "data=3 fsdp=1 tensor=1 does not multiply to the 8 devices"),
        (MeshConfig(-1, 3, 1), "data=-1 fsdp=3 tensor=1 does not multiply to the 8 devices"),
        (MeshConfig(-1, -1, 1), "at most one of them -1"),
        (MeshConfig(0, 1, 1), "sizes must be at least 1"),
        (MeshConfig(2, 2, 1), "does not multiply"),
    ],
)
def test_a_mesh_that_does_not_multiply_is_refused(mesh: MeshConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_mesh(mesh)


def test_one_axis_of_the_mesh_takes_what_is_left() -> None:
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(2, -1, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_the_state_is_a_pytree_of_arrays() -> None:
    plan = tiny.plan()
    state = tiny.state(plan)
    assert isinstance(jax.tree.map(lambda x: x, state), TrainState)
    assert {f.name for f in dataclasses.fields(state)} == {"step", "parameters", "optimizer"}
