"""Signals read by a thread of their own: they work while the main thread waits for a compiler or a device."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def read_by_thread(
    read: Callable[[int], None], handlers: Mapping[signal.Signals, Handler]
) -> Iterator[None]:
    """A context in which a thread is given each of these signals. Contexts may be nested; the inner one holds.

    Args:
      read: called with the number, at once and in the thread.
      handlers: by signal, called by Python in the main thread, as soon as that runs Python code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        with reader:
            while numbers := reader.recv(16):
                for number in numbers:
                    if number in handlers:
                        read(number)

    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            writer.shutdown(socket.SHUT_RDWR)
            writer.close()
