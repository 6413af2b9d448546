"""Progress on stderr: a bar on a terminal, otherwise a plain line at most every ten seconds."""

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
    """Shows the state of a progress display."""

    def __call__(self, done: int, total: int, state: str = "") -> None:
        """Shows that `done` of `total` items are done, and `state` as further text."""


@contextmanager
def progress(label: str) -> Iterator[Update]:
    """Shows progress from the first update on.

    Args:
      label: the activity, such as 'packing'.
    """
    from rich.console import Console

    console = Console(stderr=True)
    # `is_terminal` alone is not enough: FORCE_COLOR would draw bars in the log of a CI job.
    if sys.stderr.isatty() and console.is_interactive:
        with _bar(console, label) as update:
            yield update
    else:
        yield _lines(label)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yields the items and shows how many have been processed."""
    with progress(label) as update:
        update(0, total)
        for done, item in enumerate(items, 1):
            yield item
            update(done, total)


def note(text: str) -> None:
    """Prints a line to stderr that is not a result: a remark on the input, a step of the run."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def _bar(console: Console, label: str) -> Iterator[Update]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[state]}", markup=False),
        rich.TimeRemainingColumn(),
    )
    # Lines on a terminal's stdout are printed above the bar; those for a file must not be redirected.
    bar = rich.Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty())
    task = bar.add_task(label, total=None, state="")

    def update(done: int, total: int, state: str = "") -> None:
        bar.update(task, completed=done, total=total, state=printable(state))
        bar.start()  # not earlier: another activity may run first, with its own bar

    try:
        yield update
    finally:
        bar.stop()


def _lines(label: str) -> Update:
    # From the first update on: another activity may run before, and a resumed one begins with what is done.
    begun: tuple[float, int] | None = None
    printed = 0.0

    def update(done: int, total: int, state: str = "") -> None:
        nonlocal begun, printed
        now = time.monotonic()
        if begun is None:
            begun, printed = (now, done), now
        started, before = begun
        if done > before and now - printed >= _SECONDS_BETWEEN_LINES:
            printed = now
            left = (now - started) / (done - before) * (total - done)
            note(f"{label}: {done} of {total}{state and ', '}{state}, {left:.0f} s left")

    return update
