"""Graceful shutdown on SIGTERM, which is also how clouds and schedulers give notice, and on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from jax_vlffd.signals import read_by_thread
from jax_vlffd.training.processes import SingleProcess, end


class Preempted(Exception):
    """The run was asked to stop, and everything that a resume needs is saved."""


@contextlib.contextmanager
def stops_on_signals(peers: SingleProcess, grace: float) -> Iterator[None]:
    """A context in which SIGTERM or Ctrl-C asks all processes to stop.

    A second SIGTERM changes nothing; a second Ctrl-C ends this process at once, with status 130.

    Args:
      peers: of the run.
      grace: seconds after the first signal until this process ends, saved or not, since SIGKILL will follow.
    """
    timer: threading.Timer | None = None
    interrupts = 0

    def read(number: int) -> None:
        nonlocal timer, interrupts
        interrupts += number == signal.SIGINT
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        if timer is None:
            unsaved = (
                f"the run could not be saved within {grace:g} s of {name}; start it again, and it goes on "
                "from its last checkpoint"
            )
            timer = threading.Timer(grace, end, [unsaved])
            timer.daemon = True
            timer.start()
            again = "; Ctrl-C again ends the run at once" if interrupts else ""
            sys.stderr.write(f"{name}: saving and stopping, within {grace:g} s{again}\n")
            peers.request_stop(name)
        elif interrupts > 1:
            end("interrupted; start the run again, and it goes on from its last checkpoint", 130)

    # Python's own handlers would end the process.
    handlers = {number: lambda *_: None for number in (signal.SIGTERM, signal.SIGINT)}
    with read_by_thread(read, handlers):
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
