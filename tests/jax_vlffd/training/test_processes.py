"""Coordination between three real processes: values, one place to stop, ends that are named, strangers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import processes, tiny

COUNT = 3
HOST = """
import os, random, signal, socket, sys, threading, time
import jax
from jax_vlffd.errors import UserError
from jax_vlffd.training import processes

index, count, port, mode, who = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{port}", count, index)

def differs(number, theirs, ours):
    return None if theirs == ours else f"process {number} has {theirs}"

if mode == "missing" and index == who:
    time.sleep(60)
if mode == "values" and index == 1:
    door = processes._Store(processes.coordination().client).get("port")
    strangers = [socket.create_connection((name, door)) for name in ("localhost", "127.0.0.1")]
    strangers[0].sendall(b"[" * 100_000)
try:
    group = processes.connect(
        index if mode == "disagree" else 0, differs, timeout=3 if mode == "missing" else 60
    )
except UserError as error:
    print(error, flush=True)
    os._exit(1)
print(f"pid {os.getpid()}", flush=True)
if mode == "values":
    for turn in range(50):
        assert group.exchange([index, turn]) == [[number, turn] for number in range(count)]
    words = "x" * (20 << 20)
    assert group.exchange(words if index == 0 else "")[0] == words
if mode == "stop":
    place = 0
    while not group.should_stop():
        place += 1
        time.sleep(random.random() / 200)
        if place == 40 + index:  # all ask, at about the same time
            threading.Thread(target=group.request_stop, args=("SIGTERM",)).start()
    assert group.exchange([place, group.reason]) == [[place, group.reason]] * count
    print(group.reason)
if mode == "kill":
    group.exchange(None)
    if index == who:
        os.kill(os.getpid(), signal.SIGKILL)
    group.exchange(None) if index == 1 else time.sleep(60)
if mode == "fail":
    if index == who:
        group.broadcast_failure("the disk is full")
        os._exit(3)
    group.exchange(None)
group.leave()
print("left")
"""


def run(mode: str, tmp_path: Path, who: int = 0) -> list[tuple[int, str]]:
    """The exit status of every process, and what it printed."""
    with processes.free_port() as port:
        pass
    logs = [tmp_path / str(number) for number in range(COUNT)]
    started = []
    for number, log in enumerate(logs):
        given = [str(number), str(COUNT), str(port), mode, str(who)]
        with log.open("w") as file:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", HOST, *given],
                    env=tiny.environment(), stdout=file, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        if mode == "missing":
            statuses = [started[number].wait(120) for number in range(COUNT) if number != who]
            statuses.insert(who, 0)
        else:
            statuses = [process.wait(120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [(status, log.read_text()) for status, log in zip(statuses, logs, strict=True)]


@pytest.mark.slow
def test_values_go_around_in_order_whatever_their_size_and_whoever_else_connects(
    tmp_path: Path,
) -> None:
    result = run("values", tmp_path)
    assert [(status, "left" in text.splitlines()) for status, text in result] == [
        (0, True)
    ] * COUNT, result


@pytest.mark.slow
def test_all_stop_at_one_place_for_one_reason(tmp_path: Path) -> None:
    result = run("stop", tmp_path)
    assert [status for status, _ in result] == [0] * COUNT, result
    reasons = {
        re.search(r"^process \d \(.+, pid \d+\) got SIGTERM$", text, re.M) for _, text in result
    }
    assert None not in reasons, result
    assert len({reason[0] for reason in reasons if reason}) == 1, result


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_process_that_is_killed_ends_all_and_is_named_last(who: int, tmp_path: Path) -> None:
    result = run("kill", tmp_path, who)
    [pid] = re.findall(r"^pid (\d+)$", result[who][1], re.M)
    assert result.pop(who)[0] == -9
    for status, text in result:
        assert status == 1
        last = text.splitlines()[-1]
        assert re.match(rf"error: process {who} \(.+, pid {pid}\) ended without a word: ", last), (
            text
        )


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 2])
def test_the_last_words_of_a_process_end_all(who: int, tmp_path: Path) -> None:
    result = run("fail", tmp_path, who)
    assert result.pop(who)[0] == 3
    for status, text in result:
        assert status == 1
        last = text.splitlines()[-1]
        assert re.match(rf"error: process {who} \(.+\) stopped: the disk is full$", last), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("disagree", "process 1 has 1; process 2 has 2; start all processes with the same code"),
        ("missing", "processes 2 of 3 did not come within 3 s"),
    ],
)
def test_processes_that_disagree_or_do_not_come_are_named_by_all(
    mode: str, said: str, tmp_path: Path
) -> None:
    result = run(mode, tmp_path, who=2)
    for status, text in result[:2] if mode == "missing" else result:
        assert status == 1
        assert said in text


def test_one_file_uses_what_jax_does_not_publish() -> None:
    packages = ("jax_vlffd", "data_pipeline", "configs", "launch", "benchmarks")
    result = [
        str(file.relative_to(tiny.ROOT))
        for package in packages
        for file in (tiny.ROOT / package).rglob("*.py")
        if "jax._src" in file.read_text()
    ]
    assert result == ["jax_vlffd/training/processes.py"]
