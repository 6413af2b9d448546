"""How tests compile: quickly, and each program once, for compiling takes longer than running."""

from __future__ import annotations

import platform
import time
import zlib
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_KEPT_DAYS = 7

#: Of XLA_FLAGS. A third of the time that compiling takes otherwise: whole loops by one emitter, in one module.
#: XLA ends a process whose flags it does not know, and that of JAX 0.12 has no other emitter.
FLAGS = "--xla_cpu_parallel_codegen_split_count=1" + (
    " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
)


def environment() -> dict[str, str]:
    """What JAX is given, in this process and in those that tests start.

    Shapes of other ranks are not broadcast unseen: that is an error.
    It is the machine code that is made with less care: what the goldens of test_compile hold, FLOPs, memory
    and what devices exchange, is the same either way. Programs stay in `build/xla` from one session of
    tests to the next; their keys hold the program, the flags and the versions, but not the kind of CPU.
    """
    cpu = Path("/proc/cpuinfo")
    flags = (
        [line for line in cpu.read_text().splitlines() if line.startswith("flags")][:1]
        if cpu.exists()
        else []
    )
    kind = f"{platform.machine()}-{zlib.crc32(''.join(flags).encode()):08x}"
    return {
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / "build" / "xla" / kind),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def forget_old_programs() -> None:
    """Deletes compiled programs that were made some days ago."""
    oldest = time.time() - _KEPT_DAYS * 24 * 3600
    for program in (REPOSITORY / "build" / "xla").glob("*/*-cache"):
        if program.stat().st_mtime < oldest:
            program.unlink(missing_ok=True)
