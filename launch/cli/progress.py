"""Progress on stderr: a bar on a terminal, elsewhere a plain line every ten seconds at most."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from jax_vlffd.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_LINES: Final = 10.0

T = TypeVar("T")


class Update(Protocol):
    """Shows the state of a work."""

    def __call__(self, done: int, total: int, state: str = "") -> None:
        """Shows that `done` of `total` items are done, and `state`, what else there is to say."""


@contextmanager
def progress(work: str) -> Iterator[Update]:
    """Shows how far a work is, from the first update on.

    Args:
      work: what is done, such as 'packing'.
    """
    from rich.console import Console

    console = Console(stderr=True)
    # Not `is_terminal` alone: FORCE_COLOR would draw bars into the log of a CI job.
    if sys.stderr.isatty() and console.is_interactive:
        with _bar(console, work) as update:
            yield update
    else:
        yield _lines(work)


def track(items: Iterable[T], work: str, total: int) -> Iterator[T]:
    """Passes items on and shows how many have been dealt with."""
    with progress(work) as update:
        update(0, total)
        for done, item in enumerate(items, 1):
            yield item
            update(done, total)


def note(text: str) -> None:
    """Writes a line to stderr that is not a result: a remark on the input, a step of the work."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def _bar(console: Console, work: str) -> Iterator[Update]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[state]}", markup=False),
        rich.TimeRemainingColumn(),
    )
    # Lines on stdout would tear the bar, but those for a file must not be taken to the terminal.
    bar = rich.Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty())
    task = bar.add_task(work, total=None, state="")

    def update(done: int, total: int, state: str = "") -> None:
        bar.update(task, completed=done, total=total, state=printable(state))
        bar.start()  # not before: another work may come first, with a bar of its own

    try:
        yield update
    finally:
        bar.stop()


def _lines(work: str) -> Update:
    started = said = time.monotonic()

    def update(done: int, total: int, state: str = "") -> None:
        nonlocal said
        now = time.monotonic()
        if done and now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            left = (now - started) / done * (total - done)
            note(f"{work}: {done} of {total}{state and ', '}{state}, {left:.0f} s left")

    return update
