"""The device mesh `data x fsdp x tensor`; batches are split over its first two axes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_vlffd.config import MeshConfig
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
