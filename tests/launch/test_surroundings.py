"""Every command in bad surroundings: what is in the way of its output, full disks, readers that go, ASCII."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import commands, processes, tiny
from tests.support.commands import OUTPUTS, Kit

#: Those that take over five seconds of a core.
SLOW = {"calibrate_fftg", "demo", "sweep", "train", "export", "score_reasons", "compile"}
#: Those that run others, all of which are here, or measure for minutes.
LONG = {"bench", "demo", "calibrate_fftg"}
WORKING = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in sorted(OUTPUTS.keys() - LONG)
]


def run(
    name: str, arguments: list[str], cwd: Path, prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return processes.run(
        f"launch.{name}", arguments, tiny.environment(), cwd, timeout=600, prepare=prepare
    )


def one_line(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The error of a command that prints one line and nothing more."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(lines)) == (status, 1), done.stderr + done.stdout
    return lines[0]


def test_no_command_is_left_out() -> None:
    files = (tiny.ROOT / "launch").glob("*.py")
    assert {path.stem for path in files if "command.run(" in path.read_text()} == OUTPUTS.keys()


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize(
    "place", ["in the way", "a pipe", "below a file", "a bucket", "a link below a file"]
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    name: str, place: str, tmp_path: Path
) -> None:
    flag, kind, others = OUTPUTS[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file/x")
    os.mkfifo(tmp_path / "pipe")
    path = {
        "in the way": str(tmp_path / ("folder" if kind == "file" else "file")),
        "a pipe": str(tmp_path / "pipe"),
        "below a file": str(tmp_path / "file/a/b"),
        "a bucket": "s3://bucket/x" if name == "train" else "gs://bucket/x",
        "a link below a file": str(tmp_path / "link/a"),
    }[place]
    before = sorted(tmp_path.rglob("*"))
    done = run(name, [f"--{flag}={path}", *others], tiny.ROOT)
    assert path in one_line(done)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tiny.ROOT / "gs:").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("annotate", ["--pairs=in/a", "--out=in/a"]),
        ("annotate", ["--pairs=in/a", "--out=o", "--review=in/a"]),
        ("annotate", ["--pairs=in/a", "--out=o", "--masks=in"]),
        ("calibrate_fftg", ["--faces=in", "--heldout=in", "--videos=in/a", "--report=in/a"]),
        ("convert", ["--from=fftg", "--annotations=in/a", "--out=link"]),
        ("convert", ["--from=ddvqa", "--annotations=in/a", "--pairs=in/b", "--out=in/b"]),
        ("evaluate", ["--from_scores=x=in/a", "--out=in"]),
        ("evaluate", ["--from_scores=in/a", "--calibration=in/b", "--out=in/../in"]),
        ("export", ["--workdir=in/w", "--out=in"]),
        ("pack", ["--annotations=in/a", "--out=in", "--overwrite"]),
        ("predict", ["--checkpoint=in/w", "--list=in/a", "--out=in/a"]),
        ("predict", ["--checkpoint=in/w", "--html=in/a", "in/a"]),
        ("predict", ["--checkpoint=in/w", "--out=link", "in/a"]),
        ("prepare", ["--dataset=folder", "--root=in/w", "--out=in"]),
        ("score_annotations", ["--annotations=in/a", "--out=in/a"]),
        ("score_annotations", ["--annotations=in/b", "--truth=in/a", "--out=link"]),
    ],
)
def test_an_output_that_is_or_holds_an_input_is_refused(
    name: str, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in/w").mkdir(parents=True)
    for letter in "ab":
        (tmp_path / "in" / letter).write_text("mine")
    (tmp_path / "link").symlink_to("in/a")
    before = sorted(tmp_path.rglob("*"))
    error = one_line(run(name, arguments, tmp_path))
    assert " is in" in error or " holds in" in error or "already" in error, error
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "in/a").read_text() == "mine"


def lines_are_whole(out: Path) -> bool:
    """Whether every log of JSON lines below has whole lines alone."""
    for log in out.rglob("*.jsonl"):
        text = log.read_text()
        if text and not text.endswith("\n"):
            return False
        for line in text.splitlines():
            json.loads(line)
    return True


@pytest.mark.parametrize("name", WORKING)
def test_a_full_disk_is_one_line_that_names_a_file_and_leaves_no_half(
    name: str, kit: Kit, tmp_path: Path
) -> None:
    if name in ("prepare", "predict"):
        pytest.importorskip("dlib")
    done = run(name, kit.arguments(name, tmp_path), tiny.ROOT, commands.small_disk)
    error = one_line(done)
    assert "/" in error, error
    assert "cannot be written" in error or "too large" in error, error
    assert lines_are_whole(tmp_path)
    unfinished = [path for path in tmp_path.rglob(".*") if path.suffix != ".lock"]
    assert not [path for path in unfinished if path.name != ".prepared"], unfinished


@pytest.mark.parametrize("name", WORKING)
def test_a_reader_that_has_gone_and_no_stderr_end_no_work(
    name: str, kit: Kit, tmp_path: Path
) -> None:
    if name == "prepare":
        pytest.importorskip("dlib")
    done = run(name, kit.arguments(name, tmp_path), tiny.ROOT, commands.nobody_reads)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_closed_streams_are_no_error_from_the_first_import_on(kit: Kit, tmp_path: Path) -> None:
    arguments = shlex.join([f"--config={kit.recipe}", f"--workdir={tmp_path / 'sweep'}", "--list"])
    command = f"exec {shlex.quote(sys.executable)} -m launch.sweep {arguments} 0<&- 1>&- 2>&-"
    done = subprocess.run(
        ["sh", "-c", command], env=tiny.environment(), cwd=tiny.ROOT, timeout=600, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["annotate", "evaluate", "pack", "predict"])
def test_letters_that_a_terminal_cannot_show_are_written_as_escapes(
    name: str, kit: Kit, tmp_path: Path
) -> None:
    out = tmp_path / commands.FOLDER
    done = run(name, kit.arguments(name, out), tiny.ROOT, commands.ascii_only)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "Traceback" not in done.stderr
    if name != "annotate":
        assert r"gr\xf6\xdfe" in done.stdout


def test_a_reader_that_has_gone_ends_what_writes_no_file(kit: Kit, tmp_path: Path) -> None:
    picture = next(path for path in kit.arguments("predict", tmp_path) if path.endswith(".png"))
    arguments = [f"--checkpoint={kit.workdir}", "--crops", picture]
    done = run("predict", arguments, tiny.ROOT, commands.nobody_reads)
    assert (done.returncode, done.stdout) == (141, "")
