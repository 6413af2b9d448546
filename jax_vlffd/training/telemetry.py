"""What a run says of itself: JSON lines, TensorBoard events, and a line on the terminal."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO


class Telemetry:
    """Writes the metrics of one run; only process 0 of a run has one that writes.

    `metrics.jsonl` has one line a step logged: {"step": n, "train/loss": x, ...}; a validation has a line
    of its own. On a resume the lines after the restored step are dropped, so no step stands twice.

    Args:
      workdir: where `metrics.jsonl` and the TensorBoard events go.
      start: the step that the run continues from.
      due: the validation of that step is made up, and so is its line.
      total: the last step.
      enabled: False writes and shows nothing.
      tensorboard: also write TensorBoard events.
      publish: called when all that was written is on disk, and a save comes next.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        total: int,
        due: bool = False,
        enabled: bool = True,
        tensorboard: bool = True,
        publish: Callable[[], None] = lambda: None,
    ):
        self.workdir = workdir
        self._enabled, self._total, self._publish = enabled, total, publish
        self._file: TextIO | None = None
        self._events: Any = None
        self._bar: Any = None
        self._last_line = 0.0
        if not enabled:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            _drop_after(path, start, due)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            self._events = _event_writer(workdir / "tensorboard", start + 1)
        if sys.stderr.isatty():
            self._bar = _progress_bar(start, total)

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()
        if self._bar:
            self._bar[0].stop()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line of finite values, rounded to what fp32 holds."""
        if self._file is None:
            return
        # JSON has no nan: a value that is undefined at a step is left out of its line.
        rounded = {k: float(f"{v:.7g}") for k, v in values.items() if math.isfinite(v)}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in rounded.items():
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Sees that what was written outlives the machine."""
        if self._file:
            os.fsync(self._file.fileno())
        if self._events:
            self._events.flush()
        if self._enabled:
            self._publish()

    def show(self, step: int, text: str, *, force: bool = False) -> None:
        """Moves the progress bar; without a terminal, prints a plain line every ten seconds at most."""
        if not self._enabled:
            return
        if self._bar:
            bar, task = self._bar
            bar.update(task, completed=step, description=text)
        elif force or time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            print(f"step {step}/{self._total}  {text}", file=sys.stderr, flush=True)


def read_history(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`, in order; empty when there is none. A torn last line is left out."""
    path = workdir / "metrics.jsonl"
    return list(_lines(path)) if path.exists() else []


def _lines(path: Path) -> Iterable[dict[str, float]]:
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _event_writer(folder: Path, step: int) -> Any:
    """Writes TensorBoard events from a step on.

    tensorboardX imports torch where it is installed, to take its tensors: a second of every start, and
    torch's own CUDA libraries beside those of JAX. It does without when the import fails.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=step)


def _drop_after(path: Path, step: int, due: bool) -> None:
    kept = [
        json.dumps(line) + "\n"
        for line in _lines(path)
        if line["step"] < step
        or (line["step"] == step and not (due and any(k.startswith("validation/") for k in line)))
    ]
    aside = path.with_suffix(".jsonl.new")
    aside.write_text("".join(kept), "utf-8")
    os.replace(aside, path)


def _progress_bar(start: int, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"), console=Console(stderr=True),
    )  # fmt: skip
    bar.start()
    return bar, bar.add_task("starting", total=total, completed=start)
