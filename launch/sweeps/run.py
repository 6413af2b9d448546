"""Runs a sweep: trains and evaluates each variant by the commands, and compares all in a table."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_pipeline.core.files import read_object
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.reports import sweep
from launch.cli import interrupts, table
from launch.cli.progress import note, progress
from launch.experiment import config as configs
from launch.experiment import results
from launch.sweeps.plan import EVALUATION, SweepFolder, SweepRun


def request(sets: Mapping[str, str], split: str, bootstrap: int) -> dict[str, Any]:
    """The evaluation of every run, the same for all, so that their figures can be compared.

    Args:
      sets: packed sets by name; a missing set has the digest None, as its figures may still exist.
      split: of them.
      bootstrap: resamples for the intervals.
    """

    def digest(path: str) -> str | None:
        try:
            return results.described_sets({"": path})[""]["digest"]
        except UserError:
            return None

    described = {name: {"path": path, "digest": digest(path)} for name, path in sets.items()}
    return {"sets": described, "split": split, "bootstrap": bootstrap, "seed": 0}


def validation_sets(text: str) -> dict[str, str]:
    """The sets of a recipe's `data.validation`, by the name of their folder."""
    sets: dict[str, str] = {}
    for path in filter(None, map(str.strip, text.split(","))):
        name = Path(path).name or path
        sets[name if name not in sets else f"{name} ({len(sets) + 1})"] = path
    return sets


