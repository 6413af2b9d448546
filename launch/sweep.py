"""Trains a recipe's variants one after another and compares them.

  python -m launch.sweep --config=configs/X.py --workdir=DIR [--config.key=value] [--data=NAME=DIR]

The recipe's `get_sweep()` lists the variants. Each is a `launch.train` of its own, then a `launch.evaluate`:
on the packed sets of --data, or on the recipe's validation sets. What is done is skipped, what was broken off
goes on, what fails is recorded and the others go on. In DIR: runs/, logs/, failures/, summary.csv and
summary.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from absl import flags
from ml_collections import config_flags

from jax_vlffd.reports.sweep import METRICS
from launch.cli import command
from launch.sweeps import plan
from launch.sweeps.plan import Folder, Run

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe with a get_sweep(), as configs/demo.py."
)

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the sweep; made when missing.")
flags.DEFINE_bool("list", False, "Say which runs there are, and what became of each.")
flags.DEFINE_bool("dry_run", False, "Print the commands that would run, and run none.")
flags.DEFINE_integer("index", None, "Do this run only, counted from 0.", lower_bound=0)
flags.DEFINE_string("shard", None, "i/n: do every n-th run, beginning with the i-th.")
flags.DEFINE_multi_string("data", [], "NAME=DIR: a packed set to compare on; repeat for several.")
flags.DEFINE_string("split", "test", "The split of --data; the recipe's own sets: validation.")
flags.DEFINE_enum("metric", "frame_auc", list(METRICS), "What the table is sorted by, and plotted.")
flags.DEFINE_integer("bootstrap", 1000, "Resamples for the intervals; 0 for none.", lower_bound=0)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    """Does what the flags say, and ends with status 1 if any run failed."""
    from data_pipeline.fftg.runner import shard
    from jax_vlffd.errors import UserError
    from launch.experiment import config as configs

    if FLAGS.index is not None and FLAGS.shard is not None:
        raise UserError("--index and --shard both choose runs; give one of them")
    keys = config_flags.get_override_values(FLAGS["config"])
    flat = configs.flat(json.loads(_CONFIG.value.to_json()))
    runs = plan.plan(
        _CONFIG.value, plan.read_sweep(Path(_recipe())), {key: flat[key] for key in keys}
    )
    if FLAGS.index is not None and FLAGS.index >= len(runs):
        raise UserError(f"--index={FLAGS.index}: the sweep has runs 0 to {len(runs) - 1}")
    chosen = runs[shard(FLAGS.shard)] if FLAGS.shard else runs
    chosen = runs[FLAGS.index : FLAGS.index + 1] if FLAGS.index is not None else chosen
    folder = plan.Folder(Path(FLAGS.workdir))
    request = _request(flat["data.validation"])
    if not FLAGS.list:
        folder.check(runs)
    if FLAGS.list:
        for run in chosen:
            print(f"{run.index:3}  {folder.status(run, request):8} {run.id}  {run.label}")
    elif FLAGS.dry_run:
        for run in chosen:
            _print_commands(folder, run, request)
    else:
        if not request["sets"]:
            raise UserError(
                "nothing to train and compare on: give --config.data.train=DIR and "
                "--config.data.validation=DIR, and --data=NAME=DIR for a set of its own to compare on"
            )
        _run_all(folder, runs, chosen, request)


def _recipe() -> str:
    return str(config_flags.get_config_filename(FLAGS["config"]))


def _request(validation: str) -> dict[str, Any]:
    """What every run is evaluated on and how; the same for all, or their figures could not be compared."""
    from jax_vlffd.errors import UserError

    sets: dict[str, str] = {}
    split = FLAGS.split
    if FLAGS.data:
        for text in FLAGS.data:
            name, found, path = text.partition("=")
            if not (name and found and path) or name in sets:
                raise UserError(f"--data={text}: write NAME=DIR, each NAME once")
            sets[name] = path
    else:
        split = "validation"
        for path in filter(None, map(str.strip, validation.split(","))):
            name = Path(path).name or path
            sets[name if name not in sets else f"{name} ({len(sets) + 1})"] = path
    return {
        "sets": {name: {"path": path, "digest": _digest(path)} for name, path in sets.items()},
        "split": split, "bootstrap": FLAGS.bootstrap, "seed": 0,
    }  # fmt: skip


def _digest(path: str) -> str | None:
    """Of a packed set; None where there is none: its figures may be there still."""
    from jax_vlffd.errors import UserError
    from launch.experiment import results

    try:
        return results.described_sets({"": path})[""]["digest"]
    except UserError:
        return None


def _train(folder: Folder, run: Run) -> list[str]:
    return [
        "launch.train", f"--config={_recipe()}", f"--workdir={folder.workdir(run)}", *run.flags(),
    ]  # fmt: skip


def _evaluate(folder: Folder, run: Run, request: Mapping[str, Any]) -> list[str]:
    workdir = folder.workdir(run)
    return [
        "launch.evaluate", f"--workdir={workdir}", f"--out={workdir / plan.EVALUATION}",
        f"--name={run.id}", f"--split={request['split']}", f"--bootstrap={request['bootstrap']}",
        f"--seed={request['seed']}",
        *(f"--data={name}={entry['path']}" for name, entry in request["sets"].items()),
    ]  # fmt: skip


def _print_commands(folder: Folder, run: Run, request: Mapping[str, Any]) -> None:
    """The commands that are left to do of a run, ready for a shell."""
    trained, evaluated = folder.summary(run), folder.evaluation(run, request)
    for arguments, done in (
        (_train(folder, run), trained),
        (_evaluate(folder, run, request), evaluated),
    ):
        if done is None or (trained is None):
            print(f"python -m {shlex.join(arguments)}")


def _run_all(
    folder: Folder, runs: Sequence[Run], chosen: Sequence[Run], request: Mapping[str, Any]
) -> None:
    from jax_vlffd.errors import UserError

    signal.signal(signal.SIGTERM, _end)
    failed = left = 0
    for run in chosen:
        begun = time.monotonic()
        place = f"[{run.index + 1}/{len(runs)}] {run.id}"
        with _claimed(folder, run) as log:
            if log is None:
                print(f"{place}: another sweep is at it; left alone", flush=True)
                left += 1
                continue
            status = folder.status(run, request)
            if status == "done":
                print(f"{place}: done before", flush=True)
                continue
            print(f"{place}: {status}; {run.label}", flush=True)
            message = _do(folder, run, request, log)
        failed += bool(message)
        told = f"failed: {message}; see {folder.log(run)}" if message else "done"
        print(f"{place}: {told}, {time.monotonic() - begun:.0f} s", flush=True)
        _summarise(folder, runs, request)
    print(_summarise(folder, runs, request))
    print(f"wrote {folder.path}/summary.csv and summary.html")
    if failed:
        raise UserError(
            f"{failed} of {len(chosen)} runs failed; the table says why, and the same command tries them again"
        )
    if left:
        raise UserError(
            f"{left} of {len(chosen)} runs were left alone, for another sweep is at them; the same command "
            "later sees whether they are done"
        )


def _end(*_: object) -> None:
    raise KeyboardInterrupt  # so that the command that is running is ended too


@contextlib.contextmanager
def _claimed(folder: Folder, run: Run) -> Iterator[IO[bytes] | None]:
    """The run's log, open for appending and locked; None while another process has it."""
    path = folder.log(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield log


def _do(folder: Folder, run: Run, request: Mapping[str, Any], log: IO[bytes]) -> str:
    """Trains and evaluates a run as far as that is not done; returns why it failed, '' on success."""
    if folder.summary(run) is None and (message := _call(folder, run, _train(folder, run), log)):
        return message
    if folder.evaluation(run, request) is None:
        if message := _call(folder, run, _evaluate(folder, run, request), log):
            return message
        if folder.evaluation(run, request) is None:
            return "a set changed since the sweep began, or another evaluated the run; start again"
    folder.failure(run).unlink(missing_ok=True)
    return ""


def _call(folder: Folder, run: Run, arguments: Sequence[str], log: IO[bytes]) -> str:
    """Runs one command into the log; returns what it failed of, '' on success."""
    from data_pipeline.core.files import atomic_write_text

    log.write(f"$ python -m {shlex.join(arguments)}\n".encode())
    log.flush()
    start = log.tell()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        # Not `wait`: a signal that another thread receives would not end it.
        while (status := process.poll()) is None:
            time.sleep(0.2)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status == 0:
        return ""
    message = f"{arguments[0]} ended with status {status}"
    with folder.log(run).open("rb") as written:
        written.seek(start)
        lines = written.read().decode("utf-8", "replace").splitlines()
    told = [line for line in lines if line.startswith("error: ")] or [x for x in lines if x.strip()]
    if told:
        message = told[-1].removeprefix("error: ")[:500] + f" ({message})"
    content = {"index": run.index, "overrides": dict(run.overrides), "message": message}
    atomic_write_text(folder.failure(run), json.dumps(content, indent=2) + "\n")
    return message


def _summarise(folder: Folder, runs: Sequence[Run], request: Mapping[str, Any]) -> str:
    """Writes summary.csv and summary.html of all runs as they are now; returns the table as text."""
    from data_pipeline.core.files import atomic_write_text, read_object
    from jax_vlffd.reports import sweep
    from launch.experiment import config as configs

    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    rows = []
    for run in runs:
        flat = configs.flat(run.values)
        summary = folder.summary(run) or {}
        failure = read_object(folder.failure(run)) or {}
        facts = {key: summary.get(key) for key in ("best_step", "training_seconds", "trainable")}
        found = folder.evaluation(run, request) or {}
        row = sweep.Row(
            run.id, run.index, run.label, folder.status(run, request),
            {key: flat[key] for key in keys}, found.get("sets", {}), facts,
            str(failure.get("message", "")),
        )  # fmt: skip
        rows.append(row)
    told = {
        "Recipe": _recipe(),
        "Runs": f"{sum(row.status == 'done' for row in rows)} of {len(rows)} done",
        "Compared on": ", ".join(request["sets"]) + f", split {request['split']}",
        "Intervals": f"{request['bootstrap']} resamples of videos",
    }
    page = sweep.render(f"Sweep of {Path(_recipe()).name}", rows, FLAGS.metric, told)
    atomic_write_text(folder.path / "summary.csv", sweep.to_csv(rows, FLAGS.metric))
    atomic_write_text(folder.path / "summary.html", page)
    return sweep.to_markdown(rows, FLAGS.metric)


if __name__ == "__main__":
    command.run(main)
