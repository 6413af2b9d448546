"""The log of JSON lines: every place that a kill may cut, a full disk, damaged lines, and one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.fftg.refine.earlier import EarlierLine
from data_pipeline.fftg.refine.journal import Journal
from data_pipeline.fftg.runner import open_annotations
from jax_vlffd import jsonl
from jax_vlffd.errors import UserError
from jax_vlffd.jsonl import JsonLog, read_lines
from launch.prediction import results
from tests.support.drawn_pairs import REPOSITORY

Line = dict[str, Any]
FED = {"size": 256}


class Kind(NamedTuple):
    """A log of the program: how it is opened and appended to, and the lines of an entry by its number."""

    open: Callable[[Path], JsonLog[Any, Any]]
    append: Callable[[Any, list[Line]], None]
    entry: Callable[[int, str], list[Line]]


def plainly(log: JsonLog[Any, Any], lines: list[Line]) -> None:
    log.append(*lines)


KINDS = {
    "annotations": Kind(
        open_annotations, plainly, lambda n, text: [{"id": f"a{n}", "caption": text, "key": str(n)}],
    ),
    "replies": Kind(
        Journal, plainly, lambda n, text: [{"key": f"k{n}", "turn": 1, "text": text, "cost_usd": 0.5}],
    ),
    "predictions": Kind(
        lambda path: results.open_predictions(path, "m", FED), results.append,
        lambda n, text: [
            {"path": text, "sha256": f"{n}", "face": face, "model": {"hash": "m"}, "preprocessing": FED}
            for face in range(n % 3 + 1)
        ],
    ),
}  # fmt: skip


def entries(path: Path) -> list[Line]:
    """What the file holds; every line of it must be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


