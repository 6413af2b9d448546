"""Ahead-of-time compilation report: memory, FLOPs and collectives of a step.

Compiles a run's steps for devices that need not be there, and measures the programs. The steps are those that a
run takes (`training.step`), lowered on abstract arrays of a plan over the devices of a described topology;
nothing is computed. What can be read from the compiled program is read; the roofline is an estimate.
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
    """Bytes of a device's memory.

    peak: at most in use at once, arguments included. parameters, optimizer, batch: the step's arguments.
    activations: what the forward pass keeps for the backward pass, as traced; XLA may keep less.
    temporaries: all else that the program allocates (gradients, working copies of weights, scratch). peak
    and temporaries are None where a program was refused and XLA does not say.
    """

    peak: float | None
    parameters: float
    optimizer: float
    batch: float
    activations: float
    temporaries: float | None


@dataclass(frozen=True)
class CompiledStep:
    """One compiled step, of one device.

    fits: whether it can be loaded; None where the memory is not known (a CPU). refusal: XLA's words when it
    does not fit; then `memory.peak` is the size that XLA names, and `costs` is None.
    """

    fits: bool | None
    memory: Memory
    compile_s: float
    costs: Costs | None
    refusal: str = ""

    def global_similarities(self, plan: TrainPlan, batch_size: int) -> int | None:
        """Arrays in memory that have the global batch on two axes: the similarities, were they whole.

        None where weights have such an axis too, so that it could not be told.
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
      chip: what the devices are, as one device; None where nothing is known of them.
    """
    batch = batch_of(plan, batch_size)
    step: Any = make_train_step(plan)
    lowered = step.lower(plan.abstract, batch)
    kept = _kept(plan, batch) / _batch_shards(plan)
    state = (plan.abstract.parameters, plan.abstract.optimizer)
    return _compile(lowered, plan, (*state, batch), kept, chip)


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
    """What is written: per chip, the training step's figures first."""
    devices, per_chip = plan.mesh.size, chip.devices if chip else 1
    images = batch_size / devices * per_chip
    verdicts = [step.fits for step in (training, evaluation) if step is not None]
    found: dict[str, Any] = {
        "fits": None if None in verdicts else all(verdicts),
        "hbm_bytes_per_chip": _times(training.memory.peak, per_chip),
        "hbm_available_per_chip": chip.hbm if chip else None,
        "model_flops_per_chip": model.total.train * images,
        "images_per_chip": images,
        "chips": devices // per_chip,
        "devices": devices,
        "compile_s": round(training.compile_s, 1),
        "hbm_split_per_chip": {
            name: _times(value, per_chip)
            for name, value in dataclasses.asdict(training.memory).items()
        },
        "refusal": training.refusal,
        "collectives_least": min_collectives(plan, batch_size),
    }
    if training.costs is not None:
        found |= _program(training.costs, model.total.train * images, per_chip, chip)
        found["alignment_flops_per_chip"] = training.costs.scoped[ALIGNMENT_SCOPE] * per_chip
        found["alignment_bytes_per_chip"] = alignment_bytes(plan, batch_size) * per_chip
        found["arrays_of_global_similarity"] = training.global_similarities(plan, batch_size)
    if evaluation is not None:
        found["eval"] = {
            "fits": evaluation.fits,
            "hbm_bytes_per_chip": _times(evaluation.memory.peak, per_chip),
            "compile_s": round(evaluation.compile_s, 1),
            "model_flops_per_chip": model.detector * images,
            "refusal": evaluation.refusal,
        }
        if evaluation.costs is not None:
            found["eval"] |= _program(evaluation.costs, model.detector * images, per_chip, chip)
    return found


def min_collectives(plan: TrainPlan, batch_size: int) -> dict[str, float]:
    """Bytes of the fewest collectives that a training step on this mesh can do with.

    Sums of gradients: of every trainable parameter once, in the dtype of the products (that of the
    parameter where it enters none). Gathers of split parameters: for the forward and for the backward pass.
    Gathers of the embeddings and their gradients' way back, where the alignment compares the whole batch.
    """
    mesh, spec = plan.mesh, plan.spec
    parts, fsdp, tensor = _batch_shards(plan), mesh.shape["fsdp"], mesh.shape["tensor"]
    width = jnp.dtype(spec.model.compute.dtype).itemsize
    found = {"gradients": 0.0, "parameters": 0.0, "embeddings": 0.0}
    for path, shape in plan.shapes.items():
        split = {axis for axis in plan.sharding.parameters[path].spec if axis}
        share = shape.size / (tensor if "tensor" in split else 1)
        size = share * (width if _in_products(path) else 4)
        if parts > 1 and path in plan.trainable:
            found["gradients"] += size
        if fsdp > 1 and "fsdp" in split:
            found["parameters"] += 2 * size
    if parts > 1 and spec.loss.alignment > 0:
        directions = 1 if spec.loss.targets == "sigmoid" else 2
        found["embeddings"] = 2.0 * directions * batch_size * spec.model.clip.embed_dim * 4
    return found


