"""All measurements on a GPU (or another single device), in one run of at most ten minutes.

Correctness comes first: bf16 against fp32, and ours against the peer. Then the step against the peer; tuning
modes; memory policies and attention; the detector; the largest batch that fits. A part that would start too
late is left out and reported; results are written after every part, so that an interrupted run keeps them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks import step
from benchmarks.process import Job, SideProcess, alternate, summary
from benchmarks.step import TOLERANCE

if TYPE_CHECKING:
    from jax_vlffd.config import RunConfig

FLAGS = flags.FLAGS
flags.DEFINE_float(
    "minutes", 9.5, "device: time limit; no part starts that would exceed it.", lower_bound=0.1
)
flags.DEFINE_integer(
    "largest", 2048, "device: upper limit of the batches tried, by doubling.", lower_bound=1
)


class Parts:
    """Runs parts within a time limit; a part that fails is reported and does not stop the others."""

    def __init__(self, minutes: float, save: Callable[[Mapping[str, Any]], None]):
        self._end = time.monotonic() + 60 * minutes
        self._save = save
        self.results: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}

    def do(self, name: str, needs: float, part: Callable[[], Any]) -> None:
        """Runs a part that takes about `needs` seconds."""
        from jax_vlffd.errors import UserError

        remaining = self._end - time.monotonic()
        if remaining < needs:
            self.left_out[name] = f"needs {needs:.0f} s, and {max(remaining, 0):.0f} s were left"
        else:
            start = time.monotonic()
            try:
                self.results[name] = {
                    "value": part(),
                    "seconds": round(time.monotonic() - start, 1),
                }
            except UserError as error:
                self.left_out[name] = str(error)
        self._save({"bench": "device", "left_out": self.left_out, **self.results})


def measure() -> dict[str, Any]:
    """Runs all parts: the most important first, the longest last."""
    from benchmarks import jax_side

    run, size = step.settings()
    parts = Parts(FLAGS.minutes, _keep)
    parts.do("bf16_against_fp32", 40, lambda: precision(run, min(size, 8)))
    checked = parts.results.get("bf16_against_fp32")
    if checked and not checked["value"]["ok"]:
        parts.left_out["everything else"] = "bf16 is too far from fp32: speed is meaningless"
        return {"bench": "device", "left_out": parts.left_out, **parts.results}
    steps = {"rounds": FLAGS.repeats, "steps": FLAGS.steps}
    parts.do("step", 150, lambda: step.compare(run, size, "train", one_at_a_time=True, **steps))
    parts.do("tuning", 60, lambda: step.compare_tuning(run, max(size // 4, 1), **steps))
    for name, change in variants(run).items():
        part = functools.partial(one, jax_side.Ours, _with(run, **change), size)
        parts.do(f"step, {name}", 40, part)
    for batch in (1, 64):
        detect = functools.partial(step.compare, run, batch, "detect", **steps)
        parts.do(f"detect_{batch}", 30, detect)
    limit = FLAGS.largest
    parts.do("largest batch, ours", 45, lambda: max_batch(jax_side.Ours, run, size, limit))
    parts.do("largest batch, peer", 45, lambda: max_batch(step.peer(), run, size, limit))
    unrolled = _with(run, unroll=run.model.clip.vision.layers)  # compiles longest
    parts.do("step, unrolled", 90, lambda: one(jax_side.Ours, unrolled, size))
    return {"bench": "device", "left_out": parts.left_out, **parts.results}


def _keep(results: Mapping[str, Any]) -> None:
    from jax_vlffd.file_writing import atomic_write_text

    if FLAGS.out:
        atomic_write_text(FLAGS.out, json.dumps(results, indent=2) + "\n")


def precision(run: RunConfig, batch_size: int) -> dict[str, Any]:
    """Losses and gradient norms of two steps in both precisions, and whether they agree."""
    from benchmarks import jax_side

    results = {}
    for dtype in ("float32", "bfloat16"):
        attention = "xla" if dtype == "float32" else run.model.compute.attention
        job = Job(_with(run, dtype=dtype, attention=attention), batch_size)
        with SideProcess(jax_side.Ours, job) as side:
            results[dtype] = side.call("check")
    names = ("loss_1", "gradient_norm_1")  # the second step's follow from different updates
    exact = {name: results["float32"][name] for name in names}
    difference, tolerance = (
        step.max_difference(results["bfloat16"], exact)[1],
        TOLERANCE["bfloat16"],
    )
    return {**results, "apart": difference, "tolerance": tolerance, "ok": difference <= tolerance}


def variants(run: RunConfig) -> dict[str, dict[str, Any]]:
    """Other memory policies and, on a GPU, other attention: name -> `compute` settings."""
    changes: dict[str, dict[str, Any]] = {
        f"remat {policy}": {"remat": policy} for policy in ("none", "dots", "full")
    }
    if run.model.compute.dtype == "bfloat16" and step.has_gpu():
        changes |= {f"{name} attention": {"attention": name} for name in ("cudnn", "xla")}
    current = dataclasses.asdict(run.model.compute)
    return {
        name: change for name, change in changes.items() if not change.items() <= current.items()
    }


def max_batch(make: Any, run: RunConfig, batch_size: int, limit: int) -> dict[str, Any]:
    """The rate of a side at the largest batch that fits, found by doubling."""
    results: dict[str, Any] = {}
    while batch_size <= limit:
        measured = {"batch_size": batch_size, **one(make, run, batch_size)}
        if "failed" in measured:
            return {**results, "did_not_fit": measured}
        results = measured
        batch_size *= 2
    return results


def one(make: Any, run: RunConfig, batch_size: int) -> dict[str, Any]:
    """The rate and the memory of one side's step, or why it failed."""
    from jax_vlffd.errors import UserError

    job = Job(run, batch_size, peer_compile=step.has_gpu())
    try:
        with SideProcess(make, job) as side:
            seconds = alternate({"one": side}, 2, max(FLAGS.steps, 2))["one"]
            about = {n: side.about.get(n) for n in ("compile_s", "program_bytes")}
            return summary(seconds, batch_size) | about | {"peak": side.call("peak")}
    except UserError as error:
        return {"failed": str(error)[:300]}


def _with(run: RunConfig, **compute: Any) -> RunConfig:
    settings = dataclasses.replace(run.model.compute, **compute)
    return dataclasses.replace(run, model=dataclasses.replace(run.model, compute=settings))
