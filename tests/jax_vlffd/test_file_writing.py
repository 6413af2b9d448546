"""Files that are written whole or not at all: killed writers, several writers, what is in the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_vlffd import file_writing as files

CONTEXT = multiprocessing.get_context("forkserver")
FILES = {"a.json": b"a" * 70_000, "b.json": b"b" * 70_000}


def left(folder: Path) -> list[str]:
    """The names of what writers have left."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".new."))


def one(folder: Path, content: bytes = b"c" * 70_000) -> None:
    files.atomic_write_bytes(folder / "a.json", content)


def together(folder: Path) -> None:
    files.write_together(folder, FILES)


def killed(call: str, write: Callable[[Path], None], folder: Path) -> None:
    """Writes in a process that is killed when it makes that call of the system."""
    process = CONTEXT.Process(target=_killed, args=(call, write, folder))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def _killed(call: str, write: Callable[[Path], None], folder: Path) -> None:
    setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    write(folder)


@pytest.mark.parametrize("write", [one, together])
@pytest.mark.parametrize("call", ["fsync", "fchmod", "replace"])
def test_what_a_killed_writer_left_goes_with_the_next_writing(
    call: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    for _ in range(2):
        killed(call, write, tmp_path)
    assert len(left(tmp_path)) <= 2  # not more with each
    assert not (tmp_path / "a.json").exists()
    write(tmp_path)
    assert not left(tmp_path)
    assert set((tmp_path / "a.json").read_bytes()) in ({ord("a")}, {ord("c")})


def _write_often(folder: Path, letter: bytes) -> None:
    for _ in range(30):
        one(folder, letter * 5000)


def test_several_writers_of_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    writers = [CONTEXT.Process(target=_write_often, args=(tmp_path, bytes([n]))) for n in b"abcd"]
    for process in writers:
        process.start()
    seen = set()
    while any(process.is_alive() for process in writers):
        if (tmp_path / "a.json").exists():
            content = (tmp_path / "a.json").read_bytes()
            seen.add((len(content), len(set(content))))
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0] * 4
    assert seen <= {(5000, 1)}
    assert not left(tmp_path)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "file"])
def test_what_is_in_the_way_is_not_written_to(kind: str, tmp_path: Path) -> None:
    folder, secret = tmp_path / "out", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(b"secret")
    killed("fsync", one, folder)
    (name,) = left(folder)
    (folder / name).unlink()
    put: dict[str, Callable[[Path], object]] = {
        "link": lambda path: path.symlink_to(secret),
        "hard link": lambda path: path.hardlink_to(secret),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "file": lambda path: path.write_bytes(b"half"),
    }
    put[kind](folder / name)
    one(folder, b"whole")
    assert (folder / "a.json").read_bytes() == b"whole"
    assert secret.read_bytes() == b"secret"
    assert len(left(folder)) == (kind in ("link", "folder"))  # which no writer has made


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe"])
def test_no_device_or_pipe_is_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    place = tmp_path / "pipe" if kind.startswith("link") else path
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place))
    else:
        os.mkfifo(place)
    if place != path:
        path.symlink_to(place)
    for write in (one, together):
        with pytest.raises(files.UserError, match=r"a\.json is not a regular file; name another"):
            write(tmp_path)
    assert path.exists()
    assert not path.is_file()
    assert not left(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(tmp_path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.UserError, match=r"a\.json cannot be written \(No space left"):
        one(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"