def alignment_bytes(plan: TrainPlan, batch_size: int) -> float:
    """Bytes that the alignment alone takes on a device, at most: what grows with the global batch.

    The embeddings of the whole batch and their gradients, and a device's rows of similarities in each
    direction, as the forward pass keeps them and as their gradients.
    """
    loss = plan.spec.loss
    if loss.alignment <= 0:
        return 0.0
    directions = 1 if loss.targets == "sigmoid" else 2
    rows = batch_size / _batch_shards(plan)
    return 2.0 * directions * 4 * batch_size * (plan.spec.model.clip.embed_dim + rows)


def roofline(found: Costs, model_flops: float, chip: Chip) -> dict[str, float]:
    """Seconds that one device's program takes at least in each of three respects, were each the only one.

    An estimate from the makers' figures, not a measurement: a real step reaches no peak.

    Args:
      found: of the program.
      model_flops: of the model's work in it.
      chip: the share of one device.

    Returns:
      `compute_s`, `memory_s` and `link_s`; and the utilization, the model's FLOPs over the peak: if the three
      overlap wholly (`utilization_at_best`), and if not at all (`utilization_without_overlap`).
    """
    seconds = {
        "compute_s": found.passes / chip.peak_flops,
        "memory_s": found.hbm_bytes / chip.hbm_bandwidth,
        "link_s": found.wire_bytes / chip.link_bandwidth,
    }
    ideal = model_flops / chip.peak_flops
    return seconds | {
        "utilization_at_best": ideal / max(seconds.values()),
        "utilization_without_overlap": ideal / sum(seconds.values()),
    }


def _times(value: float | None, factor: int) -> float | None:
    return None if value is None else value * factor


def _program(found: Costs, model_flops: float, per_chip: int, chip: Chip | None) -> dict[str, Any]:
    result: dict[str, Any] = {
        "flops_per_chip": found.flops * per_chip,
        "flops_over_model": found.flops * per_chip / model_flops,
        "collective_bytes": found.collective_bytes * per_chip,
        "collectives": {
            kind: dataclasses.asdict(value) for kind, value in sorted(found.collectives.items())
        },
        "memory_traffic_per_chip": found.hbm_bytes * per_chip,
        "uncounted_calls": list(found.uncounted),
    }
    if chip is not None:
        per_device = chip.per_device()
        result["roofline_estimate"] = roofline(found, model_flops / per_chip, per_device)
    return result


def _compile(
    lowered: Any, plan: TrainPlan, arguments: tuple[Any, ...], kept: float, chip: Chip | None
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
        wanted = float(size[1]) * _SIZES[size[2]] if size else None
        memory = Memory(wanted, parameters, optimizer, batch, kept, None)
        return CompiledStep(False, memory, time.perf_counter() - started, None, refusal)
    seconds = time.perf_counter() - started
    stats = compiled.memory_analysis()
    whole = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    whole += stats.output_size_in_bytes - stats.alias_size_in_bytes
    # A CPU's figure leaves the temporaries out.
    peak = float(whole if chip is None else stats.peak_memory_in_bytes)
    rest = max(stats.temp_size_in_bytes - kept, 0.0)
    memory = Memory(peak, parameters, optimizer, batch, kept, rest)
    try:
        found = costs(compiled.as_text(), devices=plan.mesh.size, scopes=(ALIGNMENT_SCOPE,))
    except ValueError as error:
        raise UserError(f"the compiled program cannot be read: {error}") from None
    return CompiledStep(None if chip is None else True, memory, seconds, found)


def _batch_shards(plan: TrainPlan) -> int:
    """Parts in which a batch is split over the devices."""
    return int(plan.mesh.shape["data"] * plan.mesh.shape["fsdp"])


def _in_products(path: str) -> bool:
    """Whether a parameter is cast to the dtype of the products, and its gradient comes back in it."""
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


def _kept(plan: TrainPlan, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
    """Bytes of all arrays over the batch that the trace keeps between the passes, on all devices."""
    loss = make_loss(plan)
    bare = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    trainable = {k: v for k, v in plan.shapes.items() if k in plan.trainable}
    frozen = {k: v for k, v in plan.shapes.items() if k not in plan.trainable}

    def backward(trainable: Any, frozen: Any, batch: Any) -> Any:
        return jax.vjp(lambda m: loss(m, frozen, batch)[0], trainable)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, trainable, frozen, bare))
    known = {shape.shape for shape in plan.shapes.values()}
    size = bare["label"].shape[0]
    over_batch = [x for x in kept if size in x.shape and x.shape not in known]
    return float(sum(x.size * x.dtype.itemsize for x in over_batch))


def _bytes(tree: Any) -> float:
    """Of one device's share of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))