@dataclass(frozen=True)
class Sweep:
    """A sweep in its folder.

    Attributes:
      recipe: path of the config.
      folder: of the sweep.
      runs: all runs.
      request: see `request`.
      metric: by which the table is sorted.
    """

    recipe: str
    folder: SweepFolder
    runs: Sequence[SweepRun]
    request: Mapping[str, Any]
    metric: str = "frame_auc"

    def print_runs(self, chosen: Sequence[SweepRun]) -> None:
        """Prints the runs and their status."""
        table.show(
            [str(run.index), self.folder.status(run, self.request), run.id, run.label]
            for run in chosen
        )

    def print_commands(self, chosen: Sequence[SweepRun]) -> None:
        """Prints the remaining commands, ready for a shell."""
        for run in chosen:
            trained = self.folder.summary(run)
            if trained is None:
                print(f"python -m {shlex.join(self._train(run))}")
            if trained is None or self.folder.evaluation(run, self.request) is None:
                print(f"python -m {shlex.join(self._evaluate(run))}")

    def run(self, chosen: Sequence[SweepRun]) -> None:
        """Runs them one after another and prints the table of all; Ctrl-C and SIGTERM end the current command.

        Raises:
          UserError: a run failed, or another sweep is running it.
        """
        failed = skipped = 0
        with progress("sweep") as update:
            for done, run in enumerate(chosen):
                update(done, len(chosen), run.id)
                started = time.monotonic()
                position = f"[{run.index + 1}/{len(self.runs)}] {run.id}"
                with _claimed(self.folder, run) as log:
                    if log is None:
                        note(f"{position}: another sweep is running it; skipped")
                        skipped += 1
                        continue
                    status = self.folder.status(run, self.request)
                    if status == "done":
                        note(f"{position}: already done")
                        continue
                    note(f"{position}: {status}; {run.label}")
                    message = self._do(run, log)
                failed += bool(message)
                end = f"failed: {message}; see {self.folder.log(run)}" if message else "done"
                note(f"{position}: {end}, {time.monotonic() - started:.0f} s")
                self._summarize()
            update(len(chosen), len(chosen))
        header, *rows = sweep.cells(self._summarize(), self.metric)
        table.show(rows, header)
        print(f"wrote {self.folder.path}/summary.csv and summary.html")
        if failed:
            raise UserError(
                f"{failed} of {len(chosen)} runs failed; the table says why, and the same command tries "
                "them again"
            )
        if skipped:
            raise UserError(
                f"{skipped} of {len(chosen)} runs were skipped because another sweep is running them; run the "
                "same command later to check them"
            )

    def _train(self, run: SweepRun) -> list[str]:
        workdir = self.folder.workdir(run)
        return ["launch.train", f"--config={self.recipe}", f"--workdir={workdir}", *run.flags()]

    def _evaluate(self, run: SweepRun) -> list[str]:
        workdir, request = self.folder.workdir(run), self.request
        return [
            "launch.evaluate", f"--workdir={workdir}", f"--out={workdir / EVALUATION}",
            f"--name={run.id}", f"--split={request['split']}", f"--bootstrap={request['bootstrap']}",
            f"--seed={request['seed']}",
            *(f"--data={name}={entry['path']}" for name, entry in request["sets"].items()),
        ]  # fmt: skip

    def _do(self, run: SweepRun, log: IO[bytes]) -> str:
        """Does what is left of a run's training and evaluation; returns why it failed, '' on success."""
        folder = self.folder
        if folder.summary(run) is None and (message := self._call(run, self._train(run), log)):
            return message
        if folder.evaluation(run, self.request) is None:
            if message := self._call(run, self._evaluate(run), log):
                return message
            if folder.evaluation(run, self.request) is None:
                return "a set changed during the sweep, or another command evaluated the run; start again"
        folder.failure(run).unlink(missing_ok=True)
        return ""

    def _call(self, run: SweepRun, arguments: Sequence[str], log: IO[bytes]) -> str:
        """Runs one command with output to the log; returns why it failed, '' on success."""
        # A path need not be UTF-8.
        log.write(f"$ python -m {shlex.join(arguments)}\n".encode(errors="backslashreplace"))
        log.flush()
        start = log.tell()
        status = interrupts.call(arguments, log)
        if status == 0:
            return ""
        message = f"{arguments[0]} ended with status {status}"
        with self.folder.log(run).open("rb") as written:
            written.seek(start)
            lines = written.read().decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        errors = errors or [line for line in lines if line.strip()]
        if errors:
            message = errors[-1].removeprefix("error: ")[:500] + f" ({message})"
        content = {"index": run.index, "overrides": dict(run.overrides), "message": message}
        atomic_write_text(self.folder.failure(run), json.dumps(content, indent=2) + "\n")
        return message

    def _summarize(self) -> list[sweep.Row]:
        """Writes summary.csv and summary.html of the current state of all runs."""
        keys = list(dict.fromkeys(key for run in self.runs for key in run.overrides))
        rows = []
        for run in self.runs:
            flat = configs.flat(run.values)
            summary = self.folder.summary(run) or {}
            failure = read_object(self.folder.failure(run)) or {}
            facts = {
                key: summary.get(key) for key in ("best_step", "training_seconds", "trainable")
            }
            evaluation = self.folder.evaluation(run, self.request) or {}
            row = sweep.Row(
                run.id, run.index, run.label, self.folder.status(run, self.request),
                {key: flat[key] for key in keys}, evaluation.get("sets", {}), facts,
                str(failure.get("message", "")),
            )  # fmt: skip
            rows.append(row)
        page_facts = {
            "Recipe": self.recipe,
            "Runs": f"{sum(row.status == 'done' for row in rows)} of {len(rows)} done",
            "Compared on": ", ".join(self.request["sets"]) + f", split {self.request['split']}",
            "Intervals": f"{self.request['bootstrap']} resamples of videos",
        }
        page = sweep.render(f"Sweep of {Path(self.recipe).name}", rows, self.metric, page_facts)
        atomic_write_text(self.folder.path / "summary.csv", sweep.to_csv(rows, self.metric))
        atomic_write_text(self.folder.path / "summary.html", page)
        return rows


@contextlib.contextmanager
def _claimed(folder: SweepFolder, run: SweepRun) -> Iterator[IO[bytes] | None]:
    """Opens and locks the run's log for appending; yields None if another process has the lock."""
    path = folder.log(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield log
