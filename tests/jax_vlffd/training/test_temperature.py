"""The learned temperature at its limit, against CLIP's own way: a step, then the parameter kept at ln 100."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest

from jax_vlffd.config import LossConfig, OptimConfig
from jax_vlffd.model import bind
from jax_vlffd.training.sharding import to_devices
from jax_vlffd.training.step import forward, make_train_step
from tests.support import tiny

STEPS = 60
LIMIT = math.log(100)
OPTIM = OptimConfig(
    learning_rate=0.01, head_scale=1.0, schedule="constant", warmup="", weight_decay=0.0, clip=0.0
)


def slope(image: np.ndarray, text: np.ndarray, keys: np.ndarray, scale: float) -> float:
    """The derivative of the alignment loss by the log of the scale, in float64, with no limit in it."""
    similar = image.astype(np.float64) @ text.astype(np.float64).T
    positive = keys[:, None] == keys[None, :]
    share = positive / positive.sum(1, keepdims=True)
    total = 0.0
    for s in (similar, similar.T):
        logits = math.exp(scale) * s
        p = np.exp(logits - logits.max(1, keepdims=True))
        total += math.exp(scale) * ((p / p.sum(1, keepdims=True) - share) * s).sum()
    return total / (2 * len(keys))


# Half precision stores ln 100 as 4.60547; 4.6052 and more are what a run without a limit may have reached.
@pytest.mark.slow
@pytest.mark.parametrize("start", [
    4.5, LIMIT, float(np.float16(LIMIT)), 5.5,
    *(pytest.param(start, marks=pytest.mark.campaign) for start in (4.6052, 4.7)),
])  # fmt: skip
def test_the_scale_moves_as_clips_does_at_its_limit_and_from_above(start: float) -> None:
    plan = tiny.plan(loss=LossConfig(image=0.01, alignment=1.0, fusion=0.0), optim=OPTIM)
    embed = jax.jit(lambda p, b: forward(bind(plan.graph, p), b, plan.spec))
    step, state = make_train_step(plan), tiny.state(plan)
    first = jax.device_put(np.float32(start), plan.sharding.parameters["logit_scale"])
    state = dataclasses.replace(state, parameters={**state.parameters, "logit_scale": first})
    batch = tiny.batch(size=8)
    batch["caption_key"] = np.arange(8, dtype=np.int32)  # learned by heart: the scale wants to rise
    moved = to_devices(batch, plan.mesh)
    scale, mean, square, result, expected = start, 0.0, 0.0, [], []
    for n in range(1, STEPS + 1):
        out = tiny.host(embed(state.parameters, moved))
        gradient = slope(out["image_embedding"], out["text_embedding"], batch["caption_key"], scale)
        mean = OPTIM.b1 * mean + (1 - OPTIM.b1) * gradient
        square = OPTIM.b2 * square + (1 - OPTIM.b2) * gradient**2
        root = math.sqrt(square / (1 - OPTIM.b2**n)) + OPTIM.eps
        scale = min(scale - OPTIM.learning_rate * mean / (1 - OPTIM.b1**n) / root, LIMIT)
        expected.append(scale)
        state, _ = step(state, moved)
        result.append(float(state.parameters["logit_scale"]))
    np.testing.assert_allclose(result, expected, atol=2e-4)
    assert max(result) <= np.float32(LIMIT)


@pytest.mark.slow
def test_a_scale_that_is_not_trained_stays_as_it_was_loaded() -> None:
    plan = tiny.plan(loss=LossConfig(alignment=0.0))
    state = tiny.state(plan)
    first = jax.device_put(np.float32(4.7), plan.sharding.parameters["logit_scale"])
    state = dataclasses.replace(state, parameters={**state.parameters, "logit_scale": first})
    state, _ = make_train_step(plan)(state, to_devices(tiny.batch(), plan.mesh))
    assert float(state.parameters["logit_scale"]) == np.float32(4.7)
