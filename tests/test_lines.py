"""The file of lines: one writer, a full disk, damaged lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.fftg.lines import LineWriter, read_lines


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


def test_a_damaged_line_inside_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": "a"}\nnonsense\n{"id": "b"}\n')
    with pytest.raises(UserError, match="line 2"):
        read_lines(path)
    path.write_text('{"id": "a", "n": 1}\n{"id": "a", "n": 2}\n{"id": "b"')
    assert read_lines(path) == [{"id": "a", "n": 2}]
