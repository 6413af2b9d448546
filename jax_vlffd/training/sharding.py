"""The device mesh, and one list of rules for every parameter: whether it trains, decays, and how it is split.

The first rule that matches a parameter's path decides; a parameter without a rule is an error, so that nothing
new is silently frozen, decayed or replicated. The mesh is `data x fsdp x tensor`; batches are split over the
first two axes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_vlffd.config import TUNING, MeshConfig
from jax_vlffd.errors import UserError
from jax_vlffd.losses import BATCH_AXES

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over the devices of all processes.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    free = sizes.count(-1)
    if any(size < 1 and size != -1 for size in sizes) or free > 1:
        raise UserError(f"mesh {config}: sizes must be at least 1, and at most one of them -1")
    if len(devices) % known or (not free and known != len(devices)):
        raise UserError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not multiply to the "
            f"{len(devices)} devices there are; set one of them to -1"
        )
    shape = [len(devices) // known if size == -1 else size for size in sizes]
    return Mesh(_device_grid(shape, devices), AXES)


def _device_grid(shape: list[int], devices: list[jax.Device]) -> np.ndarray:
    """Devices ordered by their network: inner axes on neighboring chips, `data` over slices."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "tpu" and slices > 1 and shape[0] % slices == 0:
        inner = (shape[0] // slices, *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            inner, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    if devices[0].platform == "tpu" and slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # By process, so that the inner axes stay within a host.
    return np.asarray(devices).reshape(shape)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the first axis over data and fsdp, replicated over tensor."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds in full."""
    return NamedSharding(mesh, P())


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Checks that a global batch divides over the mesh and the accumulation.

    Raises:
      UserError: it does not; the message gives the nearest sizes that do.
    """
    multiple = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size < 1 or batch_size % multiple:
        below = batch_size // multiple * multiple
        near = [str(size) for size in (below, below + multiple) if size > 0]
        raise UserError(
            f"a batch of {batch_size} does not divide over {mesh.shape['data']} x {mesh.shape['fsdp']} "
            f"devices (data x fsdp) and {accumulate} accumulated parts; {' or '.join(near)} would"
        )


@functools.lru_cache
def data_share(mesh: Mesh) -> tuple[int, int]:
    """This process's share of each batch, and the number of shares: (index, count).

    Processes whose devices hold the same rows, where `tensor` spans hosts, read the same share.

    Raises:
      UserError: the rows of some processes overlap in part.
    """
    rows: dict[int, set[int]] = {}
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        rows.setdefault(device.process_index, set()).add(data * mesh.shape["fsdp"] + fsdp)
    shares = sorted({tuple(sorted(held)) for held in rows.values()})
    batch_shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if sum(map(len, shares)) != batch_shards or len({len(share) for share in shares}) > 1:
        raise UserError(
            f"mesh data={mesh.shape['data']} fsdp={mesh.shape['fsdp']} tensor={mesh.shape['tensor']} cuts a "
            f"batch in {batch_shards} parts, which the {len(rows)} processes would hold unevenly; let `tensor` "
            "divide the devices of a process, or be a multiple of them"
        )
    return shares.index(tuple(sorted(rows[jax.process_index()]))), len(shares)


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's share of a batch as global arrays, split over the mesh."""
    sharding, (_, count) = batch_sharding(mesh), data_share(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (len(value) * count, *value.shape[1:])
        )
        for name, value in batch.items()
    }


# --- rules ---


@dataclass(frozen=True)
class Rule:
    """Training and sharding of the parameters whose full path matches `pattern`.

    part: 'vision', 'text' or 'head' (everything outside the towers); selects the tuning mode and the scale of
    the learning rate. Heads always train. kind: 'weight', 'layernorm' or 'lora'. shard: mesh axes of the
    last dimensions; leading ones (the layers) are not split. decay: whether weight decay applies.
    """

    pattern: str
    part: str
    kind: str = "weight"
    shard: tuple[str | None, ...] = ()
    decay: bool = False


