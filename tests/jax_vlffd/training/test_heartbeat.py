"""One run to a workdir, the heartbeat, and the warning when nothing moves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from jax_vlffd.errors import UserError
from jax_vlffd.training.heartbeat import HEARTBEAT, LOCK, Heartbeat, lock
from jax_vlffd.training.preemption import Preempted
from tests.support import tiny

HOLDER = """
import sys, time
from pathlib import Path
from jax_vlffd.training.heartbeat import Heartbeat, lock
workdir = Path(sys.argv[1])
with lock(workdir), Heartbeat(workdir, total=9, stall=0):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=tiny.environment(),
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"in\n"
    with (
        pytest.raises(UserError, match=rf"another run is in it \(.*, pid {holder.pid}\)"),
        lock(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def elsewhere(workdir: Path, doing: str, seconds: float) -> None:
    content = {"host": "other", "pid": 7, "doing": doing, "time": seconds}
    (workdir / HEARTBEAT).write_text(json.dumps(content))


def test_a_heartbeat_of_another_host_that_stands_still_or_has_ended_lets_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere(tmp_path, "training", 1.0)
    with lock(tmp_path, patience=0.05):
        assert "was left by a run on other" in capsys.readouterr().err
    elsewhere(tmp_path, "stopped", 1.0)
    with lock(tmp_path, patience=1e9):
        pass


def test_a_heartbeat_of_another_host_that_moves_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(tmp_path, "training", 1.0)
    monkeypatch.setattr(time, "sleep", lambda _: elsewhere(tmp_path, "training", 2.0))
    with pytest.raises(UserError, match=r"another run is in it \(other, pid 7\)"), lock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_where_there_are_no_locks_a_run_of_this_host_is_known_by_its_heartbeat_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "other")
    elsewhere(tmp_path, "training", 1.0)
    monkeypatch.setattr(time, "sleep", lambda _: elsewhere(tmp_path, "training", 2.0))
    with (
        pytest.raises(UserError, match=r"another run is in it \(other, pid 7\)"),
        lock(epath.Path(tmp_path)),  # no `Path`: taken for a bucket's
    ):
        pass
    with Heartbeat(epath.Path(tmp_path), total=9, stall=0):
        assert json.loads((tmp_path / HEARTBEAT).read_text())["doing"] == "starting"
    with lock(epath.Path(tmp_path)):
        assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize(
    ("error", "doing"), [(None, "finished"), (Preempted(), "stopped"), (UserError(), "failed")]
)
def test_the_heartbeat_tells_how_a_run_ended(
    error: Exception | None, doing: str, tmp_path: Path
) -> None:
    try:
        with Heartbeat(tmp_path, total=9, stall=0) as watch:
            watch.beat("training", 4)
            if error:
                raise error
    except (Preempted, UserError):
        pass
    result = json.loads((tmp_path / HEARTBEAT).read_text())
    assert (result["step"], result["total"], result["doing"]) == (4, 9, doing)
    assert result["pid"] == os.getpid()


def test_a_run_that_stands_still_warns_once_and_tells_when_it_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Heartbeat(None, total=9, stall=0.05) as watch:
        watch.beat("waiting for data", 3)
        error, end = "", time.monotonic() + 60
        while "warning" not in error and time.monotonic() < end:
            time.sleep(0.02)
            error += capsys.readouterr().err
        time.sleep(0.2)  # a second one would come by now
        watch.beat("training", 3)
    message = (error + capsys.readouterr().err).splitlines()
    assert len(message) == 2
    assert message[0].startswith(
        "warning: nothing has moved for 0 s at step 3/9 (waiting for data)"
    )
    assert message[1] == "step 3/9  continues"
