"""Several real processes as one run: the same result, an end together, and what a stopped run goes on as."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jax_vlffd.config import LossConfig
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from launch.experiment import distributed
from launch.experiment import workdir as runs
from tests.support import processes, tiny

STEPS = 8
#: 8 records to validate: of 12 places in a batch, two processes fill 6 and 2, four 3, 3, 2 and none.
BATCH = 12
#: Of the branches that hosts share work in: the third is of each picture by itself.
LOSS = LossConfig(fusion=0)


#: Waits before a step as long as there is a file of its number, so that a run is not over before its signal.
HELD = """
import time
from pathlib import Path
from data_pipeline.loading.loader import TrainIterator

def _read(self, read=TrainIterator.__next__):
    while Path({folder!r}, f"hold_{{self.step}}").exists():
        time.sleep(0.02)
    return read(self)

TrainIterator.__next__ = _read
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its packed set, and the compiled programs of all runs here."""
    made = tmp_path_factory.mktemp("hosts")
    settings = tiny.settings(
        tiny.pack_set(made / "set"), loss=LOSS, batch_size=BATCH, duration=f"{STEPS} steps",
        evaluate_every="4 steps", checkpoint_every="1 steps", keep=20,
    )  # fmt: skip
    recipe = tiny.write_recipe(made / "tiny.py", *settings)
    recipe.write_text(recipe.read_text() + HELD.format(folder=str(made)))
    return made


Start = Callable[..., list[ForkServerProcess]]


@pytest.fixture(scope="module")
def start(folder: Path) -> Start:
    """Starts the training command on a number of hosts; what they print is in WORKDIR-logs/0, /1, ..."""

    def begin(
        count: int, workdir: Path, *arguments: str, **options: Any
    ) -> list[ForkServerProcess]:
        given = [f"--config={folder / 'tiny.py'}", f"--workdir={workdir}", *arguments]
        logs = workdir.with_name(f"{workdir.name}-logs")
        return processes.start_hosts(
            count, "launch.train", given, logs, folder / "compiled", **options
        )

    return begin


def logs(workdir: Path) -> list[str]:
    folder = workdir.with_name(f"{workdir.name}-logs")
    return [path.read_text() for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def alone(start: Start, folder: Path) -> Path:
    """The workdir of the same run by one process."""
    [process] = start(1, folder / "alone", "--profile=3:4")
    assert processes.status(process) == 0, logs(folder / "alone")
    return folder / "alone"


def same(workdir: Path, alone: Path) -> None:
    """Every step logged once, losses and final parameters equal to 1e-5."""
    ours, theirs = read_history(workdir), read_history(alone)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["step"] == b["step"]
        for name in a.keys() & {"train/loss", "train/loss_alignment", "validation/loss"}:
            assert a[name] == pytest.approx(b[name], abs=1e-5)
    plan = tiny.plan(loss=LOSS)
    result = []
    for run in (workdir, alone):
        with Checkpoints(run / runs.CHECKPOINTS, read_only=True) as checkpoints:
            result.append(checkpoints.restore_parameters(plan.abstract.parameters, STEPS))
    assert tiny.difference(*result) < 1e-5


@pytest.mark.slow
def test_a_trace_of_the_steps_asked_for_is_written(alone: Path) -> None:
    [trace] = (alone / "profile").rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()


JOINED = """
import sys
from absl import flags
from launch.experiment import distributed
flags.FLAGS(sys.argv[:1])
with distributed.joined({}) as peers:
    print(peers.count, peers.exchange(f"from {peers.index}"))
