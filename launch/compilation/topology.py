"""The devices of a named topology: of a TPU slice that need not exist, or simulated on the CPU."""

from __future__ import annotations

import math
import os
import re
from typing import Any

from jax_vlffd.compilation.chips import CHIPS, Chip
from jax_vlffd.errors import UserError

#: Supported TPU generations, each with an example topology for errors.
TPUS = {
    "v4": "v4:2x2x4",
    "v5e": "v5e:16x16",
    "v5p": "v5p:8x8x8",
    "v6e": "v6e:16x16",
    "tpu7x": "tpu7x:2x2x2",
}
_MAX_CPUS = 1024


def prepare(topology: str) -> None:
    """Sets environment variables for JAX; call it before JAX is imported.

    Raises:
      UserError: the topology is unknown.
    """
    chip, sizes = _parse(topology)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if chip is None:
        flags = os.environ.get("XLA_FLAGS", "")
        count = f"--xla_force_host_platform_device_count={sizes[0]}"
        os.environ["XLA_FLAGS"] = f"{flags} {count}".strip()
        # XLA stalls with fewer threads than collectives in flight.
        os.environ.setdefault("NPROC", "64")
        return
    # libtpu only compiles here: it must not search for chips or insist on being the only one loaded.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)


def devices(topology: str) -> tuple[list[Any], Chip | None]:
    """Finds the devices of a topology such as 'v5e:16x16' or 'cpu:8', and their chip (None for a CPU).

    Raises:
      UserError: there is no such topology, or libtpu is not installed.
    """
    import jax
    from jax.experimental import topologies

    chip, sizes = _parse(topology)
    if chip is None:
        cpus = jax.devices("cpu")
        if len(cpus) < sizes[0]:
            raise UserError(
                f"JAX has started with {len(cpus)} CPU devices, and {topology} needs {sizes[0]}; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={sizes[0]}"
            )
        return list(cpus[: sizes[0]]), None
    try:
        described = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        if "libtpu" in reason or "not installed" in reason:
            raise UserError(
                f"compiling for {topology} needs libtpu; run: pip install 'jax-vlffd[tpu]'"
            ) from None
        raise UserError(
            f"there is no topology {topology!r} ({reason[:160]}); one of this generation: "
            f"{TPUS[chip.name]}"
        ) from None
    return list(described.devices), chip


def _parse(topology: str) -> tuple[Chip | None, tuple[int, ...]]:
    name, _, layout = topology.partition(":")
    if name == "cpu":
        if not re.fullmatch(r"[0-9]{1,4}", layout) or not 1 <= int(layout) <= _MAX_CPUS:
            raise UserError(f"{topology!r}: give cpu:N with N from 1 to {_MAX_CPUS}, as cpu:8")
        return None, (int(layout),)
    chip = next((chip for chip in CHIPS if chip.name == name and name in TPUS), None)
    if chip is None:
        raise UserError(
            f"there is no topology {topology!r}; give one as {', '.join(TPUS.values())} or cpu:8"
        )
    if not re.fullmatch(r"[0-9]{1,4}(x[0-9]{1,4}){1,2}", layout):
        raise UserError(f"{topology!r}: give the chips along each axis, as {TPUS[name]}")
    sizes = tuple(int(size) for size in layout.split("x"))
    axes = TPUS[name].count("x") - name.count("x") + 1
    if len(sizes) != axes or min(sizes) < 1:
        raise UserError(f"{topology!r}: {name} has {axes} axes, as {TPUS[name]}")
    if math.prod(sizes) > chip.pod:
        raise UserError(f"{topology!r}: a pod of {name} has {chip.pod} chips at most")
    return chip, sizes
