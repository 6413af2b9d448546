"""The model's FLOPs against the products that its loss and gradient really take."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import pytest
from jax.extend.core import jaxprs_in_params

from configs import vlffd_clip_l14
from jax_vlffd.compilation.flops import ModelFlops, model_flops
from jax_vlffd.config import LossConfig, TuningConfig
from jax_vlffd.model import bind, normalize
from jax_vlffd.training.state import TrainPlan
from jax_vlffd.training.step import TEXT_FIELDS, _losses, forward
from launch.experiment import config
from tests.support import tiny

BATCH = tiny.abstract_batch(tiny.BATCH)
RANK = 4


def products(jaxpr: Any, wanted: set[Any]) -> float:
    """FLOPs of the matrix products that `wanted` variables need, scans as often as they turn."""
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        if not wanted.intersection(equation.outvars):
            continue
        wanted |= {v for v in equation.invars if not hasattr(v, "val")}
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * inner * equation.outvars[0].aval.size
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for part in jaxprs_in_params(equation.params):
            body = getattr(part, "jaxpr", part)
            total += turns * products(body, {v for v in body.outvars if not hasattr(v, "val")})
    return total


def counted(plan: TrainPlan, of: Any) -> float:
    """FLOPs per image of a function of the trainable parameters, the others and a batch."""
    trainable = {k: v for k, v in plan.shapes.items() if k in plan.trainable}
    frozen = {k: v for k, v in plan.shapes.items() if k not in plan.trainable}
    jaxpr = jax.make_jaxpr(of)(trainable, frozen, BATCH).jaxpr
    return products(jaxpr, set(jaxpr.outvars)) / tiny.BATCH


def recomputed(tuning: str, loss: LossConfig, separate: bool) -> float:
    """What is not kept for the backward pass: the scores of the towers; of the fusion, which is computed
    again as a whole but for its products with weights, the mixing too, and the scores once within it; and
    the first product of the adapters of query, key and value.
    """
    readings = (2 if separate and loss.alignment and loss.fusion else 1) if loss.uses_text else 0
    images, words = tiny.VISION.tokens, tiny.TEXT.context_length
    towers = tiny.VISION.layers * tiny.VISION.width * images**2
    towers += readings * tiny.TEXT.layers * tiny.TEXT.width * words**2
    fusion = 3 * images * words * tiny.VISION.width if loss.fusion else 0
    if tuning == "lora":
        towers += 3 * RANK * tiny.VISION.layers * tiny.VISION.width * images
        towers += 3 * RANK * readings * tiny.TEXT.layers * tiny.TEXT.width * words
    return 2.0 * (fusion + (0 if tuning == "frozen" else towers))


LOSSES = {
    "three branches": (LossConfig(), False),
    "sigmoid, own captions": (LossConfig(targets="sigmoid"), True),
    "no fusion": (LossConfig(fusion=0), True),
    "image only": (LossConfig(alignment=0, fusion=0), False),
    "three branches, local": (LossConfig(local=0.5), False),
    "alignment alone, local": (LossConfig(image=0, fusion=0, local=0.5), False),
    "image only, local": (LossConfig(alignment=0, fusion=0, local=0.5), False),
}
#: Losses for which the ordinary tests let parts stand still; campaigns take all.
SAMPLE = {"three branches", "sigmoid, own captions", "alignment alone, local"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuning", "loss", "separate"),
    [
        pytest.param(
            tuning, *LOSSES[name], id=f"{name}-{tuning}",
            marks=[pytest.mark.campaign] * (tuning in ("layernorm", "frozen") and name not in SAMPLE),
        )
        for tuning in ("full", "layernorm", "frozen", "lora")
        for name in LOSSES
    ],
)  # fmt: skip
def test_the_model_takes_the_reported_flops(tuning: str, loss: LossConfig, separate: bool) -> None:
    mode, rank = TuningConfig(tuning, tuning), RANK if tuning == "lora" else 0
    plan = tiny.plan(tuning=mode, loss=loss, separate_captions=separate, lora_rank=rank)

    def total(trainable: Any, frozen: Any, batch: Any) -> Any:
        parameters = {**frozen, **trainable}
        out = forward(bind(plan.graph, parameters), batch, plan.spec)
        return _losses(out, parameters, batch, loss, plan.mesh)[0]

    reported = model_flops(
        plan.spec.model, loss, mode, batch_size=tiny.BATCH, separate_captions=separate
    )
    assert counted(plan, total) == pytest.approx(reported.total.forward)
    again = recomputed(tuning, loss, separate)
    assert counted(plan, jax.grad(total)) == pytest.approx(reported.total.train + again)

    def detect(trainable: Any, frozen: Any, batch: Any) -> Any:
        model = bind(plan.graph, {**frozen, **trainable})
        images = normalize(batch["image"], plan.spec.model.image_mean, plan.spec.model.image_std)
        return model.classify_image(model.encode_image(images).pooled)

    assert counted(plan, detect) == pytest.approx(reported.detector)


@pytest.mark.parametrize("separate", [False, True])
def test_shorter_texts_take_the_reported_flops(separate: bool) -> None:
    length = 7
    plan = tiny.plan(separate_captions=separate)

    def total(trainable: Any, frozen: Any, batch: Any) -> Any:
        parameters = {**frozen, **trainable}
        short = {name: batch[name][:, :length] for name in TEXT_FIELDS}
        out = forward(bind(plan.graph, parameters), batch | short, plan.spec)
        return _losses(out, parameters, batch, LossConfig(), plan.mesh)[0]

    reported = model_flops(
        plan.spec.model, LossConfig(), TuningConfig(), batch_size=tiny.BATCH,
        separate_captions=separate, text_length=length,
    )  # fmt: skip
    assert counted(plan, total) == pytest.approx(reported.total.forward)


def test_a_tower_that_stands_still_passes_no_gradient() -> None:
    def of(vision: str, text: str) -> ModelFlops:
        return model_flops(tiny.model(), LossConfig(), TuningConfig(vision, text), batch_size=16)

    frozen, mixed, whole = of("frozen", "frozen"), of("full", "frozen"), of("full", "full")
    assert frozen.vision.train == frozen.vision.forward
    assert mixed.vision == whole.vision
    assert mixed.vision.train > 2.5 * mixed.vision.forward
    assert frozen.total.train < mixed.total.train < whole.total.train


def test_attention_that_no_trace_shows_is_counted() -> None:
    reported = [
        model_flops(
            tiny.model(dtype="bfloat16", attention=kind, remat=remat),
            LossConfig(), TuningConfig(), batch_size=16,
        )
        for kind, remat in (("xla", "none"), ("cudnn", "full"))
    ]  # fmt: skip
    assert reported[0] == reported[1]


def test_vit_l14_costs_what_is_published() -> None:
    """open_clip lists ViT-L/14 at 224 px with 175.33 billion FLOPs, both towers forward."""
    run, data = config.settings(vlffd_clip_l14.get_config())
    of = functools.partial(model_flops, run.model, tuning=run.tuning)
    towers = of(LossConfig(image=0, fusion=0), batch_size=data.batch_size).total
    assert towers.forward == pytest.approx(175.33e9, rel=1e-3)
    alone = of(LossConfig(image=0, fusion=0), batch_size=1).total
    assert towers.train - alone.train < 0.001 * towers.train  # the comparison with the batch
    reported = of(run.loss, batch_size=data.batch_size, separate_captions=True)
    assert reported.total.train == 576_238_891_008
