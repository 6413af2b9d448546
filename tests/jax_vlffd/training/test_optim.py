"""The optimizer: the schedule's shape, and decay, scales and clipping as the config says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_vlffd.config import OptimConfig
from jax_vlffd.training.optimizer import learning_rate, make_optimizer
from jax_vlffd.training.parameter_rules import match_rules

PATHS = {
    "vision/blocks/mlp/fc1/weight": "vision",
    "text/blocks/mlp/fc1/weight": "text",
    "image_head/weight": "head",
    "image_head/bias": "head",
}
CONFIG = OptimConfig(
    learning_rate=0.1, vision_scale=1.0, text_scale=1.0, head_scale=1.0, weight_decay=0.0,
    schedule="constant", warmup="", clip=0.0, eps=1e-12,
)  # fmt: skip


def rates(steps: int, warmup_steps: int, **changes: object) -> np.ndarray:
    config = dataclasses.replace(OptimConfig(learning_rate=2.0), **changes)
    schedule = learning_rate(config, steps=steps, warmup_steps=warmup_steps)
    return np.array([float(schedule(n)) for n in range(steps + 1)])


def update(
    config: OptimConfig, gradient: dict[str, np.ndarray], steps: int = 1
) -> dict[str, np.ndarray]:
    """Parameters of ones after some steps with the same gradient."""
    parameters = {path: np.ones(2, np.float32) for path in PATHS}
    schedule = learning_rate(config, steps=100, warmup_steps=0)
    optimizer = make_optimizer(config, match_rules(PATHS), schedule)
    state = optimizer.init(parameters)
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = {path: np.asarray(parameters[path] + updates[path]) for path in PATHS}
    return parameters


def gradients(value: float) -> dict[str, np.ndarray]:
    return {path: np.full(2, value, np.float32) for path in PATHS}


# --- the learning rate ---


def test_the_rate_rises_in_a_line_falls_as_a_cosine_and_ends_at_its_share() -> None:
    result = rates(110, 10, final_share=0.1)
    np.testing.assert_allclose(result[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    assert result[10] == pytest.approx(2.0)  # the peak, from which the cosine starts
    assert result[60] == pytest.approx(1.1, rel=1e-6)  # half-way between peak and end
    assert result[110] == pytest.approx(0.2, rel=1e-6)
    assert (np.diff(result[10:]) < 0).all()


def test_a_constant_rate_stays() -> None:
    result = rates(50, 5, schedule="constant")
    np.testing.assert_allclose(result[4:], 2.0, rtol=1e-6)
    np.testing.assert_allclose(rates(50, 0, schedule="constant"), 2.0)


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_the_first_step_moves_and_no_step_exceeds_the_peak(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    result = rates(steps, warmup)[:-1]  # the schedule at `steps` is past the last step
    assert result[0] > 0
    assert result.max() <= 2.0 * (1 + 1e-6)
    assert result[min(max(warmup - 1, 0), steps - 1)] == pytest.approx(2.0, rel=1e-5)


# --- what each setting does ---


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient() -> None:
    for value in (1e-3, 1.0, 50.0):
        for path, after in update(CONFIG, gradients(value)).items():
            np.testing.assert_allclose(after, 0.9, rtol=1e-4, err_msg=path)


@pytest.mark.parametrize("part", ["vision", "text", "head"])
def test_the_scale_of_a_part_scales_its_steps_alone(part: str) -> None:
    config = dataclasses.replace(CONFIG, **{f"{part}_scale": 3.0})
    for path, after in update(config, gradients(1.0)).items():
        expected = 0.7 if PATHS[path] == part else 0.9
        np.testing.assert_allclose(after, expected, rtol=1e-4, err_msg=path)


def test_a_scale_of_0_holds_a_part_still() -> None:
    config = dataclasses.replace(CONFIG, vision_scale=0.0, weight_decay=0.3)
    np.testing.assert_array_equal(
        update(config, gradients(1.0))["vision/blocks/mlp/fc1/weight"], 1.0
    )


def test_decay_shrinks_weights_and_leaves_biases() -> None:
    config = dataclasses.replace(CONFIG, weight_decay=0.5)
    for path, after in update(config, gradients(0.0)).items():
        expected = 1.0 if path.endswith("bias") else 0.95  # 1 - rate x decay
        np.testing.assert_allclose(after, expected, rtol=1e-6, err_msg=path)


def test_clipping_bounds_the_global_norm() -> None:
    # Adam's own step does not see a constant factor, so the bound shows in steps of unlike size.
    def ratio(clip: float) -> float:
        config = dataclasses.replace(CONFIG, clip=clip, b1=0.9, b2=0.999)
        parameters = {path: np.ones(2, np.float32) for path in PATHS}
        optimizer = make_optimizer(config, match_rules(PATHS), lambda _: 0.1)
        state = optimizer.init(parameters)
        sizes = []
        for value in (1e-3, 10.0):
            updates, state = optimizer.update(gradients(value), state, parameters)
            sizes.append(float(np.abs(updates["image_head/weight"]).max()))
        return sizes[1] / sizes[0]

    small = np.sqrt(8) * 1e-3  # the norm of the first gradient: bounded by it, both steps are alike
    assert ratio(small) == pytest.approx(1.0, rel=1e-3)
    assert ratio(0.0) < 0.8
    assert ratio(1e6) == pytest.approx(ratio(0.0))


def test_the_betas_are_those_of_the_config() -> None:
    def after(**changes: float) -> float:
        return float(
            update(dataclasses.replace(CONFIG, **changes), gradients(1.0), 3)["image_head/bias"][0]
        )

    assert after(b1=0.0, b2=0.0) == pytest.approx(0.7, rel=1e-5)  # a sign at each step
    config = dataclasses.replace(CONFIG, b1=0.0, b2=0.0, eps=1.0)
    assert update(config, gradients(1.0))["image_head/bias"][0] == pytest.approx(0.95)
