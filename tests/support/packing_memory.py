"""Memory that packing takes, measured in a process of its own: other tests' threads would be counted too."""

from __future__ import annotations

import gc
import multiprocessing
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def in_new_process(measure: Callable[..., list[int]], *arguments: Any) -> list[int]:
    """What `measure` of this module returns, called in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def planning_peaks(files: Sequence[Path]) -> list[int]:
    """The most bytes that planning each file takes."""
    from data_pipeline.packed.builder import PackPlan

    peaks = []
    for file in files:
        gc.collect()
        tracemalloc.start()
        PackPlan([file], split=None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks


def kept_by_packing(files: Sequence[Path], out: Path) -> list[int]:
    """The bytes that are held once all records of each file are written."""
    from data_pipeline.packed import builder

    kept, write_card = [], builder.write_card

    def measure(*args: Any, **kwargs: Any) -> dict[str, Any]:
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        return write_card(*args, **kwargs)

    builder.write_card = measure
    builder.SHARD_BYTES = 100_000  # type: ignore[misc]
    for number, file in enumerate(files):
        tracemalloc.start()
        builder.pack([file], out / f"out_{number}")
        tracemalloc.stop()
    return kept
