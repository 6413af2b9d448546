"""What a step takes at least: collectives, and seconds by the makers' figures. Estimates, not measurements."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jax_vlffd.compilation.chips import Chip
from jax_vlffd.compilation.costs import Costs
from jax_vlffd.training.state import Plan


def least_collectives(plan: Plan, batch_size: int) -> dict[str, float]:
    """Bytes of the least collectives that a training step on this mesh can do with.

    Sums of gradients: of every trainable parameter once, in the dtype of the products (that of the
    parameter where it enters none). Gathers of split parameters: for the forward and for the backward pass.
    Gathers of the embeddings and their gradients' way back, where the alignment compares the whole batch.
    """
    mesh, spec = plan.mesh, plan.spec
    parts, fsdp, tensor = ways(plan), mesh.shape["fsdp"], mesh.shape["tensor"]
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


def alignment_bytes(plan: Plan, batch_size: int) -> float:
    """Bytes that the alignment alone takes on a device, at most: what grows with the global batch.

    The embeddings of the whole batch and their gradients, and a device's rows of similarities in each
    direction, as the forward pass keeps them and as their gradients.
    """
    loss = plan.spec.loss
    if loss.alignment <= 0:
        return 0.0
    directions = 1 if loss.targets == "sigmoid" else 2
    rows = batch_size / ways(plan)
    return 2.0 * directions * 4 * batch_size * (plan.spec.model.clip.embed_dim + rows)


@dataclass(frozen=True)
class Estimate:
    """A roofline: seconds that a step takes at least in each of three respects, were each the only one.

    utilisation: model FLOPs over peak, if the three overlap wholly, and if not at all. An estimate from the
    makers' figures, not a measurement: a real step reaches no peak.
    """

    compute_s: float
    memory_s: float
    link_s: float
    utilisation_at_best: float
    utilisation_without_overlap: float


def estimate(found: Costs, model_flops: float, chip: Chip) -> Estimate:
    """The roofline of one device's program, that does `model_flops` of the model's work."""
    terms = (
        found.passes / chip.peak_flops,
        found.hbm_bytes / chip.hbm_bandwidth,
        found.wire_bytes / chip.link_bandwidth,
    )
    ideal = model_flops / chip.peak_flops
    return Estimate(*terms, ideal / max(terms), ideal / sum(terms))


def ways(plan: Plan) -> int:
    """Parts in which a batch is split over the devices."""
    return int(plan.mesh.shape["data"] * plan.mesh.shape["fsdp"])


def _in_products(path: str) -> bool:
    """Whether a parameter is cast to the dtype of the products, and its gradient comes back in it."""
    tower = path.startswith(("vision/", "text/", "fusion/"))
    return tower and path.endswith(("weight", "bias")) and "layernorm" not in path
