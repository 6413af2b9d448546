"""Metrics of a run: JSON lines, TensorBoard events, and a progress line on the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import read_text
from jax_vlffd.json_reading import parse_json


class MetricWriter:
    """Writes the metrics of one run; in a multi-host run only process 0's is enabled.

    `metrics.jsonl` has one line for each logged step, {"step": n, "train/loss": x, ...}, and one for each
    validation. On a resume the lines after the restored step are dropped, so that no step is logged twice.

    Args:
      workdir: folder of `metrics.jsonl` and of the TensorBoard events.
      start: the step that the run continues from.
      due: the validation of step `start` will run again: its line is dropped too.
      total: the last step.
      enabled: False writes and shows nothing.
      tensorboard: also write TensorBoard events.
      publish: called when all lines are on disk, before a save.

    Raises:
      UserError: `metrics.jsonl` cannot be written.
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
        self._events: _Events | None = None
        self._bar: Any = None
        self._last_line = 0.0
        if not enabled:
            return
        self._path = workdir / "metrics.jsonl"
        with _storage_errors(self._path):
            if self._path.exists():
                _drop_after(self._path, start, due)
            self._file = self._path.open("a", encoding="utf-8")
        if tensorboard:
            self._events = _Events(workdir / "tensorboard", start + 1)
        if sys.stderr.isatty():
            self._bar = _progress_bar(start, total)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar:
            self._bar[0].stop()
        if self._events:
            self._events.close()
        if self._file:
            try:
                with _storage_errors(self._path):
                    self._file.close()
            except UserError:
                if kind is None:  # else an error is already being raised, maybe this one
                    raise

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line of finite values, rounded to fp32's precision.

        Raises:
          UserError: the file cannot be written.
        """
        if self._file is None:
            return
        # JSON has no nan: a value that is undefined at a step is left out of its line.
        rounded = {k: float(f"{v:.7g}") for k, v in values.items() if math.isfinite(v)}
        with _storage_errors(self._path):
            self._file.write(json.dumps({"step": step, **rounded}) + "\n")
            self._file.flush()
        if self._events:
            self._events.add(step, rounded)

    def sync(self) -> None:
        """Flushes everything to disk, then publishes it.

        Raises:
          UserError: the file cannot be written.
        """
        if self._file:
            with _storage_errors(self._path):
                os.fsync(self._file.fileno())
        if self._events:
            self._events.flush()
        if self._enabled:
            self._publish()

    def show(self, step: int, text: str, *, force: bool = False) -> None:
        """Updates the progress bar; without a terminal, prints a line at most every ten seconds."""
        if not self._enabled:
            return
        if self._bar:
            bar, task = self._bar
            bar.update(task, completed=step, description=text)
        elif force or time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            print(f"step {step}/{self._total}  {text}", file=sys.stderr, flush=True)


def read_history(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order, without an incomplete last one; empty if there is no file."""
    path = workdir / "metrics.jsonl"
    return list(_lines(path)) if path.exists() else []


def _lines(path: Path) -> Iterable[dict[str, float]]:
    for line in read_text(path).splitlines():
        try:
            yield parse_json(line)
        except ValueError:
            return


class _Events:
    """TensorBoard events, written synchronously; if that fails, one warning, and the run continues without.

    tensorboardX's own writer queues them for a thread, and blocks forever once a full disk has killed it.

    Args:
      folder: made when missing.
      step: the first that this run writes; TensorBoard hides an earlier run's events from there on.
    """

    def __init__(self, folder: Path, step: int):
        self._folder = folder
        self._writer: Any = None
        # tensorboardX imports torch if it can: a second at every start, and torch's CUDA libraries beside
        # JAX's. It works without.
        hidden = "torch" not in sys.modules
        if hidden:
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        finally:
            if hidden:
                del sys.modules["torch"]
        self._new, self._scalar = event_pb2.Event, summary.scalar
        with self._warns():
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = event_file_writer.EventsWriter(str(folder / "events"))
            session_start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(self._new(step=step, session_log=session_start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars."""
        with self._warns():
            for name, value in values.items():
                if self._writer:
                    summary = self._scalar(name, value)
                    self._writer.write_event(
                        self._new(wall_time=time.time(), step=step, summary=summary)
                    )

    def flush(self) -> None:
        """Flushes the events to disk."""
        with self._warns():
            if self._writer:
                self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._warns():
            if self._writer:
                self._writer.close()
        self._writer = None

    @contextlib.contextmanager
    def _warns(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            sys.stderr.write(
                f"warning: {self._folder}: TensorBoard's events cannot be written ({error.strerror or error}); "
                "the run goes on without them\n"
            )
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):  # its buffer cannot be written either
                if writer:
                    writer.close()


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room or mend the storage, start "
            "again, and the run goes on from its last checkpoint"
        ) from error


def _drop_after(path: Path, step: int, due: bool) -> None:
    lines = [
        json.dumps(line) + "\n"
        for line in _lines(path)
        if line["step"] < step
        or (line["step"] == step and not (due and any(k.startswith("validation/") for k in line)))
    ]
    atomic_write_text(path, "".join(lines))


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
