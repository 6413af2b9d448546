"""Starts and ends the processes of a multi-host run: on a TPU pod, under SLURM, or by three flags."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jax_vlffd.errors import UserError
from launch.cli import command
from launch.experiment import config as configs

if TYPE_CHECKING:
    from jax_vlffd.training.processes import SingleProcess

_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, for processes that are started by hand."
)
_COUNT = flags.DEFINE_integer("num_processes", None, "How many there are.", lower_bound=1)
_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", lower_bound=0)

#: Seconds until JAX gives up a process whose machine no longer responds. A killed process is noticed at once.
_HEARTBEAT_TIMEOUT = 40
#: Seconds that a device error waits for the report of another process that may have caused it.
_CAUSE_TIMEOUT = 5.0
#: JAX environment variables that may differ between hosts, by part of their name.
_OF_HOST = ("COORDINATOR", "PROCESS", "LOCAL", "CACHE_DIR", "DUMP", "LOG")
_PACKAGES = ("jax_vlffd", "data_pipeline", "configs", "launch")


@contextlib.contextmanager
def joined(config: Mapping[str, Any], *, preemption: bool = False) -> Iterator[SingleProcess]:
    """Connects this process with the others of the run; on exit all of them end together.

    Starts `jax.distributed` if there are several, and checks that all run the same config and code. An error in
    one process ends all of them, each with a line that names the process and the error.

    Args:
      config: JSON values that must be equal in all processes.
      preemption: also listen for the platform's preemption notices, besides SIGTERM.

    Raises:
      UserError: the flags do not fit together, a process does not connect, or two disagree.
    """
    import jax

    from jax_vlffd.training.processes import ProcessGroup, SingleProcess, connect, coordination

    jax.config.update("jax_enable_x64", False)  # parameters are fp32, whatever the environment says
    peers = SingleProcess()
    started = False
    try:
        if started := _started(preemption):
            identity = {
                "config": configs.flat(config), "versions": configs.versions(),
                "environment": environment(), "code": code(),
            }  # fmt: skip
            peers = connect(identity, difference)
        yield peers
        if isinstance(peers, ProcessGroup):
            peers.leave()
            jax.distributed.shutdown()  # at a barrier: process 0 takes the service with it
    except BaseException as error:
        if not started or coordination().num_processes == 1:
            raise
        expected = isinstance(error, (UserError, KeyboardInterrupt)) or hasattr(error, "errno")
        # The error of the runtime by which a save fails may come of another process that was killed.
        by_runtime = isinstance(error.__cause__, (RuntimeError, ConnectionError))
        if isinstance(peers, ProcessGroup):
            if by_runtime or not expected:
                time.sleep(_CAUSE_TIMEOUT)  # this process ends here if another one is the cause
            peers.broadcast_failure(" ".join(str(error).split()) or type(error).__name__)
        status = command.report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a normal exit would wait for processes that wait for this one


def _started(preemption: bool) -> bool:
    """Starts `jax.distributed` by the flags, else by the environment; returns whether it did."""
    import jax

    address, count, number = _COORDINATOR.value or None, _COUNT.value, _ID.value
    if any(value is not None for value in (address, count, number)):
        if address is None or count is None or number is None:
            raise UserError("--coordinator, --num_processes and --process_id go together")
        if number >= count:
            raise UserError(f"--process_id={number} is not one of 0 to {count - 1}")
        if not address.rpartition(":")[2].isdigit():
            raise UserError(f"--coordinator={address}: give HOST:PORT")
    elif not (_in_slurm_step() or _on_tpu_vm()):
        return False
    jax.config.update("jax_enable_preemption_service", preemption)
    try:
        jax.distributed.initialize(
            address, count, number,
            local_device_ids=_devices_of_one_task(),
            cluster_detection_method="deactivate" if address else None,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )  # fmt: skip
    except ValueError as error:
        if "should be defined" in str(error) and _on_tpu_vm():
            return False  # a TPU VM outside a pod
        raise
    except RuntimeError as error:
        first = str(error).split("\n")[0][:200]
        raise UserError(
            f"the processes of this run cannot connect ({first}); check that all of them were started and "
            "can reach process 0"
        ) from error
    return True


def _in_slurm_step() -> bool:
    """Whether srun started this process as one of several tasks."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _devices_of_one_task() -> list[int] | None:
    """All GPUs, where SLURM gives them to a host's only task; JAX would use the first alone."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if not _in_slurm_step() or tasks.split("(")[0] != "1" or "," not in visible:
        return None
    return list(range(len(visible.split(","))))


def _on_tpu_vm() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return "tpu" in platforms and bool(chips) and util.find_spec("libtpu") is not None


def code() -> dict[str, str]:
    """A short digest of each of our source files, templates and prompts."""
    root = Path(__file__).parents[2]
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        for package in _PACKAGES
        for file in sorted((root / package).rglob("*"))
        if file.suffix in (".py", ".txt", ".j2")
    }


def environment() -> dict[str, str]:
    """The environment variables that change what JAX and XLA compute."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
        or (name.startswith("JAX_") and not any(part in name for part in _OF_HOST))
    }


def difference(number: int, other: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    """Describes how process `number` differs from process 0; None if it does not."""
    titles = {
        "versions": "other versions", "code": "other code", "config": "another config",
        "environment": "another environment",
    }  # fmt: skip
    for kind, title in titles.items():
        a, b = first.get(kind, {}), other.get(kind, {})
        differing = [
            key if kind == "code" else f"{key} {b.get(key)!r} instead of {a.get(key)!r}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            return f"process {number} has {title} than process 0: {', '.join(differing[:3])}{more}"
    return None
