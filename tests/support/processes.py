"""Real processes of the commands for the tests, forked from one that has imported everything.

An import of JAX and all the rest costs seconds; a fork costs none of them. Nothing is computed before the
fork, so each process starts its own devices.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support import compiling, watched

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [
    "tests.support.processes",
    "jax",
    "optax",
    "orbax.checkpoint",
    "grain",
    "tensorflow_datasets",
    "cv2",
    "sklearn.linear_model",
    "openai",
    "launch.experiment.config",
    "launch.experiment.initialization",
    "launch.experiment.explanations",
    "launch.experiment.workdir",
    "data_pipeline.loading.loader",
    "jax_vlffd.evaluation.metrics",
    "jax_vlffd.training.loop",
    "jax_vlffd.training.step",
]


def start(
    module: str,
    arguments: list[str],
    log: Path,
    cache: Path,
    devices: int = 1,
    cwd: Path | None = None,
    before: tuple[list[str], ...] = (),
) -> ForkServerProcess:
    """Runs `python -m MODULE ARGUMENTS`, in effect; what it prints goes to `log`.

    `before` are commands that it runs first, as root of a mount namespace of its own.
    """
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    process = _CONTEXT.Process(
        target=_run, args=(module, arguments, log, cache, devices, cwd, before)
    )
    process.start()
    return process


def run(
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    cwd: Path,
    timeout: float,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS`, in effect, to its end.

    The environment is the command's, but what libraries read of it when they are imported is this process's.
    `prepare` is called in the process first.
    """
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(
            target=_run_command, args=(module, arguments, logs, dict(environment), cwd, prepare)
        )
        process.start()
        code = status(process, timeout)
        said, error = (log.read_text() if log.exists() else "" for log in logs)
    return subprocess.CompletedProcess([module, *arguments], code, said, error)


def start_hosts(
    count: int,
    module: str,
    arguments: list[str],
    logs: Path,
    cache: Path,
    devices: int = 1,
    cwds: Sequence[Path] = (),
    before: Mapping[int, tuple[list[str], ...]] = types.MappingProxyType({}),
) -> list[ForkServerProcess]:
    """The same command by `count` processes that find each other; `logs`/0, /1, ... are what they print.

    `cwds`: a working directory for each. `before`: by process, as for `start`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with free_port() as port:
        pass
    together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    return [
        start(
            module,
            [*arguments, *together, f"--process_id={number}"],
            logs / str(number),
            cache,
            devices,
            cwds[number] if cwds else None,
            before.get(number, ()),
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port of this machine that nobody has; free when the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def status(process: ForkServerProcess, timeout: float = 300.0) -> int:
    """Waits for its exit status; negative is a signal's number. A busy machine may take minutes."""
    process.join(timeout)
    code = process.exitcode
    if code is None:
        process.kill()
        raise AssertionError(f"process {process.pid} has not ended within {timeout:.0f} s")
    return code


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    if os.getuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


def _mounts(commands: tuple[list[str], ...]) -> None:
    """Runs commands in a mount namespace of this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS; Python 3.11 has no os.unshare
        raise OSError(ctypes.get_errno(), "unshare")
    for command in (["mount", "--make-rprivate", "/"], *commands):
        subprocess.run(command, check=True)


def _run_command(
    module: str,
    arguments: list[str],
    logs: list[Path],
    environment: dict[str, str],
    cwd: Path,
    prepare: Callable[[], None] | None,
) -> None:
    for descriptor, log in enumerate(logs, start=1):
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    watched.watch_if_asked()
    sys.path.insert(0, str(cwd))
    sys.argv = [module, *arguments]
    import runpy

    import jax

    jax.config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
    seconds = float(environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    if prepare is not None:
        prepare()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _run(
    module: str,
    arguments: list[str],
    log: Path,
    cache: Path,
    devices: int,
    cwd: Path | None,
    before: tuple[list[str], ...],
) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if before:
        _mounts(before)
    if cwd is not None:
        os.chdir(cwd)
    # What is compiled here runs for a second: it is not worth much optimization.
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 "
        f"--xla_force_host_platform_device_count={devices} {compiling.FLAGS}"
    )
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    sys.argv = [module, *arguments]
    import runpy

    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
