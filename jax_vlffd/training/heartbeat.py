"""A run's heartbeat file, the warning when it stalls, and the lock on its workdir."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import read_json
from jax_vlffd.training.preemption import Preempted

if TYPE_CHECKING:
    from etils import epath

HEARTBEAT, LOCK = "heartbeat.json", "lock"
#: Seconds between two writes of the heartbeat.
BEAT = 10.0
#: Values of `doing` after a run has ended; with any other value it is alive, or was killed.
ENDED = ("finished", "stopped", "failed")


class Heartbeat:
    """Updates `heartbeat.json` and warns when a run stalls, both in a thread of its own.

    The file holds `host`, `pid`, `step`, `total`, `doing`, `since` (seconds since the last progress) and
    `time` (Unix). Every process warns; only process 0 writes.

    Args:
      workdir: of the run; None writes no file.
      total: the last step.
      stall: seconds without progress until the warning; 0 never warns.
      every: seconds between two writes.
    """

    def __init__(
        self, workdir: Path | epath.Path | None, *, total: int, stall: float, every: float = BEAT
    ):
        self._path = None if workdir is None else workdir / HEARTBEAT
        self._total, self._stall, self._every = total, stall, every
        self._step, self._doing, self._last_progress = 0, "starting", time.monotonic()
        self._warned = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        stopped = kind is not None and issubclass(kind, Preempted)
        self._doing = "finished" if kind is None else "stopped" if stopped else "failed"
        self._write()

    def beat(self, doing: str, step: int | None = None) -> None:
        """Records progress: what the run does from now on, and its step."""
        self._doing, self._last_progress = doing, time.monotonic()
        self._step = self._step if step is None else step
        if self._warned:
            self._warned = False
            sys.stderr.write(f"step {self._step}/{self._total}  continues\n")

    def _run(self) -> None:
        while not self._done.wait(min(self._every, self._stall or self._every)):
            self._write()
            idle = time.monotonic() - self._last_progress
            if self._stall and idle > self._stall and not self._warned:
                self._warned = True
                sys.stderr.write(
                    f"warning: nothing has moved for {idle:.0f} s at step {self._step}/{self._total} "
                    f"({self._doing}); see docs/operations.md\n"
                )

    def _write(self) -> None:
        if self._path is None:
            return
        content = {
            "host": socket.gethostname(), "pid": os.getpid(), "step": self._step, "total": self._total,
            "doing": self._doing, "since": round(time.monotonic() - self._last_progress, 1),
            "time": time.time(),
        }  # fmt: skip
        # Failing storage is reported by the saves to it, not by the heartbeat; a bucket's client raises errors
        # of its own.
        with contextlib.suppress(Exception):
            replace_text(self._path, json.dumps(content) + "\n")


def replace_text(path: Path | epath.Path, text: str) -> None:
    """Replaces a file atomically: by a rename on disk; an object of a bucket is atomic by itself."""
    if isinstance(path, Path):
        atomic_write_text(path, text)
    else:
        path.write_text(text, "utf-8")


@contextlib.contextmanager
def lock(workdir: Path | epath.Path, *, patience: float = 2.5 * BEAT) -> Iterator[None]:
    """Holds a workdir for one run.

    On one machine, and on shared storage whose locks work, the operating system's lock decides, which is
    released however its process ends. The heartbeat of a run on another host is checked too: while it changes,
    the workdir is taken. In a bucket, which has no locks, only the heartbeat decides.

    Args:
      workdir: made when missing.
      patience: seconds for which another host's heartbeat is watched.

    Raises:
      UserError: another run uses the workdir.
    """
    if not isinstance(workdir, Path):
        _check_other_host(workdir, patience)
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    file = _try_lock(path)
    if file is None:
        beat = _read(workdir)
        holder = f"{beat['host']}, pid {beat['pid']}" if beat else "another process"
        raise UserError(
            f"{workdir}: another run is in it ({holder}); end that one, or use another --workdir"
        )
    try:
        _check_other_host(workdir, patience)
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _try_lock(path: Path) -> TextIO | None:
    """The lock file, locked until it is closed; None if another process holds the lock."""
    import fcntl  # not on Windows, where JAX trains on nothing either

    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                return None
            return file  # storage without locks: only the heartbeat decides
        # Its holder removes the file at the end; a lock on a removed file excludes nobody.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _check_other_host(workdir: Path | epath.Path, patience: float) -> None:
    first = _read(workdir)
    if first is None or first["doing"] in ENDED:
        return
    if isinstance(workdir, Path) and first["host"] == socket.gethostname():
        return  # the lock has decided
    sys.stderr.write(
        f"{workdir} was left by a run on {first['host']}; waiting {patience:.0f} s to see that it has ended\n"
    )
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(min(1.0, patience / 5))
        now = _read(workdir)
        if now is not None and now["time"] != first["time"]:
            if now["doing"] in ENDED:
                return
            raise UserError(
                f"{workdir}: another run is in it ({first['host']}, pid {first['pid']}); end that one, or "
                "use another --workdir"
            )


def _read(workdir: Path | epath.Path) -> dict[str, Any] | None:
    path = workdir / HEARTBEAT
    try:
        content = read_json(path) if isinstance(path, Path) else json.loads(path.read_text("utf-8"))
        return {name: content[name] for name in ("host", "pid", "doing", "time")}
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
