"""What a run says of itself: lines that survive a restart, events, progress."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jax_vlffd.training.metric_writer import MetricWriter, read_history


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def write(folder: Path, start: int, *steps_done: int, **options: Any) -> None:
    options = {"tensorboard": False} | options
    with MetricWriter(folder, start=start, total=9, **options) as writer:
        for step in steps_done:
            writer.write(step, {"train/loss": 1 / 3, "train/auc": float("nan")})


def test_a_line_holds_the_finite_values(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    assert lines(tmp_path) == ['{"step": 1, "train/loss": 0.3333333}']


def test_lines_after_the_restored_step_and_a_torn_one_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4]
    write(tmp_path, 2, 3)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3]
    write(tmp_path, 0)
    assert lines(tmp_path) == []


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, enabled=False, tensorboard=True)
    assert not list(tmp_path.iterdir())
    assert read_history(tmp_path) == []


def test_tensorboard_has_the_events_too(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, tensorboard=True)
    result = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in result


def test_without_a_terminal_progress_is_plain_and_seldom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MetricWriter(tmp_path, start=0, total=9, tensorboard=False) as writer:
        writer.show(1, "loss 1.0")
        writer.show(2, "loss 0.9")
        writer.show(3, "validation AUC 0.5", force=True)
    assert capsys.readouterr().err == "step 1/9  loss 1.0\nstep 3/9  validation AUC 0.5\n"


@pytest.mark.slow
def test_events_do_not_bring_torch_into_the_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra `parity`)")
    code = (
        "import sys, pathlib; from jax_vlffd.training.metric_writer import MetricWriter\n"
        "with MetricWriter(pathlib.Path(sys.argv[1]), start=0, total=1) as writer:\n"
        "  writer.write(1, {'train/loss': 1.0})\n"
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
        "import torch; assert torch.ones(1).sum() == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tensorboard").iterdir())
