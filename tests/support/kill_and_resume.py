"""Kills training runs at random moments: python -m tests.support.kill_and_resume --kills=50.

Prints what each kill hit, and compares every run that reached its end with one that nothing disturbed. With
--cut, SIGTERM cuts validations short, and the kills hit the runs that make them up; one checkpoint is kept.
With --in_saves, one checkpoint is kept, and only kills within a save count.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_pipeline.packed.builder import pack
from jax_vlffd.config import LossConfig
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from jax_vlffd.training.state import TrainPlan
from launch.experiment import workdir as runs
from tests.support import processes, tiny
from tests.support.packed_sets import write_annotations

STEPS = 60
IN_A_SAVE = "in a save"
CLOCKS = {"train/images_per_second", "train/data_wait", "train/save_seconds", "train/mfu"}


def kill_and_resume(
    folder: Path, kills: int, seed: int, in_saves: bool = False
) -> collections.Counter[str]:
    """Kills, starts again, and compares; returns how many kills hit what.

    Args:
      folder: an empty one to work in.
      kills: how many.
      seed: of the moments.
      in_saves: keep one checkpoint, save at every step, and count only kills within a save.

    Raises:
      AssertionError: a run ended otherwise than the undisturbed one, or had no whole checkpoint.
    """
    keep, saves = (1, 1) if in_saves else (STEPS, 5)
    loss = LossConfig(alignment=0, fusion=0)
    settings = tiny.settings(
        tiny.pack_set(folder / "set"), loss=loss, duration=f"{STEPS} steps", keep=keep,
        evaluate_every="12 steps", checkpoint_every=f"{saves} steps",
    )  # fmt: skip
    plan, steps = tiny.plan(loss=loss), (STEPS,) if in_saves else (5, STEPS // 2, STEPS)
    config = tiny.write_recipe(folder / "tiny.py", *settings)

    def start(workdir: Path) -> processes.ForkServerProcess:
        given = [f"--config={config}", f"--workdir={workdir}"]
        return processes.start("launch.train", given, folder / "log", folder / "compiled")

    def whole(workdir: Path) -> None:
        assert processes.status(start(workdir)) == 0, (folder / "log").read_text()

    whole(folder / "unbroken")
    rng, hit = random.Random(seed), collections.Counter[str]()
    run = 0
    while (hit[IN_A_SAVE] if in_saves else hit.total()) < kills:
        workdir = folder / f"run{run}"
        process = start(workdir)
        # Some time after some step: however busy the machine is, every part of a run has its chance.
        target = _newest(workdir) + rng.randrange(12)
        while process.exitcode is None and _newest(workdir) < target:
            time.sleep(0.005)
        process.join(rng.uniform(0.0, 0.5))
        if process.exitcode is None:
            process.kill()
            process.join()
            hit[_doing(workdir)] += 1
            if runs.is_begun(workdir):
                _newest_whole(workdir, plan)
        else:
            assert process.exitcode == 0, (folder / "log").read_text()
            compare(workdir, folder / "unbroken", steps)
            run += 1
    whole(folder / f"run{run}")
    compare(folder / f"run{run}", folder / "unbroken", steps)
    print(f"{run + 1} runs, {hit.total()} kills, all ended as the unbroken one, to the bit")
    return hit


def cut_and_kill(folder: Path, rounds: int, seed: int) -> collections.Counter[str]:
    """Of one run with `keep=1`, cuts validations by SIGTERM and kills the process that makes each up.

    Args:
      folder: an empty one to work in.
      rounds: how many times.
      seed: of the moments.

    Returns:
      How many kills left the validation done, and how many left it due.

    Raises:
      AssertionError: at some moment there was no whole checkpoint, or the run ended otherwise than an
        undisturbed one.
    """
    files = [
        write_annotations(folder / "train", 8, split="train"),
        write_annotations(folder / "validation", 96, ("Face2Face",), split="validation"),
    ]
    pack(files, folder / "packed")
    loss, every = LossConfig(alignment=0, fusion=0), 4
    settings = tiny.settings(
        folder / "packed", loss=loss, batch_size=4, keep=1,
        duration=f"{every * (rounds + 1)} steps", evaluate_every=f"{every} steps",
    )  # fmt: skip
    config = tiny.write_recipe(folder / "tiny.py", *settings)
    plan, rng, left = tiny.plan(loss=loss), random.Random(seed), collections.Counter[str]()

    def start(workdir: Path) -> processes.ForkServerProcess:
        given = [f"--config={config}", f"--workdir={workdir}"]
        return processes.start("launch.train", given, folder / "log", folder / "compiled")

    def logged(step: int, name: str) -> bool:
        return any(line["step"] == step and name in line for line in read_history(run))

    def wait_for(process: processes.ForkServerProcess, step: int, name: str) -> None:
        while not logged(step, name):
            assert process.exitcode is None, (folder / "log").read_text()
            time.sleep(0.001)

    def due() -> bool:
        return bool(_newest_whole(run, plan)["clock"]["due"])

    assert processes.status(start(folder / "unbroken")) == 0, (folder / "log").read_text()
    run = folder / "run"
    for step in range(every, every * (rounds + 1), every):
        process = start(run)
        wait_for(process, step, "train/loss")
        os.kill(process.pid or 0, signal.SIGTERM)
        assert processes.status(process) == 0, (folder / "log").read_text()
        if not due():
            left["not cut"] += 1
            continue
        process = start(run)
        wait_for(process, step, "validation/loss")
        process.join(rng.uniform(0.0, 0.04))
        process.kill()
        process.join()
        left["due" if due() else "done"] += 1
    assert processes.status(start(run)) == 0, (folder / "log").read_text()
    compare(run, folder / "unbroken", steps=(every * (rounds + 1),))
    return left


def _newest_whole(workdir: Path, plan: TrainPlan) -> dict[str, Any]:
    """Reads the newest checkpoint, which must be whole; returns its position."""
    with Checkpoints(workdir / runs.CHECKPOINTS, read_only=True) as checkpoints:
        assert checkpoints.latest is not None, "no checkpoint is left"
        return checkpoints.restore(plan.abstract, checkpoints.latest)[1]


def _newest(workdir: Path) -> int:
    return int(max((line["step"] for line in read_history(workdir)), default=0))


def _doing(workdir: Path) -> str:
    """What the dead run was at, as far as its folder tells."""
    if any((workdir / runs.CHECKPOINTS).glob("*.orbax-checkpoint-tmp*")):
        return IN_A_SAVE
    if not runs.is_begun(workdir):
        return "before the first checkpoint"
    last = read_history(workdir)[-1:]
    if last and last[0]["step"] == STEPS:
        return "at the end"
    if last and last[0]["step"] % 12 == 0 and "validation/loss" not in last[0]:
        return "in a validation"
    return "between saves, or while starting again"


def compare(workdir: Path, unbroken: Path, steps: tuple[int, ...] = (5, STEPS // 2, STEPS)) -> None:
    """Sees that a run's logs, checkpoints and results are those of another, to the bit."""
    ours, theirs = (
        [{k: v for k, v in line.items() if k not in CLOCKS} for line in read_history(folder)]
        for folder in (workdir, unbroken)
    )
    assert ours == theirs, f"{workdir}: other lines"
    plan = tiny.plan(loss=LossConfig(alignment=0, fusion=0))
    for step in steps:
        result = []
        for folder in (workdir, unbroken):
            with Checkpoints(folder / runs.CHECKPOINTS, read_only=True) as checkpoints:
                state, position = checkpoints.restore(plan.abstract, step)
            result.append((tiny.host(state), position["data"], position["clock"]["best"]))
        (a, *rest), (b, *others) = result
        assert rest == others, f"{workdir}, step {step}: another place in the data"
        assert tiny.difference(a.parameters, b.parameters) == 0, f"{workdir}, step {step}"
        assert str(a.optimizer) == str(b.optimizer), f"{workdir}, step {step}"
    name = runs.CALIBRATION
    assert (workdir / name).read_bytes() == (unbroken / name).read_bytes()


def main() -> None:
    """Runs it by the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--in_saves", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.cut:
            hit = cut_and_kill(Path(folder), given.kills, given.seed)
        else:
            hit = kill_and_resume(Path(folder), given.kills, given.seed, given.in_saves)
    for what, count in hit.most_common():
        print(f"  {count:3d}  {what}")


if __name__ == "__main__":
    main()
    sys.exit(0)
