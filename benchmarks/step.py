"""Speed of our steps compared with the same steps in torch, and of the tuning modes compared with full tuning.

Model, losses, precision and batch size are the config's. The two sides must give the same losses and gradient
norms before anything is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from absl import flags
from ml_collections import config_flags

from benchmarks.process import TASKS, Job, SideProcess, alternate, summary

if TYPE_CHECKING:
    from jax_vlffd.config import RunConfig

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "step, tuning: the recipe, with batch and dtype.")
flags.DEFINE_enum(
    "task",
    "train",
    TASKS,
    "step: a training step, the image tower forward and backward, or the detector.",
)
flags.DEFINE_integer("repeats", 5, "step, tuning: rounds; each side in turn.", lower_bound=1)
flags.DEFINE_integer("steps", 1, "step, tuning: steps of a round.", lower_bound=1)
flags.DEFINE_bool("peer_compile", None, "step: torch.compile for the peer; by default on a GPU.")

#: Largest relative difference of the sides' first losses and gradient norms.
TOLERANCE: Final = {"float32": 2e-4, "bfloat16": 3e-2}


def settings() -> tuple[RunConfig, int]:
    """The config's settings and its batch size.

    Raises:
      UserError: no config is given, or it is not valid.
    """
    from jax_vlffd.errors import UserError
    from launch.experiment import config as configs

    if FLAGS.config is None:
        raise UserError("name a recipe: --config=configs/vlffd_clip_b16.py")
    run, data = configs.settings(FLAGS.config)
    return run, data.batch_size


def measure() -> dict[str, Any]:
    """Measures our step and the peer's, in turn.

    Raises:
      UserError: torch is missing, or the sides do not agree.
    """
    run, size = settings()
    return compare(
        run, size, FLAGS.task,
        rounds=FLAGS.repeats, steps=FLAGS.steps, peer_compile=FLAGS.peer_compile,
    )  # fmt: skip


def compare(
    run: RunConfig,
    batch_size: int,
    task: str,
    *,
    rounds: int,
    steps: int = 1,
    peer_compile: bool | None = None,
    one_at_a_time: bool = False,
) -> dict[str, Any]:
    """Compares a step of ours with the peer's.

    Args:
      run: model, losses, tuning, precision.
      batch_size: images of a step.
      task: one of TASKS.
      rounds: turns of each side.
      steps: of a side in its turn.
      peer_compile: torch.compile for the peer; None means on a GPU.
      one_at_a_time: only one side uses the device at a time, for batches of which only one fits.

    Raises:
      UserError: torch is missing, the model is not a CLIP, or the sides do not agree.
    """
    from benchmarks import jax_side
    from jax_vlffd.errors import UserError

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    results: dict[str, dict[str, Any]] = {}
    if peer_compile is None:
        peer_compile = has_gpu()
    if run.model.clip.vision.patch_bias or not run.model.clip.vision.pre_layernorm:
        raise UserError("the peer is a CLIP; this recipe's image tower is a plain ViT")
    job = Job(run, batch_size, task, peer_compile)
    makers: dict[str, Any] = {"ours": jax_side.Ours, "peer": peer()}
    groups = [["ours"], ["peer"]] if one_at_a_time else [["ours", "peer"]]
    for names in groups:
        with contextlib.ExitStack() as stack:
            sides = {}
            for name in names:
                sides[name] = stack.enter_context(SideProcess(makers[name], job))
                results[name] = sides[name].about | {"first": sides[name].call("check")}
            for name, taken in alternate(sides, rounds, steps).items():
                seconds[name] += taken
            for name, side in sides.items():
                results[name] |= summary(seconds[name], batch_size)
                results[name] |= {"peak": side.call("peak"), "matmul_flops": side.call("matmul")}
    dtype = run.model.compute.dtype
    agreement = check_agreement(
        results["ours"]["first"], results["peer"]["first"], TOLERANCE[dtype]
    )
    return _report(job, results, agreement)


def check_agreement(
    ours: Mapping[str, float], peer: Mapping[str, float], tolerance: float
) -> float:
    """The largest relative difference between the first results of two sides.

    Raises:
      UserError: it is above the tolerance.
    """
    from jax_vlffd.errors import UserError

    worst, difference = max_difference(ours, peer)
    if not difference <= tolerance:
        raise UserError(
            f"the sides differ: {worst} is {ours[worst]:.6g} in ours and {peer[worst]:.6g} in the "
            "peer, so their times cannot be compared"
        )
    return difference


def max_difference(ours: Mapping[str, float], peer: Mapping[str, float]) -> tuple[str, float]:
    """Name and size of the largest difference, relative to the peer's value."""
    relative = {k: abs(ours[k] - peer[k]) / max(abs(peer[k]), 1e-9) for k in peer}
    return max(relative.items(), key=lambda item: item[1])


