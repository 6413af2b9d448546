"""Waiting times of a user besides the steps: help, the first step, a checkpoint."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
    from data_pipeline.loading.settings import DataSettings
    from data_pipeline.loading.tokenizer import Tokenizer
    from jax_vlffd.config import RunConfig

FLAGS = flags.FLAGS
flags.DEFINE_integer("people", 60, "start: people drawn for the demo's set.", lower_bound=10)


def measure() -> dict[str, Any]:
    """Measures seconds of every command's help, of two starts of the demo, and of a save."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed = _packed(folder)
        figures: dict[str, Any] = {
            "bench": "start",
            "help_s": help_seconds(commands()),
            **first_steps(folder, packed),
            **save_times(*_demo(folder, packed), folder / "checkpoints"),
            **digest_cost(folder / "digests"),
        }
    figures["help_max_s"] = max(figures["help_s"].values())
    return figures


def commands() -> list[str]:
    """The modules of `launch` that are commands."""
    folder = Path(__file__).parents[1] / "launch"
    return sorted(
        f"launch.{file.stem}"
        for file in folder.glob("*.py")
        if re.search("^if __name__ == .__main__.:", file.read_text("utf-8"), re.MULTILINE)
    )


def help_seconds(names: Sequence[str], repeats: int = 3) -> dict[str, float]:
    """The median wall time of `--help` of each command."""
    figures = {}
    for name in names:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", name, "--help"], check=True, stdout=subprocess.DEVNULL
            )
            seconds.append(time.perf_counter() - start)
        figures[name] = round(statistics.median(seconds), 3)
    return figures


def first_steps(folder: Path, packed: Path) -> dict[str, float]:
    """Seconds from the command to the demo's first logged step, without and with a compilation cache."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    figures = {}
    for name in ("first_start_s", "second_start_s"):
        command = [
            sys.executable, "-m", "launch.train", "--config=configs/demo.py",
            f"--workdir={folder / name}", f"--config.data.train={packed}",
            f"--config.data.validation={packed}", "--config.train.duration=3 steps",
        ]  # fmt: skip
        start = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if line.startswith("step 1/"):
                    figures[name] = round(time.perf_counter() - start, 2)
            status = process.wait()
        if status or name not in figures:
            from jax_vlffd.errors import UserError

            raise UserError(f"the demo did not start: {' '.join(lines[-3:])}")
    return figures


def save_times(
    run: RunConfig, data: DataSettings, tokenizer: Tokenizer, folder: Path, saves: int = 7
) -> dict[str, float]:
    """Measures how long a save blocks the training loop, in milliseconds and in steps.

    Args:
      run: the settings.
      data: the settings of the data, with a training set.
      tokenizer: of the set.
      folder: for the checkpoints.
      saves: number of saves; the median counts.
    """
    import jax

    from data_pipeline.loading.loader import TrainLoader
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.processes import SingleProcess
    from jax_vlffd.training.sharding import to_devices
    from jax_vlffd.training.state import initial_state
    from jax_vlffd.training.step import batch_fields, make_train_step, truncate_texts
    from launch.experiment import plan as plans

    run = plans.with_tokenizer(run, tokenizer)
    clip = run.model.clip
    plan = plans.make_plan(run, data, steps=1000)
    state = initial_state(plan, run.seed)
    iterator = iter(
        TrainLoader(
            data, image_size=clip.vision.image_size, tokenizer=tokenizer,
            text_length=clip.text.context_length, mask_grid=plans.mask_grid(run),
        )
    )  # fmt: skip
    batch = next(iterator)
    fields = {name: batch[name] for name in batch_fields(run.loss)}
    fields, _ = truncate_texts(fields, plan.spec, SingleProcess())
    step = make_train_step(plan)
    stepping: list[float] = []
    saving: list[float] = []
    with Checkpoints(folder, keep=1) as checkpoints:
        for number in range(4 * saves + 1):
            start = time.perf_counter()
            state, metrics = step(state, to_devices(fields, plan.mesh))
            jax.block_until_ready((state, metrics))
            if number:
                stepping.append(time.perf_counter() - start)
            if number % 4 == 3:
                checkpoints.wait()  # as in training, where the previous save is complete by then
                start = time.perf_counter()
                checkpoints.save(state, {"data": iterator.get_state(), "clock": {}}, None)
                saving.append(time.perf_counter() - start)
    iterator.close()
    blocked, median = statistics.median(saving), statistics.median(stepping)
    return {
        "step_ms": round(1e3 * median, 2),
        "save_holds_ms": round(1e3 * blocked, 2),
        "save_holds_steps": round(blocked / median, 2),
    }


def digest_cost(folder: Path, mbytes: int = 141, pairs: int = 9) -> dict[str, Any]:
    """Compares whole saves with and without digests, in turns.

    Args:
      folder: for the checkpoints.
      mbytes: size of the state, a third of it parameters.
      pairs: pairs of saves; the median of their ratios counts, or on a busy machine that of CPU time.
    """
    from unittest import mock

    import jax.numpy as jnp
    import numpy as np

    from jax_vlffd import checksums
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.state import TrainState

    rng = np.random.default_rng(0)
    rows = max(mbytes * 10**6 // (3 * 24 * 4 * 768), 1)
    parameters, first, second = (
        {f"p{n}": jnp.asarray(rng.standard_normal((rows, 768), np.float32)) for n in range(24)}
        for _ in range(3)
    )
    seconds: dict[bool, list[float]] = {True: [], False: []}
    of_cores: dict[bool, float] = {True: 0.0, False: 0.0}
    with Checkpoints(folder, keep=1) as checkpoints:
        for turn in range(2 * (pairs + 1)):
            with_digests = (turn + turn // 2) % 2 == 0  # each is first in every other pair
            write = checksums.write if with_digests else lambda *_: None
            state = TrainState(jnp.asarray(turn), parameters, {"first": first, "second": second})
            with mock.patch.object(checksums, "write", write):
                start, used = time.perf_counter(), time.process_time()
                checkpoints.save(state, {}, None)
                checkpoints.wait()
                seconds[with_digests].append(time.perf_counter() - start)
                of_cores[with_digests] += time.process_time() - used if turn > 1 else 0.0
    ratios = [a / b for a, b in zip(seconds[True][1:], seconds[False][1:], strict=True)]
    return {
        "save_s": round(statistics.median(seconds[True][1:]), 3),
        "save_without_digests_s": round(statistics.median(seconds[False][1:]), 3),
        "save_digest_ratio": round(statistics.median(ratios), 3),
        "save_digest_ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "save_digest_cpu_ratio": round(of_cores[True] / of_cores[False], 3),
    }


def _demo(folder: Path, packed: Path) -> tuple[RunConfig, DataSettings, Tokenizer]:
    """The demo's settings, and the tokenizer of the run of `first_steps`."""
    from configs.demo import get_config
    from data_pipeline.loading.tokenizer import Tokenizer
    from launch.experiment import config as configs
    from launch.experiment import workdir

    config = get_config()
    config.data.train = config.data.validation = str(packed)
    run, data = configs.settings(config)
    return run, data, Tokenizer.load(folder / "second_start_s" / workdir.TOKENIZER)


def _packed(folder: Path) -> Path:
    """Draws and packs a small set of the demo."""
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL}
    drawn, packed = folder / "drawn", folder / "packed"
    for arguments in (
        ("launch.forge", f"--out={drawn}", f"--identities={FLAGS.people}"),
        ("launch.pack", f"--annotations={drawn / 'annotations.jsonl'}", f"--out={packed}"),
    ):
        subprocess.run([sys.executable, "-m", *arguments], **quiet)
    return packed
