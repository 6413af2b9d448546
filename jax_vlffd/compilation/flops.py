"""FLOPs of the model: what a step has to compute, counted in JAX's trace of its loss.

Only matrix products count, a multiply-add as two FLOPs. In the backward pass a product costs once more for each
factor that depends on a trainable parameter. Only the forward pass is traced, so recomputation (remat,
accumulation) does not count, nor do outputs that no loss reads (branch 3 without the image): they show as the
program's FLOPs above the model's.

The same figures serve the compilation report, the benchmark, and the utilization in a run's logs:
utilization = train FLOPs per image * images per second / (chips * peak FLOP/s per chip), at the text
length that was computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

from jax_vlffd.config import LossConfig, ModelConfig, OptimConfig, TuningConfig
from jax_vlffd.model import bind, normalize
from jax_vlffd.training.sharding import AXES
from jax_vlffd.training.state import StepSpec, make_plan
from jax_vlffd.training.step import batch_fields, make_loss


@dataclass(frozen=True)
class Cost:
    """FLOPs per image. forward: of the forward pass. train: of the forward and the backward pass."""

    forward: float
    train: float


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs per image.

    total: of a training step. vision: of its image tower. detector: of the image branch, forward only, as the
    eval step runs it.
    """

    total: Cost
    vision: Cost
    detector: float


def model_flops(
    model: ModelConfig,
    loss: LossConfig,
    tuning: TuningConfig,
    *,
    batch_size: int,
    separate_captions: bool = False,
    text_length: int = 0,
) -> ModelFlops:
    """FLOPs per image of one training step and of the detector, by tracing alone.

    Args:
      model: the model's settings.
      loss: branches of weight 0 are not computed.
      tuning: which weights get gradients.
      batch_size: global; every image is compared with as many captions.
      separate_captions: branch 3 reads its own captions, so that the text tower runs twice.
      text_length: tokens of a text including padding; 0 means the whole context.
    """
    # The products of cuDNN's attention do not show in a trace.
    compute = dataclasses.replace(model.compute, attention="xla")
    spec = StepSpec(dataclasses.replace(model, compute=compute), loss, separate_captions)
    # Later versions of JAX make the axes explicit by default.
    axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
    mesh: Any = jax.sharding.AbstractMesh((1,) * len(AXES), AXES, axis_types=axis_types)
    plan = make_plan(spec, mesh, tuning, OptimConfig(), steps=1, warmup_steps=0)
    batch_loss = make_loss(plan)
    batch = batch_shapes(spec, batch_size, text_length)

    def total(parameters: Any, batch: Any) -> jax.Array:
        return batch_loss(parameters, {}, batch)[0]

    def vision(parameters: Any, batch: Any) -> jax.Array:
        images = normalize(batch["image"], model.image_mean, model.image_std)
        return bind(plan.graph, parameters).encode_image(images).pooled

    def detector(parameters: Any, batch: Any) -> jax.Array:
        return bind(plan.graph, parameters).classify_image(vision(parameters, batch))

    def count(function: Callable[[Any, Any], jax.Array]) -> Cost:
        jaxpr = _needed(jax.make_jaxpr(function)(dict(plan.shapes), batch).jaxpr)
        depends = [name in plan.trainable for name in sorted(plan.shapes)]  # as JAX sorts a dict
        forward, train, _ = _products(jaxpr, depends + [False] * len(batch))
        return Cost(forward / batch_size, train / batch_size)

    return ModelFlops(count(total), count(vision), count(detector).forward)


def batch_shapes(
    spec: StepSpec, batch_size: int, text_length: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
    """The abstract global batch of a training step; a `text_length` of 0 means the whole context."""
    clip = spec.model.clip
    side, words = clip.vision.image_size, text_length or clip.text.context_length
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((side, side, 3), np.uint8),
        "label": ((), np.int32),
        "tokens": ((words,), np.int32),
        "fused_tokens": ((words,), np.int32),
        "caption_key": ((), np.int32),
        "forged_patches": ((clip.vision.grid**2,), np.float32),
    }
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name in batch_fields(spec.loss)
        for shape, dtype in [shapes[name]]
    }


def _needed(jaxpr: Any) -> Any:
    """The jaxpr without equations that its outputs do not depend on."""
    wanted, needed = set(jaxpr.outvars), []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            needed.append(equation)
            wanted.update(v for v in equation.invars if not isinstance(v, Literal))
    return jaxpr.replace(eqns=needed[::-1])


def _products(jaxpr: Any, depends: Sequence[bool]) -> tuple[float, float, list[bool]]:
    """FLOPs of a jaxpr's products, once per loop iteration.

    Args:
      jaxpr: the trace.
      depends: for each input, whether it depends on a trainable parameter.

    Returns:
      FLOPs of the forward pass, FLOPs of both passes, and for each output whether it depends on one.
    """
    forward = train = 0.0
    dependent = {v for v, is_dependent in zip(jaxpr.invars, depends, strict=True) if is_dependent}
    for equation in jaxpr.eqns:
        inputs = [not isinstance(v, Literal) and v in dependent for v in equation.invars]
        outputs = [any(inputs)] * len(equation.outvars)
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            flops = 2.0 * math.prod(shape[i] for i in contracted) * equation.outvars[0].aval.size
            forward, train = forward + flops, train + flops * (1 + sum(inputs))
        for part in jaxprs_in_params(equation.params):
            body, iterations = getattr(part, "jaxpr", part), equation.params.get("length", 1)
            inner = _products(body, inputs)
            if equation.primitive.name == "scan":  # a carry can depend on the previous iteration
                end, carried = (
                    sum(v.aval.ndim == w.aval.ndim for v, w in zip(*pair, strict=True))
                    for pair in ((equation.invars, body.invars), (equation.outvars, body.outvars))
                )  # what is scanned over has a dimension less in the body
                inputs[end - carried : end] = map(max, inputs[end - carried : end], inner[2])
                inner = _products(body, inputs)
            forward, train = forward + iterations * inner[0], train + iterations * inner[1]
            outputs = inner[2]
        dependent.update(
            v for v, is_dependent in zip(equation.outvars, outputs, strict=True) if is_dependent
        )
    return forward, train, [not isinstance(v, Literal) and v in dependent for v in jaxpr.outvars]
