"""Ctrl-C, SIGTERM and kill -9 of real commands: they end soon, leave no process, and go on later."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jax_vlffd.config import LossConfig
from tests.support import processes, tiny
from tests.support.commands import Kit
from tests.support.training_runs import history

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
STATUS = {INT: 130, TERM: 143}
MESSAGE = {INT: "error: interrupted\n", TERM: "error: ended by SIGTERM\n"}
#: A variable that marks the processes of a test.
MARK = "JAX_VLFFD_TEST"

#: Commands whose main does what its argument says, none of which a signal ends by itself.
SCRIPT = """
import hashlib, sys, threading, time
from jax_vlffd.training.preemption import Preempted, stops_on_signals
from jax_vlffd.training.processes import SingleProcess
from launch.cli import command

def never():
    # One call of C, as a compiler's: Python handles no signal before it returns.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def main(argv):
    print("ready", flush=True)
    match argv[1]:
        case "compiles": never()
        case "swallows":
            while True:
                try: time.sleep(60)
                except BaseException: pass
        case "waits": threading.Thread(target=never).start(); time.sleep(60)
        case "cleans":
            try: time.sleep(60)
            finally: print("cleaned", flush=True)
        case "cleans for ever":
            try: time.sleep(60)
            finally: time.sleep(600)
        case "trains":
            with stops_on_signals(SingleProcess(), float(argv[2])):
                never()
        case "saves":
            peers = SingleProcess()
            with stops_on_signals(peers, 600.0):
                while not peers.should_stop(): time.sleep(0.01)
            print("saved")

command.run(main, positional=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            env=tiny.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        return process

    return start


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("does", ["compiles", "swallows", "waits", "cleans", "cleans for ever"])
def test_a_signal_ends_a_command_wherever_it_is(
    script: Callable[..., subprocess.Popen[str]], does: str, number: signal.Signals
) -> None:
    process = script(does)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (STATUS[number], MESSAGE[number])
    assert out == ("cleaned\n" if does == "cleans" else "")


def test_a_second_ctrl_c_does_not_wait_for_what_cleans_up(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    process = script("cleans for ever")
    process.send_signal(INT)
    time.sleep(0.1)
    process.send_signal(INT)
    assert process.communicate(timeout=120)[1] == MESSAGE[INT]
    assert process.returncode == 130


@pytest.mark.parametrize(("number", "name"), [(INT, "Ctrl-C"), (TERM, "SIGTERM")])
def test_training_that_is_saved_ends_well(
    script: Callable[..., subprocess.Popen[str]], number: signal.Signals, name: str
) -> None:
    process = script("saves")
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "saved\n")
    assert error.startswith(f"{name}: saving and stopping, within 600 s")


def test_training_that_cannot_be_saved_says_so_at_once_and_ends_by_its_grace(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    process = script("trains", "1")
    process.send_signal(INT)
    first, last = process.communicate(timeout=120)[1].splitlines()
    assert first == "Ctrl-C: saving and stopping, within 1 s; Ctrl-C again ends the run at once"
    assert last.startswith("error: the run could not be saved within 1 s of Ctrl-C")
    assert process.returncode == 1


def test_a_second_ctrl_c_ends_training_at_once_and_a_second_sigterm_changes_nothing(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    process = script("trains", "600")
    assert process.stderr is not None
    process.send_signal(INT)
    assert process.stderr.readline().startswith("Ctrl-C: saving")
    process.send_signal(TERM)  # as `launch.sweep` sends when it is interrupted too
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(INT)
    assert process.communicate(timeout=120)[1].startswith("error: interrupted; start the run again")
    assert process.returncode == 130


def marked(mark: str) -> dict[int, str]:
    """The running processes with this mark, and their commands."""
    result = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes():
                continue
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                result[int(folder.name)] = command
    return result


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[bytes], log: Path
) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def nothing_left(mark: str) -> bool:
    end = time.monotonic() + 60
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    return not marked(mark)


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def gone(files: set[Path]) -> bool:
    """Whether all of these go soon: those of tests beside this one do, too."""
    end = time.monotonic() + 300
    while any(file.exists() for file in files) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(file.exists() for file in files)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of the runs that are not killed: kill -9 may leave half of one."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str, Path]]]:
    """Starts a command in a session of its own; gives the process, its mark and its log."""
    mark = uuid.uuid4().hex
    log = tmp_path / "log"

    def run(
        *arguments: str, cache: Path | None = None
    ) -> tuple[subprocess.Popen[bytes], str, Path]:
        environment = tiny.environment(cache or tmp_path / "compiled") | {MARK: mark}
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=tiny.ROOT, env=environment,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        return process, mark, log

    yield run
    for number in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, KILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="it reads /proc")
Start = Callable[..., tuple[subprocess.Popen[bytes], str, Path]]


def long_recipe(folder: Path, packed: Path, **changes: object) -> Path:
    settings = tiny.settings(
        packed, loss=LossConfig(alignment=0, fusion=0), duration="1000000 steps",
        evaluate_every="1000000 steps", checkpoint_every="50 steps", **changes,
    )  # fmt: skip
    recipe = tiny.write_recipe(folder / "tiny.py", *settings)
    with recipe.open("a") as file:
        file.write("\n\ndef get_sweep():\n    return [{'seed': 1}]\n")
    return recipe


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [KILL, pytest.param(TERM, marks=pytest.mark.campaign)])
def test_workers_and_shared_memory_of_a_loader_end_with_training(
    packed: Path, tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    before = shared_memory()
    recipe = long_recipe(tmp_path, packed, workers=2)
    run = tmp_path / "run"
    process, mark, log = start("launch.train", f"--config={recipe}", f"--workdir={run}")
    wait_until(lambda: len(history(run)) > 3, process, log)
    assert len(marked(mark)) >= 3
    process.send_signal(number)  # to it alone
    assert process.wait(300) == (0 if number == TERM else -KILL), log.read_text()
    assert nothing_left(mark)
    assert gone(shared_memory() - before)


@needs_proc
@pytest.mark.slow
def test_ctrl_c_reaches_no_worker_of_a_loader_so_training_is_saved(
    packed: Path, tmp_path: Path, start: Start, compiled: Path
) -> None:
    before = shared_memory()
    recipe = long_recipe(tmp_path, packed, workers=2)
    run = tmp_path / "run"
    process, mark, log = start(
        "launch.train", f"--config={recipe}", f"--workdir={run}", cache=compiled
    )
    wait_until(lambda: len(history(run)) > 3, process, log)
    os.killpg(process.pid, INT)  # as a terminal does
    assert process.wait(300) == 0, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    assert "the same command goes on from there" in text
    assert nothing_left(mark)
    assert gone(shared_memory() - before)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [KILL, TERM, INT])
