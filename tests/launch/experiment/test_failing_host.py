"""Of several hosts one cannot write its part of a checkpoint: all end, soon, with its name and the file's."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from jax_vlffd.config import LossConfig
from jax_vlffd.training.metric_writer import read_history
from tests.support import processes, tiny

#: So many that the run is not done before its saves have failed.
STEPS = 4000

pytestmark = pytest.mark.skipif(not processes.can_mount(), reason="no mounts of one's own here")


@pytest.mark.parametrize(
    ("how", "reasons"),
    [
        (["mount", "-o", "remount,ro,bind"], ("could not be written", "Read-only file system")),
        (["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs"], ("does not see the folder",)),
    ],
    ids=["read-only", "another disk"],
)
def test_a_host_that_cannot_write_ends_all_with_its_name_and_the_file(
    how: list[str], reasons: tuple[str, ...], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"
    checkpoints.mkdir(parents=True)
    settings = tiny.settings(
        tiny.pack_set(tmp_path / "set"), loss=LossConfig(alignment=0, fusion=0),
        duration=f"{STEPS} steps", checkpoint_every="20 steps", evaluate_every=f"{STEPS} steps",
    )  # fmt: skip
    given = [
        f"--config={tiny.write_recipe(tmp_path / 'tiny.py', *settings)}",
        f"--workdir={workdir}",
    ]
    place = str(checkpoints)
    started = processes.start_hosts(
        2, "launch.train", given, tmp_path / "logs", tmp_path / "compiled",
        before={1: (["mount", "--bind", place, place], [*how, place])},
    )  # fmt: skip
    while max((line["step"] for line in read_history(workdir)), default=0) < 20:
        if any(process.exitcode is not None for process in started):
            break
        time.sleep(0.05)
    # Orbax's own barrier, in which all would wait for the one, lasts 1,200 s.
    result = [processes.status(process, 300) for process in started]
    error = [(tmp_path / "logs" / str(number)).read_text() for number in range(2)]
    assert result == [1, 1], error
    for text in error:
        *_, last = (line for line in text.splitlines() if line.startswith("error: "))
        assert place in last, text
        assert all(reason in last for reason in reasons), text
        assert "Traceback" not in text
    assert re.search(r"process 1 \(.*, pid \d+\) ", error[0]), error
