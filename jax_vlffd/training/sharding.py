"""The device mesh `data x fsdp x tensor`, and batches laid over it."""

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
    """Builds the mesh over all devices, of every process.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    free = sizes.count(-1)
    if any(size < 1 and size != -1 for size in sizes) or free > 1:
        raise UserError(f"mesh {config} wants sizes of at least 1, and -1 once at most")
    if len(devices) % known or (not free and known != len(devices)):
        raise UserError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not multiply to the "
            f"{len(devices)} devices there are; set one of them to -1"
        )
    shape = [len(devices) // known if size == -1 else size for size in sizes]
    return Mesh(_laid_out(shape, devices), AXES)


def _laid_out(shape: list[int], devices: list[jax.Device]) -> np.ndarray:
    """Devices in an order that suits their wiring: the inner axes on near neighbours, `data` over slices."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "tpu" and slices > 1 and shape[0] % slices == 0:
        inner = (shape[0] // slices, *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            inner, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    if devices[0].platform == "tpu" and slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(
        shape
    )  # by process, so that the inner axes stay within a host


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split on their first axis over data and fsdp, and repeated over tensor."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Sees that a global batch divides over the mesh, the processes and the accumulation.

    Raises:
      UserError: it does not; the message gives the nearest sizes that would.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size < 1 or batch_size % ways:
        below = batch_size // ways * ways
        near = [str(size) for size in (below, below + ways) if size > 0]
        raise UserError(
            f"a batch of {batch_size} does not divide over {mesh.shape['data']} x {mesh.shape['fsdp']} "
            f"devices (data x fsdp) and {accumulate} accumulated parts; {' or '.join(near)} would"
        )


@functools.lru_cache
def data_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of each batch this process reads, and into how many a batch is cut: (index, count).

    Processes whose devices hold the same rows, as where `tensor` reaches over hosts, read the same share.

    Raises:
      UserError: the rows of some processes overlap in part.
    """
    rows: dict[int, set[int]] = {}
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        rows.setdefault(device.process_index, set()).add(data * mesh.shape["fsdp"] + fsdp)
    shares = sorted({tuple(sorted(found)) for found in rows.values()})
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if sum(map(len, shares)) != ways or len({len(share) for share in shares}) > 1:
        raise UserError(
            f"mesh data={mesh.shape['data']} fsdp={mesh.shape['fsdp']} tensor={mesh.shape['tensor']} cuts a "
            f"batch in {ways} parts, which the {len(rows)} processes would hold unevenly; let `tensor` "
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
