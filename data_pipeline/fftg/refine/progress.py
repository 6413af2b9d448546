"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from rich import progress as rich_progress
from rich.console import Console

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows done, failed, violations, spend and time left, on stderr.

    Args:
      total: how many there are to do.
      priced: whether the spend is known.
    """

    def __init__(self, total: int, priced: bool):
        self._total = total
        self._priced = priced
        self._done = 0
        self._started = self._said = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("refine"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(self._state(0, 0, 0.0), total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, failed: int, violations: int, spent: float) -> None:
        """Counts one more as done and shows the state of the run."""
        self._done += 1
        state = self._state(failed, violations, spent)
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=state)
            return
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._said = now
            left = (now - self._started) / self._done * (self._total - self._done)
            line = f"refine: {self._done}/{self._total} done, {state}, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def _state(self, failed: int, violations: int, spent: float) -> str:
        # With the estimates of requests that ended without an answer, which may be billed.
        money = f", at most ${spent:.4f} spent" if self._priced else ""
        return f"{failed} failed, {violations} violations{money}"
