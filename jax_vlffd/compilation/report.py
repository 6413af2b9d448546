"""Ahead-of-time compilation report: memory, FLOPs and collectives of a step.

Compiles a run's steps (`training.step`) for devices that need not exist, on abstract arrays over the devices of
a described topology, and measures the programs; nothing is computed. The figures are those of the compiled
program, except for the roofline, which is an estimate.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_vlffd.compilation.chips import Chip
from jax_vlffd.compilation.costs import Costs, costs
from jax_vlffd.compilation.flops import ModelFlops, batch_shapes
from jax_vlffd.errors import UserError
from jax_vlffd.training.sharding import batch_sharding
from jax_vlffd.training.state import TrainPlan
from jax_vlffd.training.step import (
    ALIGNMENT_SCOPE,
    make_eval_step,
    make_loss,
    make_train_step,
)

_SIZES = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_REFUSED = re.compile(
    r"\(?([\d.]+)([KMGT]?)\)?(?: of | exceeds available HBM \(?)([\d.]+)([KMGT]?)"
)


@dataclass(frozen=True)
class Memory:
    """Memory of a step in bytes, on one device.

    peak: the most in use at once, including arguments. parameters, optimizer, batch: the step's arguments.
    activations: kept by the forward pass for the backward pass, as traced; XLA may keep less. temporaries: all
    other allocations (gradients, working copies of weights, scratch). For a program that XLA refused, peak is
    None if it gives no size, and temporaries is None.
    """

    peak: float | None
    parameters: float
    optimizer: float
    batch: float
    activations: float
    temporaries: float | None


@dataclass(frozen=True)
class CompiledStep:
    """One compiled step, on one device.

    fits: whether it fits in memory; None where the memory is not known (a CPU). refusal: XLA's message when it
    does not fit; then `memory.peak` is the size in that message, and `costs` is None.
    """

    fits: bool | None
    memory: Memory
    compile_s: float
    costs: Costs | None
    refusal: str = ""

    def global_similarities(self, plan: TrainPlan, batch_size: int) -> int | None:
        """Number of arrays with the global batch on two axes: a full similarity matrix would be one.

        None where a weight has an axis of this size too, which makes the count ambiguous.
        """
        if self.costs is None or any(batch_size in shape.shape for shape in plan.shapes.values()):
            return None
        return sum(array.dims.count(batch_size) > 1 for array in self.costs.arrays)


def batch_of(plan: TrainPlan, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The abstract batch of a training step, in its sharding."""
    return _abstract(plan, batch_shapes(plan.spec, batch_size))


def compile_train(plan: TrainPlan, batch_size: int, chip: Chip | None) -> CompiledStep:
    """Compiles the training step.

    Args:
      plan: over the devices to compile for.
      batch_size: global.
      chip: of the devices; None where it is not known.
    """
    batch = batch_of(plan, batch_size)
    step: Any = make_train_step(plan)
    lowered = step.lower(plan.abstract, batch)
    activations = _activation_bytes(plan, batch) / _batch_shards(plan)
    state = (plan.abstract.parameters, plan.abstract.optimizer)
    return _compile(lowered, plan, (*state, batch), activations, chip)


def compile_eval(plan: TrainPlan, batch_size: int, chip: Chip | None) -> CompiledStep:
    """Compiles the eval step; arguments as of `compile_train`."""
    shapes = batch_shapes(plan.spec, batch_size)
    shapes = {name: shapes[name] for name in ("image", "label")}
    shapes["index"] = shapes["label"]
    shapes["valid"] = jax.ShapeDtypeStruct((batch_size,), np.bool_)
    batch = _abstract(plan, shapes)
    step: Any = make_eval_step(plan)
    lowered = step.lower(plan.abstract.parameters, batch)
    return _compile(lowered, plan, (plan.abstract.parameters, {}, batch), 0.0, chip)


