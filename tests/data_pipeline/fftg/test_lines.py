"""The file of lines: one writer, a full disk, damaged lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.fftg.lines import LineWriter, read_lines
from jax_vlffd.errors import UserError
from tests.support.drawn_pairs import REPOSITORY


def test_a_full_disk_ends_the_run_with_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    writer = LineWriter.__new__(LineWriter)
    writer.keys, writer._stale, writer._path = {}, False, Path("/dev/full")
    with (
        open("/dev/full", "wb", buffering=0) as writer._file,
        pytest.raises(UserError, match="No space"),
    ):
        writer.write({"id": "a"})


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with LineWriter(path), pytest.raises(UserError, match="another process"):
        LineWriter(path)
    with LineWriter(path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl"]


def test_a_file_is_one_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "other.jsonl"
    link.symlink_to(path)
    with LineWriter(path) as writer:
        writer.write({"id": "a"})
        with pytest.raises(UserError, match="another process"):
            LineWriter(link)
    with LineWriter(link) as writer:
        assert writer.keys == {"a": ""}
        writer.write({"id": "b"})
    assert link.is_symlink()
    assert len(path.read_text().splitlines()) == 2


def test_a_damaged_line_inside_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": "a"}\nnonsense\n{"id": "b"}\n')
    with pytest.raises(UserError, match="line 2"):
        read_lines(path)
    path.write_text('{"id": "a", "n": 1}\n{"id": "a", "n": 2}\n{"id": "b"')
    assert read_lines(path) == [{"id": "a", "n": 2}]


#: Holds the file for a moment, again and again; says so if another holds it too.
_WRITE = """
import os, sys, time
from pathlib import Path
from data_pipeline.fftg.lines import LineWriter
from jax_vlffd.errors import UserError
path, end, held = Path(sys.argv[1]), time.monotonic() + 3, 0
while time.monotonic() < end:
    try:
        with LineWriter(path):
            os.close(os.open(f"{path}.held", os.O_CREAT | os.O_EXCL))
            held += 1
            os.unlink(f"{path}.held")
    except UserError:
        pass
print(held)
"""


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITE, str(tmp_path / "out.jsonl")]
    started = [
        subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in started:
        held, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert int(held) > 0
    assert not list(tmp_path.glob(".*"))


def test_a_file_is_held_until_its_writer_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with LineWriter(path) as writer:
        writer.write({"id": "a"})
        writer.finish()
        assert read_lines(path) == [{"id": "a"}]
        with pytest.raises(UserError, match="another process"):
            LineWriter(path)
    path.write_text("nonsense\n")
    for _ in range(2):  # what cannot be read is not held
        with pytest.raises(UserError, match="line 1"):
            LineWriter(path)