def _tower(part: str) -> tuple[Rule, ...]:
    blocks = f"{part}/blocks"
    return (
        Rule(rf"{blocks}/layernorm\d/(scale|bias)", part, "layernorm"),
        Rule(rf"{part}/(pre|post)_layernorm/(scale|bias)", part, "layernorm"),
        Rule(rf"{blocks}/attention/\w+/lora_[ab]", part, "lora", decay=True),
        # Megatron's split: the first product of a pair by its outputs, the second by its inputs.
        Rule(rf"{blocks}/(attention/(query|key|value)|mlp/fc1)/weight", part, "weight",
             ("tensor", "fsdp"), decay=True),
        Rule(rf"{blocks}/(attention/out|mlp/fc2)/weight", part, "weight",
             ("fsdp", "tensor"), decay=True),
        Rule(rf"{blocks}/(attention/(query|key|value)|mlp/fc1)/bias", part, "weight", ("tensor",)),
        Rule(rf"{blocks}/(attention/out|mlp/fc2)/bias", part),
        Rule(rf"{part}/position_embedding", part),
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    *_tower("vision"),
    Rule(r"vision/patch_embedding/weight", "vision", "weight", ("fsdp", None), decay=True),
    Rule(r"vision/(class_embedding|patch_embedding/bias)", "vision"),
    *_tower("text"),
    # By width, not by word: a lookup in a table split by word would gather the table.
    Rule(r"text/token_embedding", "text", "weight", (None, "fsdp"), decay=True),
    Rule(r"fusion/layernorm\d/(scale|bias)", "head", "layernorm"),
    Rule(r"fusion/(attention/(query|key|value)|mlp/fc1)/weight", "head", "weight",
         ("tensor", "fsdp"), decay=True),
    Rule(r"fusion/(attention/out|mlp/fc2)/weight", "head", "weight", ("fsdp", "tensor"), decay=True),
    Rule(r"fusion/.*/bias", "head"),
    Rule(r"(visual|text)_projection/weight", "head", "weight", (None, "fsdp"), decay=True),
    Rule(r"(image|fusion)_head/weight", "head", decay=True),
    Rule(r"(image|fusion)_head/bias", "head"),
    Rule(r"logit_(scale|bias)", "head"),
)  # fmt: skip


def match_rules(paths: Iterable[str], rules: tuple[Rule, ...] = RULES) -> dict[str, Rule]:
    """The rule of every parameter path.

    Raises:
      UserError: a path that no rule matches.
    """
    matched: dict[str, Rule] = {}
    for path in paths:
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, path)), None)
        if rule is None:
            raise UserError(f"parameter {path} matches no rule; add one to RULES in {__name__}")
        matched[path] = rule
    return matched


def trainable_paths(matched: Mapping[str, Rule], *, vision: str, text: str) -> frozenset[str]:
    """The paths that train, for the tuning modes of the two towers (keys of TUNING)."""
    kinds = {"vision": TUNING[vision], "text": TUNING[text]}
    return frozenset(
        path
        for path, rule in matched.items()
        if rule.part == "head" or rule.kind in kinds[rule.part]
    )


def parameter_shardings(
    shapes: Mapping[str, jax.ShapeDtypeStruct], matched: Mapping[str, Rule], mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of each parameter.

    A dimension that its mesh axis does not divide is not split.

    Raises:
      UserError: fsdp or tensor is above 1, but less than half of the parameters can be split.
    """
    result, split, total = {}, 0, 0
    for path, shape in shapes.items():
        axes = matched[path].shard
        spec: list[str | None] = [*(None for _ in shape.shape[len(axes) :]), *axes]
        for i, axis in enumerate(spec):
            if axis is not None and shape.shape[i] % mesh.shape[axis]:
                spec[i] = None
        result[path] = NamedSharding(mesh, P(*spec))
        total += shape.size
        split += shape.size if any(a and mesh.shape[a] > 1 for a in spec) else 0
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1 and 2 * split < total:
        raise UserError(
            f"only {split / total:.0%} of the parameters divide over mesh.fsdp={mesh.shape['fsdp']} x "
            f"mesh.tensor={mesh.shape['tensor']}; choose sizes that divide the model's widths"
        )
    return result
