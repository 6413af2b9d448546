"""Runs of training in this process, whole or killed, and what they leave."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.base import recipe
from data_pipeline.loading.loader import TrainIterator
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from jax_vlffd.training.state import TrainPlan, TrainState
from launch.experiment import training
from launch.experiment import workdir as runs
from tests.support import tiny

RATES = {"train/images_per_second", "train/data_wait", "train/save_seconds"}


def run(workdir: Path, packed: Path, **changes: Any) -> None:
    """Trains as the command does."""
    settings = tiny.settings(packed, **{"checkpoint_every": "3 steps", "keep": 9} | changes)
    values = json.loads(recipe(*settings).to_json())
    training.train(*settings, workdir, values)


def contents(workdir: Path, plan: TrainPlan, step: int) -> tuple[TrainState, dict[str, Any]]:
    with Checkpoints(workdir / runs.CHECKPOINTS, read_only=True) as checkpoints:
        return checkpoints.restore(plan.abstract, step)


def history(workdir: Path) -> list[dict[str, float]]:
    """What a run logged, less what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in RATES} for line in read_history(workdir)]


@dataclasses.dataclass
class Whole:
    """An undisturbed run, its plan, and the jitted steps that it used."""

    workdir: Path
    plan: TrainPlan
    functions: dict[str, Any]


def killed_reading(step: int) -> None:
    """Lets this process be ended by kill -9 where it would read the batch after a step."""
    read = TrainIterator.__next__

    def die(self: TrainIterator) -> Any:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self)

    TrainIterator.__next__ = die  # type: ignore[method-assign]


@contextlib.contextmanager
def killed(place: str, step: int) -> Iterator[None]:
    """Ends the run as a kill would: before it reads a batch, or between its validation and the save."""
    read, save = TrainIterator.__next__, Checkpoints.save

    def stop_reading(self: TrainIterator) -> Any:
        if self.step == step:
            raise KeyboardInterrupt
        return read(self)

    def stop_saving(self: Checkpoints, state: TrainState, *rest: Any) -> None:
        if int(state.step) == step:
            raise KeyboardInterrupt
        save(self, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        if place == "read":
            patch.setattr(TrainIterator, "__next__", stop_reading)
        else:
            patch.setattr(Checkpoints, "save", stop_saving)
        with pytest.raises(KeyboardInterrupt):
            yield
