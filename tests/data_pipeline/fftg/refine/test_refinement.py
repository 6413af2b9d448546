"""`launch.annotate` with a model: dry run, batch, online, and interruptions."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from tests.support import tiny
from tests.support.drawn_pairs import make_pairs, write_table
from tests.support.faulty_server import Call, FaultyServer
from tests.support.refining import REPOSITORY, SECRET, answer_batch, read

pytestmark = pytest.mark.usefixtures("openai_key")


def test_the_command(tmp_path: Path, shared_dir: Path) -> None:
    """`launch.annotate` from images to refined lines, in every mode."""
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    source = shared_dir / "data" / "edited_faces"
    rows = (source / "pairs.csv").read_text().splitlines()[:4]
    for row in rows[1:]:
        for name in row.split(",")[:2]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, tmp_path / name)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out.jsonl"

    def annotate(*flags: str) -> subprocess.CompletedProcess[str]:
        key = {"OPENAI_API_KEY": SECRET}
        done = tiny.command(
            "launch.annotate", f"--pairs={tmp_path / 'pairs.csv'}", f"--out={out}", "--workers=1",
            *flags, env=tiny.environment() | key,
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr
        return done

    with FaultyServer() as server:
        model = ("--model=test-model", f"--base_url={server.url}")
        dry = annotate(*model, "--dry_run")
        assert dry.returncode == 0, dry.stderr
        assert server.calls == []
        assert len(list((tmp_path / "out.jsonl.dry_run").iterdir())) == 9
        export = annotate(*model, "--mode=batch-export", f"--batch={tmp_path / 'ask.jsonl'}")
        assert export.returncode == 0, export.stderr
        answer_batch([tmp_path / "ask.jsonl"], tmp_path / "answers.jsonl", skip=0)
        answers = f"--batch={tmp_path / 'answers.jsonl'}"
        back = annotate(*model, "--mode=batch-import", answers)
        assert "refined 2, fallback 1" in back.stdout, back.stderr
        online = annotate(*model, f"--review={tmp_path / 'review.html'}")
        assert online.returncode == 0, online.stderr
        assert "requests 1," in online.stdout
        assert len(server.calls) == 1
    assert {line["source"] for line in read(out)} == {"refined"}
    assert (tmp_path / "review.html").read_text().count("<article ") == 3
    for wrong in (
        ("--mode=batch-import",), (*model, "--batch=x"), (*model, "--rpm=0"), ("--price_in=1", *model),
    ):  # fmt: skip
        failed = annotate(*wrong)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1


def command(table: Path, out: Path, *flags: str) -> list[str]:
    start = [sys.executable, "-m", "launch.annotate", f"--pairs={table}", f"--out={out}"]
    return [*start, "--workers=1", *flags]


def started(table: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(table, out, *flags),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_waiting_refinement_locks_its_output(tmp_path: Path) -> None:
    """Refinement writes all lines at its end: until then no other process may add one."""
    out = tmp_path / "out.jsonl"
    first, second = make_pairs(tmp_path / "a", 2), make_pairs(tmp_path / "b", 3)
    rows = [
        {"id": f"b{number}", "real": f"real/{number}.png", "fake": f"fake/{number}.png"}
        for number in range(3)
    ]
    write_table(second, rows)
    gate = threading.Event()

    def behave(call: Call) -> str:
        gate.wait(60)
        return "good"

    with FaultyServer(behave) as server:
        process = started(first, out, "--model=test-model", f"--base_url={server.url}")
        wait_for(lambda: server.calls or process.poll() is not None)
        while_waiting = subprocess.run(
            command(second, out), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        gate.set()
        said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "refined 2" in said
    assert while_waiting.returncode == 1
    assert re.fullmatch(r"error: .*out\.jsonl: another process .*\n", while_waiting.stderr)
    subprocess.run(command(second, out), cwd=REPOSITORY, check=True, capture_output=True)
    sources = {line["id"]: line["source"] for line in read(out)}
    assert sources == {
        **{f"fake/{number}": "refined" for number in range(2)},
        **{f"b{number}": "raw" for number in range(3)},
    }
    assert not list(tmp_path.glob(".*"))


#: Flags, what the server does, and how many requests may go out before the signal; None for any number.
PAUSES: dict[str, tuple[list[str], str, int | None]] = {
    "pace": (["--rpm=1"], "good", 1),
    "tokens": (["--tpm=100"], "good", 1),
    "retry after": ([], "pause", 4),
    "a false count": (["--tpm=60000", "--concurrency=1"], "lying", None),
    "back-off": ([], "server_error", None),
}


#: Each pause is tested with one of the two; the campaign has every combination.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pause", "number"),
    [
        pytest.param(pause, SIGNALS[n], marks=[pytest.mark.campaign] * (index % 2 != n))
        for index, pause in enumerate(PAUSES)
        for n in (0, 1)
    ],
)
def test_a_signal_ends_the_command_while_it_waits(
    tmp_path: Path, pause: str, number: signal.Signals
) -> None:
    table, out = make_pairs(tmp_path, 4), tmp_path / "out.jsonl"
    flags, does, most = PAUSES[pause]
    with FaultyServer(lambda call: does) as server:
        process = started(
            table, out, "--model=test-model", f"--base_url={server.url}", "--retries=50", *flags
        )
        wait_for(lambda: server.calls or process.poll() is not None)
        time.sleep(1.5)  # the others wait by now
        assert process.poll() is None
        before = len(server.calls)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        calls = len(server.calls)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in error
    assert calls <= before + 4  # those in flight: at most one per pair
    assert most is None or calls <= most
    assert {line["source"] for line in read(out)} == {"raw"}
    assert not list(tmp_path.glob(".*"))


def test_a_request_without_an_answer_does_not_hold_the_command_for_long(tmp_path: Path) -> None:
    table, out = make_pairs(tmp_path, 2), tmp_path / "out.jsonl"
    with FaultyServer(lambda call: "hang" if call.number else "slow") as server:
        process = started(table, out, "--model=test-model", f"--base_url={server.url}")
        wait_for(lambda: len(server.calls) == 2 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert not any(call.done.is_set() for call in server.calls if call.behavior == "hang")
    assert process.returncode == 130
    journal = out.with_name("out.jsonl.replies.jsonl")
    assert len(read(journal)) == 1  # the reply that came in time