"""


@pytest.mark.slow
def test_tasks_of_a_slurm_step_find_each_other() -> None:
    """By what SLURM says in the environment: the list of nodes, and a number of the job for the port."""
    for job in range(os.getpid() % 4096, 8192):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 61440 + job % 4096)):
            break
    given = tiny.environment() | {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1,127.0.0.2", "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0",
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED], env=given | {"SLURM_PROCID": str(number)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    error = [task.communicate(timeout=100) for task in tasks]
    assert [out for out, _ in error] == ["2 ['from 0', 'from 1']\n"] * 2, error
    assert [task.returncode for task in tasks] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.campaign), 4])
def test_many_processes_train_as_one(count: int, start: Start, alone: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    assert [processes.status(p) for p in start(count, workdir)] == [0] * count, logs(workdir)
    same(workdir, alone)
    first, *others = logs(workdir)
    assert "best checkpoint: step " in first
    assert not any("step" in log for log in others)


def wait_for(step: int, workdir: Path) -> None:
    deadline = time.monotonic() + 300
    while max((line["step"] for line in read_history(workdir)), default=0) < step:
        assert time.monotonic() < deadline, logs(workdir)
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_and_then_killed_goes_on_by_another_number_of_hosts(
    start: Start, alone: Path, folder: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    hold = folder / "hold_3"
    hold.touch()
    first, second = start(2, workdir)
    wait_for(1, workdir)
    for _ in range(2):  # the second must not spoil what the first began
        os.kill(second.pid or 0, signal.SIGTERM)
        time.sleep(0.02)
    hold.unlink()
    assert (processes.status(first), processes.status(second)) == (0, 0), logs(workdir)
    error = logs(workdir)[0]
    assert f"of {STEPS}: process 1 (" in error
    assert "got SIGTERM; the same command goes on from there" in error
    stopped = max(line["step"] for line in read_history(workdir))
    assert stopped < STEPS

    hold = folder / f"hold_{stopped + 3}"
    hold.touch()
    first, second = start(2, workdir)
    wait_for(stopped + 1, workdir)
    os.kill(second.pid or 0, signal.SIGKILL)
    assert processes.status(first) == 1
    error = logs(workdir)[0].splitlines()[-1]
    assert error.startswith(
        f"error: process 1 ({os.uname().nodename}, pid {second.pid}) ended without"
    )

    hold.unlink()
    [process] = start(1, workdir, devices=2)
    assert processes.status(process) == 0, logs(workdir)
    same(workdir, alone)


def test_processes_that_disagree_are_named(start: Start, folder: Path, tmp_path: Path) -> None:
    """With what they disagree on, before anything is written."""
    given = [f"--config={folder / 'tiny.py'}", f"--workdir={tmp_path / 'run'}"]
    with processes.free_port() as port:
        together = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    started = [
        processes.start(
            "launch.train",
            [*given, *together, f"--process_id={number}", *more],
            tmp_path / str(number),
            folder / "compiled",
        )
        for number, more in enumerate(([], ["--config.optim.learning_rate=0.5"]))
    ]
    assert [processes.status(process) for process in started] == [1, 1]
    for number in (0, 1):
        assert (
            "error: process 1 has another config than process 0: optim.learning_rate 0.5 instead of 0.001"
        ) in (tmp_path / str(number)).read_text()
    assert not (tmp_path / "run").exists()


def test_other_code_is_named_by_its_file() -> None:
    ours = {"config": {}, "versions": {"jax": "1"}, "code": distributed.code()}
    assert distributed.difference(3, ours, ours) is None
    changed = {**ours, "code": {**ours["code"], "jax_vlffd/losses.py": "other"}}
    assert distributed.difference(3, changed, ours) == (
        "process 3 has other code than process 0: jax_vlffd/losses.py"
    )
    wide = {**ours, "environment": {"JAX_ENABLE_X64": "1"}}
    assert distributed.difference(1, wide, ours) == (
        "process 1 has another environment than process 0: JAX_ENABLE_X64 '1' instead of None"
    )
    older = {**ours, "versions": {"jax": "0"}}
    assert distributed.difference(3, older, ours) == (
        "process 3 has other versions than process 0: jax '0' instead of '1'"
    )


def test_templates_and_prompts_count_as_code() -> None:
    """With every source file of the packages that run; a file of no other kind lies beside them."""
    beside = {
        str(file.relative_to(tiny.ROOT))
        for package in ("jax_vlffd", "data_pipeline", "configs", "launch")
        for file in (tiny.ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert distributed.code().keys() == beside
    assert {Path(name).suffix for name in beside} >= {".py", ".txt"}


@pytest.mark.slow
def test_an_evaluation_is_exact_over_hosts_with_uneven_shards(
    alone: Path, folder: Path, tmp_path: Path
) -> None:
    result = []
    for count in (1, 2):
        out = tmp_path / str(count)
        given = [
            f"--workdir={alone}", f"--data=ours={folder / 'set/packed'}", "--split=validation",
            f"--out={out}", "--bootstrap=0", "--examples=0",
        ]  # fmt: skip
        started = processes.start_hosts(
            count, "launch.evaluate", given, tmp_path / f"logs{count}", folder / "compiled"
        )
        error = tmp_path / f"logs{count}" / "0"
        assert [processes.status(process) for process in started] == [0] * count, error.read_text()
        with (out / "scores.csv").open() as file:
            result.append(list(csv.DictReader(file)))
    ours, theirs = result
    assert len(ours) == 8
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    for name in ("probability", "logit"):
        np.testing.assert_allclose(
            [float(row[name]) for row in ours], [float(row[name]) for row in theirs], atol=1e-5
        )