@pytest.mark.parametrize("name", KINDS)
def test_a_kill_anywhere_loses_the_torn_entry_alone(name: str, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "log"
    texts = ["", "caf\u00e9 \u2028 \n\r\0 \U0001f600", '"}{', "\udc80 half"]
    ends = []
    with kind.open(path) as log:
        for number, text in enumerate(texts):
            kind.append(log, kind.entry(number, text))
            ends.append(path.stat().st_size)
        index = dict(log.index)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(cut >= end - 1 for end in ends)  # without its newline a line is whole
        with kind.open(path) as log:
            assert log.index == dict(list(index.items())[:kept])
            assert log.repaired == max(cut - (ends[kept - 1] if kept else 0), 0)
            assert path.read_bytes() == whole[: ends[kept - 1] if kept else 0]
            kind.append(log, kind.entry(9, "later"))
        with kind.open(path) as log:
            assert len(log.index) == kept + 1
            assert log.repaired == 0
        assert path.read_bytes().startswith(whole[: ends[kept - 1] if kept else 0])
        assert len(entries(path)) == sum(len(kind.entry(n, "")) for n in (*range(kept), 9))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_text_comes_back_through_any_kills(data: st.DataObject, tmp_path: Path) -> None:
    texts = st.text(st.characters(), max_size=12)  # half surrogate pairs among them
    name = data.draw(st.sampled_from(sorted(KINDS)))
    kind, path = KINDS[name], tmp_path / "log"
    path.unlink(missing_ok=True)
    said: list[list[Line]] = []
    for number in range(data.draw(st.integers(1, 6))):
        with kind.open(path) as log:
            said = said[: len(log.index)]
            kind.append(log, kind.entry(number, data.draw(texts)))
            said.append(kind.entry(number, ""))
        size = path.stat().st_size
        os.truncate(path, size - data.draw(st.integers(0, min(size, 60))))
    with kind.open(path) as log:
        assert len(log.index) in (len(said), len(said) - 1)
    names = ("sha256", "face", "id", "key")
    result = [{n: line[n] for n in names if n in line} for line in entries(path)]
    expected = [{n: line[n] for n in names if n in line} for lines in said for line in lines]
    assert result == expected[: len(result)]


def test_what_a_power_cut_leaves_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for tail in (b"\0" * 4096, b'\0\0{"id": "b"', b'{"id": "\xff'):
        path.write_bytes(b'{"id": "a"}\n' + tail)
        with open_annotations(path) as log:
            assert list(log.index) == ["a"]
            assert log.repaired == len(tail)
        assert path.read_bytes() == b'{"id": "a"}\n'


@pytest.mark.parametrize("text", [b"a picture, say", b'{"other": 1}', b"[1, 2]", b"\x89PNG\0"])
@pytest.mark.parametrize("name", KINDS)
def test_another_file_is_not_taken_for_a_torn_line(name: str, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(text)
    if name == "replies":  # passed over, and nothing of it is lost
        with KINDS[name].open(path) as log:
            KINDS[name].append(log, KINDS[name].entry(0, "x"))
        assert path.read_bytes().startswith(text + b"\n{")
        return
    with pytest.raises(UserError, match="line 1: "):
        KINDS[name].open(path)
    assert path.read_bytes() == text
    assert os.listdir(tmp_path) == ["log"]


#: Appends until the disk takes no more, sees that the entry is left out whole, and goes on when there is room.
_FULL = """
import resource, sys
from data_pipeline.fftg.refine.journal import Journal
from jax_vlffd.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
with Journal(sys.argv[1]) as journal:
    try:
        for number in range(99):
            journal.append({"key": f"k{number}", "turn": 0, "text": "x" * 100})
    except UserError as error:
        print(error)
    count = len(journal.index)
    assert 0 < count == number, number
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    journal.append({"key": "last", "turn": 0, "text": ""})
with Journal(sys.argv[1]) as journal:
    assert len(journal.index) == count + 1
    assert journal.repaired == 0
"""


def test_a_full_disk_ends_the_run_with_one_line_and_tears_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "log")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be written (File too large); run again to go on" in done.stdout
    entries(tmp_path / "log")


def test_a_line_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE", 100)
    path = tmp_path / "log"
    path.write_text('{"id": "a"}\n' + '{"id": "b", "caption": "' + "x" * 200)
    with pytest.raises(UserError, match="line 2: longer than 100 bytes"):
        read_lines(path)
    with pytest.raises(UserError, match="line 2: longer than 100 bytes"):
        open_annotations(path)


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for kind in KINDS.values():
        with kind.open(path), pytest.raises(UserError, match=r"out\.jsonl: another process"):
            kind.open(path)
    with open_annotations(path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl"]


def test_a_file_is_one_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "other.jsonl"
    link.symlink_to(path)
    with open_annotations(path) as log:
        log.append({"id": "a"})
        with pytest.raises(UserError, match="another process"):
            open_annotations(link)
    with open_annotations(link) as log:
        assert log.index == {"a": EarlierLine()}
        log.append({"id": "b"})
        log.append({"id": "a", "key": "new"})
    assert link.is_symlink()
    assert entries(path) == [{"id": "a", "key": "new"}, {"id": "b"}]


def test_a_damaged_line_inside_the_file_is_reported(tmp_path: Path) -> None:
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
from data_pipeline.fftg.refine.earlier import EarlierLine
from data_pipeline.fftg.runner import open_annotations
from jax_vlffd.errors import UserError
path, end, held = Path(sys.argv[1]), time.monotonic() + 3, 0
while time.monotonic() < end or not held:
    try:
        with open_annotations(path):
            os.close(os.open(f"{path}.held", os.O_CREAT | os.O_EXCL))
            held += 1
            os.unlink(f"{path}.held")
    except UserError:
        pass
print(held)
"""


@pytest.mark.slow
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
    with open_annotations(path) as log:
        log.append({"id": "a"})
        log.finish()
        assert read_lines(path) == [{"id": "a"}]
        with pytest.raises(UserError, match="another process"):
            open_annotations(path)
    path.write_text("nonsense\n")
    for _ in range(2):  # what cannot be read is not held
        with pytest.raises(UserError, match="line 1"):
            open_annotations(path)
