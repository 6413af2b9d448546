"""Ctrl-C and SIGTERM end a command within seconds, wherever it is, with the commands that it started."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Final, NoReturn

from jax_vlffd.signals import read_by_thread
from launch.cli.progress import note

#: Seconds that a command has to clean up.
_PATIENCE: Final = 3.0
#: Environment variable with the process that a command ends with.
_PARENT: Final = "JAX_VLFFD_PARENT"

_MESSAGES: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class Interrupted(KeyboardInterrupt):
    """The signal that a command ends by."""


class _State:
    """What the signals have done so far."""

    number = 0  # of the first one
    read = 0  # by the thread
    patience = _PATIENCE
    raised = False
    ending = threading.Lock()


@contextlib.contextmanager
def ends_on_signals() -> Iterator[None]:
    """A context in which Ctrl-C or SIGTERM raises `Interrupted`, and ends the process where that does not."""
    parent = os.environ.pop(_PARENT, "")
    if parent:
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    _State.number, _State.read, _State.raised, _State.patience = 0, 0, False, _PATIENCE

    def raise_once(number: int, _: object) -> None:
        _State.number = _State.number or number  # whichever thread is first
        if not _State.raised:  # not again in what cleans up
            _State.raised = True
            raise Interrupted(number)

    def read(number: int) -> None:
        _State.number = _State.number or number
        _State.read += 1
        if _State.read == 1:
            if math.isfinite(_State.patience):
                timer = threading.Timer(_State.patience, _end_here)
                timer.daemon = True
                timer.start()
        elif number == signal.SIGINT:
            _end_here()

    with read_by_thread(read, {number: raise_once for number in _MESSAGES}):
        yield


def is_interrupted() -> bool:
    """Whether a signal has asked this command to end."""
    return bool(_State.number)


def message() -> str:
    """Why the command ends."""
    return _MESSAGES[signal.Signals(_State.number or signal.SIGINT)]


def status() -> int:
    """The exit status: 130 by Ctrl-C, 143 by SIGTERM."""
    return 128 + (_State.number or signal.SIGINT)


def end() -> NoReturn:
    """Ends the process, after what was to clean up; the exit of the interpreter might wait for threads."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    _end_here()


def _end_here() -> NoReturn:
    _State.ending.acquire()  # never released: one of two threads ends the process
    for process in multiprocessing.active_children():
        process.kill()
    text = f"error: {message()}\n".encode()
    # Another thread may hold the stream, or nobody read it.
    writer = threading.Thread(target=os.write, args=(2, text), daemon=True)
    writer.start()
    writer.join(0.5)
    os._exit(status())


def call(arguments: Sequence[str], output: IO[bytes] | None = None) -> int:
    """Runs `python -m ARGUMENTS` and returns its exit status.

    It ends with this process, however that ends. Ctrl-C and SIGTERM end it first: training may save.

    Args:
      arguments: the module and its arguments.
      output: for what it prints; else it has the streams of this process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        env=os.environ | {_PARENT: str(os.getpid())},
    )  # fmt: skip
    _State.patience = math.inf
    try:
        # Not `wait`: a signal that another thread receives would not interrupt it.
        while (code := process.poll()) is None:
            time.sleep(0.1)
        return code
    except BaseException:
        process.terminate()
        if output is not None and process.poll() is None:
            note(f"{message()}: {arguments[0]} is ending; training saves first")
        process.wait()
        raise
    finally:
        _State.patience = _PATIENCE


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
