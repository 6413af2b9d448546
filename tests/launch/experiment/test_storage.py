"""Storage that fails under a run: a full disk and a workdir that may not be written, both mounted for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_vlffd.config import LossConfig
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from launch.experiment import workdir as runs
from tests.launch.experiment import test_train_command
from tests.launch.experiment.test_train_command import files
from tests.support import tiny

STEPS = 20
#: Room for about half of the run's checkpoints.
ROOM = "1500k"

Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def train(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """The command in WORKDIR, after shell commands that see WORKDIR as $1 and mount for it alone."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("no mounts of one's own here")
    settings = tiny.settings(
        packed, loss=LossConfig(alignment=0, fusion=0),
        duration=f"{STEPS} steps", checkpoint_every="2 steps", keep=STEPS, tensorboard=True,
    )  # fmt: skip
    config = tiny.write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.py", *settings)
    environment = tiny.environment(tmp_path_factory.mktemp("compiled"))

    def start(
        workdir: Path, before: str = "true", after: str = "true"
    ) -> subprocess.CompletedProcess[str]:
        script = f'{before} || exit 99; shift; "$@"; status=$?; {after} || exit 99; exit $status'
        command = [
            sys.executable,
            "-m",
            "launch.train",
            f"--config={config}",
            f"--workdir={workdir}",
        ]
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", str(workdir), *command],
            cwd=tiny.ROOT, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode != 99, done.stderr
        return done

    return start


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line; before it, that of TensorBoard's events, where they come to the end of the disk first."""
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if "TensorBoard's events cannot be" not in line)
    test_train_command.refused(done, *parts)


@pytest.mark.slow
def test_a_full_folder_of_tensorboard_costs_one_warning_and_nothing_else(
    train: Train, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    events = workdir / "tensorboard"
    events.mkdir(parents=True)
    done = train(workdir, f"mount -t tmpfs -o size=4k tmpfs {events}")
    assert done.returncode == 0, done.stderr
    warned = f"warning: {events}: TensorBoard's events cannot be written (No space left on device)"
    assert done.stderr.count(warned) == done.stderr.count("warning:") == 1, done.stderr
    assert "Traceback" not in done.stderr
    steps = {
        int(path.name) for path in (workdir / runs.CHECKPOINTS).iterdir() if path.name.isdigit()
    }
    assert steps == set(range(2, STEPS + 1, 2))
    assert [line["step"] for line in read_history(workdir) if "train/loss" in line] == list(
        range(1, STEPS + 1)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "room",
    ["8k", "1m", *(pytest.param(r, marks=pytest.mark.campaign) for r in ("60k", "400k", "2m"))],
)
def test_a_disk_full_at_any_moment_ends_the_run_in_one_line(
    room: str, train: Train, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    done = train(workdir, f'mount -t tmpfs -o size={room} tmpfs "$1"')
    refused(done, "No space left on device", str(workdir))


@pytest.mark.slow
def test_a_full_disk_and_then_one_that_may_not_be_written_leave_the_last_checkpoint_whole(
    train: Train, tmp_path: Path
) -> None:
    """One line each, and the run goes on when there is room and leave to write."""
    workdir, saved = tmp_path / "run", tmp_path / "saved"
    workdir.mkdir()
    done = train(
        workdir,
        f'mount -t tmpfs -o size={ROOM} tmpfs "$1"',
        f"cp -a {workdir} {saved}",  # the mount goes with the process
    )
    refused(done, "No space left on device")
    saved.rename(workdir)  # onto the empty folder
    plan = tiny.plan(loss=LossConfig(alignment=0, fusion=0))
    with Checkpoints(workdir / runs.CHECKPOINTS, read_only=True) as checkpoints:
        last = checkpoints.latest
        assert last is not None
        assert 0 < last < STEPS
        state, _ = checkpoints.restore(plan.abstract, last)
    assert int(state.step) == last

    before = files(workdir)
    done = train(workdir, 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"')
    refused(done, str(workdir), "Read-only file system")
    assert files(workdir) == before

    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert (workdir / runs.SUMMARY).exists()
    assert [line["step"] for line in read_history(workdir) if "train/loss" in line] == list(
        range(1, STEPS + 1)
    )
