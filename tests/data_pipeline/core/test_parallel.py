"""The map over processes: order, bounds, errors, and ends of every kind, in real processes."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.core.parallel import ordered_map
from jax_vlffd.errors import UserError
from tests.support.compiling import REPOSITORY


def process_of(item: int) -> tuple[int, int]:
    time.sleep(0.002 * (item % 3))
    return item, os.getpid()


def refuse(item: int) -> int:
    if item == 3:
        raise UserError("record 3: give another")
    return item


def die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def note_and_wait(folder: Path, item: int) -> int:
    """Leaves the number of this process in a file and works on; item 0 is soon done."""
    (folder / f"{item}.part").write_text(str(os.getpid()))
    (folder / f"{item}.part").rename(folder / str(item))
    if item:
        time.sleep(600)
    return item


@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (2, 1), (3, 4)])
def test_results_come_in_order_and_one_worker_is_this_process(workers: int, chunk: int) -> None:
    result = list(ordered_map(process_of, range(23), workers, chunk=chunk))
    assert [item for item, _ in result] == list(range(23))
    processes = {process for _, process in result}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_taken_as_they_are_needed(workers: int) -> None:
    taken = itertools.count()
    results = ordered_map(process_of, taken, workers, chunk=3, ahead=2)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    results.close()
    assert next(taken) <= 4 + workers * 2 * 3 + 3


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_comes_as_it_is(workers: int) -> None:
    with pytest.raises(UserError, match="record 3: give another"):
        list(ordered_map(refuse, range(9), workers))


def test_a_killed_worker_is_one_error_that_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"killed.*fewer --workers: what is done stays done"):
        list(ordered_map(die, range(9), 2))
    with pytest.raises(UserError, match=r"fewer --workers$"):
        list(ordered_map(die, range(9), 2, resumes=False))


def test_it_works_in_a_thread_that_ends_before_the_others() -> None:
    results: Iterator[tuple[int, int]] = ordered_map(process_of, range(40), 2)
    first: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: first.append(next(results)))
    thread.start()
    thread.join()
    assert [item for item, _ in (*first, *results)] == list(range(40))


_RUN = """
import functools, sys
from pathlib import Path
from data_pipeline.core.parallel import ordered_map
from launch.cli import command
from tests.data_pipeline.core.test_parallel import note_and_wait

def main(argv):
    for item in ordered_map(functools.partial(note_and_wait, Path(sys.argv[1])), range(9), 2):
        print(item, flush=True)

if __name__ == "__main__":
    command.run(main, positional=True)
"""


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def working(folder: Path) -> tuple[subprocess.Popen[str], set[int]]:
    """A program with two workers in the middle of their work, and the processes of these."""
    program = folder / "program.py"
    program.write_text(_RUN)
    started = subprocess.Popen(
        [sys.executable, str(program), str(folder)], env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not ((folder / "1").exists() and (folder / "2").exists()):
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
    workers = {int((folder / name).read_text()) for name in "12"}
    assert len(workers) == 2
    assert all(map(alive, workers))
    return started, workers


def ended(processes: set[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, processes))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path, number: signal.Signals
) -> None:
    started, workers = working(tmp_path)
    started.send_signal(number)  # to it alone
    assert started.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    assert ended(workers)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it reads /proc")
def test_ctrl_c_ends_all_at_once_and_quietly(tmp_path: Path) -> None:
    started, workers = working(tmp_path)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    out, error = started.communicate(timeout=60)
    assert started.returncode == 130
    assert (out, error) == ("0\n", "error: interrupted\n")
    assert ended(workers)


def test_a_closed_map_leaves_no_process(tmp_path: Path) -> None:
    results = ordered_map(functools.partial(note_and_wait, tmp_path), range(9), 2)
    assert next(results) == 0
    while not ((tmp_path / "1").exists() and (tmp_path / "2").exists()):
        time.sleep(0.01)
    results.close()
    assert ended({int((tmp_path / name).read_text()) for name in "12"})