def test_what_a_sweep_runs_ends_with_it(
    packed: Path, tmp_path: Path, start: Start, compiled: Path, number: signal.Signals
) -> None:
    """The run itself is not killed: it is asked to end, and saves."""
    recipe = long_recipe(tmp_path, packed)
    sweep = tmp_path / "sweep"
    flags = (f"--config={recipe}", f"--workdir={sweep}", f"--data=x={packed}", "--split=validation")
    process, mark, log = start("launch.sweep", *flags, cache=compiled)
    wait_until(lambda: any(len(history(run)) > 3 for run in sweep.glob("runs/*")), process, log)
    if number == INT:
        os.killpg(process.pid, INT)
    else:
        process.send_signal(number)
    assert process.wait(300) == (-KILL if number == KILL else STATUS[number])
    assert nothing_left(mark)
    (run_log,) = sweep.glob("logs/*.log")
    assert "Traceback" not in run_log.read_text() + log.read_text()
    assert "the same command goes on from there" in run_log.read_text()  # it was saved


#: Commands that are interrupted at random moments, with the processes that they start.
ANY = {
    "annotate": ["--workers=2"],
    "compile": [],
    "convert": [],
    "evaluate": [],
    "export": [],
    "forge": ["--workers=2", "--identities=400"],
    "pack": [],
    "predict": [],
    "prepare": ["--workers=2"],
    "score_annotations": [],
    "score_reasons": [],
}
SAMPLE = {("annotate", INT), ("forge", TERM)}


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(name, number, marks=[pytest.mark.campaign] * ((name, number) not in SAMPLE))
        for name in ANY
        for number in (INT, TERM)
    ],
)
def test_a_command_ends_at_any_moment_and_goes_on_later(
    kit: Kit, tmp_path: Path, start: Start, seed: int, name: str, number: signal.Signals,
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    if name in ("prepare", "predict"):
        pytest.importorskip("dlib")
    rng = random.Random(f"{seed} {name} {number}")
    whole = time.monotonic()
    done = processes.run(
        f"launch.{name}", [*kit.arguments(name, tmp_path / "first"), *ANY[name]],
        tiny.environment(tmp_path / "compiled"), tiny.ROOT, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole = time.monotonic() - whole
    arguments = [f"launch.{name}", *kit.arguments(name, tmp_path / "out"), *ANY[name]]
    longest = 0.0
    for _ in range(6 if request.config.option.markexpr == "campaign" else 1):
        process, mark, log = start(*arguments)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 1.3 * whole + 2.0))
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if number == INT else process.send_signal(number)
        # Before `command.run` is reached, the signal's default ends the process.
        assert process.wait(120) in (0, STATUS[number], -number), log.read_text()
        longest = max(longest, time.monotonic() - sent)
        text = log.read_text()
        assert "Traceback" not in text, text
        assert "Exception ignored" not in text, text
        assert nothing_left(mark)
    record_property("seconds_from_signal_to_end", round(longest, 2))
    if not (tmp_path / "out").exists() or name in ("annotate", "prepare", "predict"):
        done = processes.run(
            arguments[0], arguments[1:], tiny.environment(tmp_path / "compiled"), tiny.ROOT, 600
        )
        assert done.returncode == 0, done.stderr