def summary(
    plan: TrainPlan,
    batch_size: int,
    model: ModelFlops,
    training: CompiledStep,
    evaluation: CompiledStep | None,
    chip: Chip | None,
) -> dict[str, Any]:
    """The report's JSON object: figures per chip, those of the training step first."""
    devices, per_chip = plan.mesh.size, chip.devices if chip else 1
    images = batch_size / devices * per_chip
    verdicts = [step.fits for step in (training, evaluation) if step is not None]
    report: dict[str, Any] = {
        "fits": None if None in verdicts else all(verdicts),
        "hbm_bytes_per_chip": _scaled(training.memory.peak, per_chip),
        "hbm_available_per_chip": chip.hbm if chip else None,
        "model_flops_per_chip": model.total.train * images,
        "images_per_chip": images,
        "chips": devices // per_chip,
        "devices": devices,
        "compile_s": round(training.compile_s, 1),
        "hbm_split_per_chip": {
            name: _scaled(value, per_chip)
            for name, value in dataclasses.asdict(training.memory).items()
        },
        "refusal": training.refusal,
        "collectives_least": min_collectives(plan, batch_size),
    }
    if training.costs is not None:
        report |= _program(training.costs, model.total.train * images, per_chip, chip)
        report["alignment_flops_per_chip"] = training.costs.scoped[ALIGNMENT_SCOPE] * per_chip
        report["alignment_bytes_per_chip"] = alignment_bytes(plan, batch_size) * per_chip
        report["arrays_of_global_similarity"] = training.global_similarities(plan, batch_size)
    if evaluation is not None:
        report["eval"] = {
            "fits": evaluation.fits,
            "hbm_bytes_per_chip": _scaled(evaluation.memory.peak, per_chip),
            "compile_s": round(evaluation.compile_s, 1),
            "model_flops_per_chip": model.detector * images,
            "refusal": evaluation.refusal,
        }
        if evaluation.costs is not None:
            report["eval"] |= _program(evaluation.costs, model.detector * images, per_chip, chip)
    return report


def min_collectives(plan: TrainPlan, batch_size: int) -> dict[str, float]:
    """Lower bound of the bytes in a training step's collectives on this mesh.

    gradients: every trainable parameter is reduced once, in the dtype of the products (fp32 where it enters
    none). parameters: sharded ones are gathered for the forward and for the backward pass. embeddings: they are
    gathered and their gradients returned, where the alignment compares the global batch.
    """
    mesh, spec = plan.mesh, plan.spec
    shards, fsdp, tensor = _batch_shards(plan), mesh.shape["fsdp"], mesh.shape["tensor"]
    width = jnp.dtype(spec.model.compute.dtype).itemsize
    sizes = {"gradients": 0.0, "parameters": 0.0, "embeddings": 0.0}
    for path, shape in plan.shapes.items():
        split = {axis for axis in plan.sharding.parameters[path].spec if axis}
        share = shape.size / (tensor if "tensor" in split else 1)
        size = share * (width if _in_products(path) else 4)
        if shards > 1 and path in plan.trainable:
            sizes["gradients"] += size
        if fsdp > 1 and "fsdp" in split:
            sizes["parameters"] += 2 * size
    if shards > 1 and spec.loss.alignment > 0:
        directions = 1 if spec.loss.targets == "sigmoid" else 2
        sizes["embeddings"] = 2.0 * directions * batch_size * spec.model.clip.embed_dim * 4
    return sizes


def alignment_bytes(plan: TrainPlan, batch_size: int) -> float:
    """Upper bound of the bytes that the alignment takes on a device: what grows with the global batch.

    The embeddings of the global batch, a device's rows of similarities in each direction, and the gradients
    of both.
    """
    loss = plan.spec.loss
    if loss.alignment <= 0:
        return 0.0
    directions = 1 if loss.targets == "sigmoid" else 2
    rows = batch_size / _batch_shards(plan)
    return 2.0 * directions * 4 * batch_size * (plan.spec.model.clip.embed_dim + rows)


