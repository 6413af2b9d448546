"""Graceful shutdown on SIGTERM, which is also how clouds and schedulers give notice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from jax_vlffd.training.processes import SingleProcess, end


class Stopped(Exception):
    """The run was asked to stop, and everything that a resume needs is saved."""


@contextlib.contextmanager
def stops_on_sigterm(peers: SingleProcess, grace: float) -> Iterator[None]:
    """A context in which SIGTERM asks all processes to stop; a second one changes nothing.

    A separate thread reads the signal, so that it works while the main thread waits for a compiler or a device.

    Args:
      peers: of the run.
      grace: seconds after the first SIGTERM until this process ends, saved or not, since SIGKILL will follow.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    reader, wakeup_socket = socket.socketpair()
    wakeup_socket.setblocking(False)
    timer = threading.Timer(grace, end, [
        f"the run could not be saved within {grace:g} s of SIGTERM; start it again, and it goes on from its "
        "last checkpoint"
    ])  # fmt: skip
    timer.daemon = True

    def listen() -> None:
        stopping = False
        with reader:
            while numbers := reader.recv(16):
                if signal.SIGTERM in numbers and not stopping:
                    stopping = True
                    timer.start()
                    sys.stderr.write(f"SIGTERM: saving and stopping, within {grace:g} s\n")
                    peers.request_stop("SIGTERM")

    # The handler only replaces the default one, which ends the process.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(wakeup_socket.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        timer.cancel()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(OSError):
            os.close(wakeup_socket.detach())
