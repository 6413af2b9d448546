"""Progress, notes and tables: on a real terminal (a pseudo-terminal) and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import progress
from tests.support import tiny

#: A name that tries markup, an escape and a line of its own.
HOSTILE = "[red]a[/red]\x1b[2Jb\n:smile:"
PROGRESS = f"""
from launch.cli.progress import note, progress, track
with progress("packing") as update:
    for _ in track(range(3), "comparing", 3):
        pass
    for done in range(1, 4):
        update(done, 3, {HOSTILE!r})
        print("result", done)
    note("note: " + {HOSTILE!r})
"""
TABLE = f"""
from launch.cli import table
table.show([["1", {HOSTILE!r}, "x" * 300], ["2", "b", ""]], ["rank", "changed", "why"], "title")
"""


def on_terminal(code: str, stdout: int | None = None) -> str:
    """The output of a program on a terminal of 80 columns: its stderr, and its stdout unless given."""
    reader, terminal = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stderr=terminal,
        stdout=terminal if stdout is None else stdout,
        env=tiny.environment() | {"TERM": "xterm-256color", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(reader, 1 << 16):
            shown += piece
    except OSError:  # raised by Linux once the other end is closed
        pass
    os.close(reader)
    assert done.wait(60) == 0, shown
    return shown.decode()


def piped(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=tiny.environment() | {"FORCE_COLOR": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_a_terminal_shows_a_bar_with_complete_results_above_it() -> None:
    shown = on_terminal(PROGRESS)
    assert re.search("packing.*3/3", shown)
    assert re.search("comparing.*3/3", shown)
    for number in (1, 2, 3):
        assert f"result {number}" in shown
    assert "\x1b[2Jb" not in shown
    assert "[red]a[/red]" in shown
    assert ":smile:" in shown


def test_results_for_a_file_do_not_go_to_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as file:
        shown = on_terminal(PROGRESS, file.fileno())
    assert (tmp_path / "out.txt").read_text() == "result 1\nresult 2\nresult 3\n"
    assert "result" not in shown


def test_a_pipe_has_no_bar() -> None:
    done = piped(PROGRESS)
    assert done.stdout == "result 1\nresult 2\nresult 3\n"
    assert done.stderr == "note: [red]a[/red]\ufffd[2Jb\ufffd:smile:\n"


def test_a_long_run_prints_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.progress("packing") as update:
        for done in range(8):
            update(done, 8, "1 failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "packing: 3 of 8, 1 failed, 20 s left",
        "packing: 6 of 8, 1 failed, 8 s left",
    ]


def test_the_time_left_counts_only_what_was_done_since_the_first_update(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress("packing") as update:
        now = 600.0  # another activity
        update(90, 120)  # done by an earlier run
        now = 620.0
        update(100, 120)
    assert capsys.readouterr().err == "packing: 100 of 120, 40 s left\n"


def test_a_table_in_a_pipe_is_plain_without_line_breaks() -> None:
    title, header, first, second = piped(TABLE).stdout.splitlines()
    assert title == "title"
    assert header.split() == ["rank", "changed", "why"]
    assert first.split() == ["1", "[red]a[/red]\ufffd[2Jb\ufffd:smile:", "x" * 300]
    assert second == "2     b"


def test_a_table_on_a_terminal_fits_it_and_loses_nothing() -> None:
    shown = on_terminal(TABLE)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert shown.count("x") == 300
    assert "\x1b[2J" not in shown


LATE_WRITE = """
import asyncio
from etils import epath
from launch.cli import command
from orbax.checkpoint._src.path import async_path

async def abandon(write):
    write.send(None)
    write.close()
    await asyncio.sleep(0.2)

def main(argv):
    asyncio.run(abandon(async_path.write_text(epath.Path("/proc/missing"), "")))
    print("saved")

command.run(main)
"""


def test_what_fails_of_an_abandoned_save_is_not_reported_beside_its_error() -> None:
    done = piped(LATE_WRITE)
    assert (done.stdout, done.stderr) == ("saved\n", "")


RESULTS = f"""
from launch.cli import streams
streams.guard()
print("wrote", {HOSTILE!r}, "\\ta  table")
"""


def test_no_result_reaches_a_terminal_with_its_control_characters() -> None:
    """Such as that of a flag's path."""
    assert (
        piped(RESULTS).stdout
        == "wrote [red]a[/red]\N{REPLACEMENT CHARACTER}[2Jb\n:smile: \ta  table\n"
    )
    assert "\x1b[2J" not in on_terminal(RESULTS)