def roofline(program: Costs, model_flops: float, chip: Chip) -> dict[str, float]:
    """Roofline estimate: seconds of one device's program, bounded by compute, memory or links alone.

    From the makers' figures, not measured: a real step reaches no peak.

    Args:
      program: its costs.
      model_flops: of the model, on this device.
      chip: the share of one device.

    Returns:
      `compute_s`, `memory_s` and `link_s`; and the utilization, the model's FLOPs over the peak: if the three
      overlap fully (`utilization_at_best`), and if not at all (`utilization_without_overlap`).
    """
    seconds = {
        "compute_s": program.passes / chip.peak_flops,
        "memory_s": program.hbm_bytes / chip.hbm_bandwidth,
        "link_s": program.wire_bytes / chip.link_bandwidth,
    }
    ideal = model_flops / chip.peak_flops
    return seconds | {
        "utilization_at_best": ideal / max(seconds.values()),
        "utilization_without_overlap": ideal / sum(seconds.values()),
    }


def _scaled(value: float | None, factor: int) -> float | None:
    return None if value is None else value * factor


def _program(
    program: Costs, model_flops: float, per_chip: int, chip: Chip | None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "flops_per_chip": program.flops * per_chip,
        "flops_over_model": program.flops * per_chip / model_flops,
        "collective_bytes": program.collective_bytes * per_chip,
        "collectives": {
            kind: dataclasses.asdict(value) for kind, value in sorted(program.collectives.items())
        },
        "memory_traffic_per_chip": program.hbm_bytes * per_chip,
        "uncounted_calls": list(program.uncounted),
    }
    if chip is not None:
        per_device = chip.per_device()
        result["roofline_estimate"] = roofline(program, model_flops / per_chip, per_device)
    return result


def _compile(
    lowered: Any, plan: TrainPlan, arguments: tuple[Any, ...], activations: float, chip: Chip | None
) -> CompiledStep:
    parameters, optimizer, batch = (_bytes(part) for part in arguments)
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = " ".join(str(error).split("\n")[0].split())[:300]
        size = _REFUSED.search(refusal)
        required = float(size[1]) * _SIZES[size[2]] if size else None
        memory = Memory(required, parameters, optimizer, batch, activations, None)
        return CompiledStep(False, memory, time.perf_counter() - started, None, refusal)
    seconds = time.perf_counter() - started
    stats = compiled.memory_analysis()
    total = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    total += stats.output_size_in_bytes - stats.alias_size_in_bytes
    # On a CPU peak_memory_in_bytes does not include the temporaries.
    peak = float(total if chip is None else stats.peak_memory_in_bytes)
    temporaries = max(stats.temp_size_in_bytes - activations, 0.0)
    memory = Memory(peak, parameters, optimizer, batch, activations, temporaries)
    try:
        program = costs(compiled.as_text(), devices=plan.mesh.size, scopes=(ALIGNMENT_SCOPE,))
    except ValueError as error:
        raise UserError(f"the compiled program cannot be read: {error}") from None
    return CompiledStep(None if chip is None else True, memory, seconds, program)


def _batch_shards(plan: TrainPlan) -> int:
    """Number of shards of a batch over the devices."""
    return int(plan.mesh.shape["data"] * plan.mesh.shape["fsdp"])


def _in_products(path: str) -> bool:
    """Whether a parameter, and so its gradient, is cast to the dtype of the products."""
    tower = path.startswith(("vision/", "text/", "fusion/"))
    return tower and path.endswith(("weight", "bias")) and "layernorm" not in path


def _abstract(
    plan: TrainPlan, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = batch_sharding(plan.mesh)
    return {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
        for name, shape in shapes.items()
    }


def _activation_bytes(plan: TrainPlan, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
    """Bytes of the activations that the trace keeps for the backward pass, on all devices."""
    loss = make_loss(plan)
    bare = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    trainable = {k: v for k, v in plan.shapes.items() if k in plan.trainable}
    frozen = {k: v for k, v in plan.shapes.items() if k not in plan.trainable}

    def backward(trainable: Any, frozen: Any, batch: Any) -> Any:
        return jax.vjp(lambda m: loss(m, frozen, batch)[0], trainable)[1]

    saved = jax.tree.leaves(jax.eval_shape(backward, trainable, frozen, bare))
    known = {shape.shape for shape in plan.shapes.values()}
    size = bare["label"].shape[0]
    over_batch = [x for x in saved if size in x.shape and x.shape not in known]
    return float(sum(x.size * x.dtype.itemsize for x in over_batch))


def _bytes(tree: Any) -> float:
    """Bytes of one device's share of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))