def peer() -> Any:
    """The peer's class.

    Raises:
      UserError: torch is not installed.
    """
    from jax_vlffd.errors import UserError

    try:
        from benchmarks import torch_side
    except ImportError as error:
        raise UserError(
            f"the peer needs torch ({error}); run: pip install 'jax-vlffd[parity]'"
        ) from None
    return torch_side.Peer


def flops_per_image(job: Job) -> float:
    """The model's FLOPs per image of a job's step."""
    from jax_vlffd.compilation.flops import model_flops
    from jax_vlffd.config import TuningConfig

    tuning = job.run.tuning if job.task == "train" else TuningConfig()
    count = model_flops(job.run.model, job.run.loss, tuning, batch_size=job.batch_size)
    if job.task == "detect":
        return count.detector
    return count.vision.train if job.task == "tower" else count.total.train


def _report(job: Job, results: dict[str, dict[str, Any]], agreement: float) -> dict[str, Any]:
    flops = flops_per_image(job)
    peak = max(side.pop("matmul_flops") for side in results.values())
    for side in results.values():
        rate = flops * side["images_per_second"]
        side["model_flops_per_second"] = round(rate, -6)
        side["share_of_matmul_peak"] = round(rate / peak, 4)
    return {
        "bench": "step",
        "task": job.task,
        "model": describe(job.run),
        "batch_size": job.batch_size,
        "agreement": float(f"{agreement:.2g}"),
        "model_flops_per_image": flops,
        "matmul_peak_flops": round(peak, -6),
        **results,
        "time_over_peer": round(results["ours"]["ms"] / results["peer"]["ms"], 3),
        "rate_over_peer": round(results["peer"]["ms"] / results["ours"]["ms"], 3),
    }


def describe(run: RunConfig) -> dict[str, Any]:
    """The settings that identify a step."""
    vision = run.model.clip.vision
    return {
        "image_tower": f"{vision.layers} layers of {vision.width}, patch {vision.patch_size}",
        "image_size": vision.image_size,
        "compute": dataclasses.asdict(run.model.compute),
        "tuning": dataclasses.asdict(run.tuning),
        "loss": dataclasses.asdict(run.loss),
    }


def measure_tuning() -> dict[str, Any]:
    """Measures full, LayerNorm-only and adapter tuning of both towers, in turn, of ours alone."""
    run, size = settings()
    return compare_tuning(run, size, rounds=FLAGS.repeats, steps=FLAGS.steps)


def compare_tuning(
    run: RunConfig, batch_size: int, *, rounds: int, steps: int = 1, rank: int = 8
) -> dict[str, Any]:
    """Compares the rates of the tuning modes with full tuning; see `measure_tuning`."""
    from benchmarks import jax_side
    from jax_vlffd.config import TuningConfig

    jobs = {}
    for mode in ("full", "layernorm", "lora"):
        adapters = rank if mode == "lora" else 0
        compute = dataclasses.replace(run.model.compute, lora_rank=adapters)
        jobs[mode] = Job(
            dataclasses.replace(
                run,
                tuning=TuningConfig(mode, mode),
                model=dataclasses.replace(run.model, compute=compute),
            ),
            batch_size,
        )
    results: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        sides = {
            mode: stack.enter_context(SideProcess(jax_side.Ours, job)) for mode, job in jobs.items()
        }
        for mode, taken in alternate(sides, rounds, steps).items():
            about = sides[mode].about
            results[mode] = {name: about[name] for name in ("trainable", "program_bytes")}
            results[mode] |= summary(taken, batch_size)
            results[mode]["model_flops_per_image"] = flops_per_image(jobs[mode])
    for values in results.values():
        values["rate_over_full"] = round(results["full"]["ms"] / values["ms"], 3)
        full = results["full"]["model_flops_per_image"]
        values["flops_of_full"] = round(values["model_flops_per_image"] / full, 3)
    return {
        "bench": "tuning",
        "model": describe(run),
        "batch_size": batch_size,
        "lora_rank": rank,
        **results,
    }


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU; a framework's check would allocate memory on it."""
    from pathlib import Path

    return Path("/proc/driver/nvidia").exists()
