"""Plans and checks the runs of a sweep before any of them starts, and reads their state on disk.

In the sweep's folder: `runs/ID` (a workdir, and in it `evaluation/`), `logs/ID.log`, `failures/ID.json`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from data_pipeline.core.files import read_object
from jax_vlffd.errors import UserError, fault
from launch.cli.recipes import recipe_fault
from launch.experiment import config as configs
from launch.experiment import results

RUNS, LOGS, FAILURES, EVALUATION = "runs", "logs", "failures", "evaluation"

_MAX_RUNS = 10_000  # a longer list is a mistake
_MAX_ID_WORDS = 72  # letters of an id before its digest


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    index: its position in the list. overrides: keys changed by `get_sweep()`, with values as in the config.
    command_line: keys changed by the command line in every run. values: the result, as in `config.json`.
    """

    index: int
    overrides: Mapping[str, Any]
    command_line: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A folder name that depends only on this run's overrides, so that other runs may change."""
        words = "_".join(
            f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.overrides.items())
        )
        words = re.sub(r"[^A-Za-z0-9.=+-]+", "_", words).strip("._")[:_MAX_ID_WORDS]
        exact = json.dumps(self.overrides, sort_keys=True)
        return f"{words or 'recipe'}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"

    @property
    def label(self) -> str:
        """The overrides, in words."""
        changes = (f"{key}={value}" for key, value in self.overrides.items())
        return ", ".join(changes) or "the recipe as it is"

    def flags(self) -> list[str]:
        """The overrides as flags of `launch.train`."""
        changed = {**self.command_line, **self.overrides}
        return [f"--config.{key}={_text(value)}" for key, value in changed.items()]


def read_sweep(recipe: Path) -> list[Any]:
    """Calls the recipe's `get_sweep()` and returns its list of overrides.

    Raises:
      UserError: the function is missing, fails, or returns too few or too many runs.
    """
    spec = importlib.util.spec_from_file_location("swept_recipe", recipe)
    if spec is None or spec.loader is None:
        raise UserError(f"{recipe} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_sweep", None)):
        raise UserError(
            f"{recipe} has no get_sweep(); add one that returns a list of overrides, made by the "
            "functions of configs/sweeps.py"
        )
    try:
        sweep = list(module.get_sweep())
    except (ValueError, TypeError) as error:
        raise UserError(f"{recipe}: get_sweep(): {error}") from error
    except Exception as error:
        raise UserError(recipe_fault(error, str(recipe)) or f"{recipe}: {fault(error)}") from error
    if not 0 < len(sweep) <= _MAX_RUNS:
        raise UserError(f"{recipe}: get_sweep() returns {len(sweep)} runs; return 1 to {_MAX_RUNS}")
    return sweep


def plan(
    config: config_dict.ConfigDict, sweep: Sequence[Any], command_line: Mapping[str, Any]
) -> list[SweepRun]:
    """Resolves and checks every run of a sweep.

    Args:
      config: the recipe with the changes of the command line.
      sweep: overrides as returned by `get_sweep()`.
      command_line: changes of the command line, by dotted key.

    Raises:
      UserError: an unknown key (names the nearest), an invalid value, two equal runs, or a key that the
        command line sets too.
    """
    runs: list[SweepRun] = []
    base = configs.flat(config.to_dict())
    for index, overrides in enumerate(sweep):
        where = f"get_sweep(), run {index}"
        if not isinstance(overrides, Mapping) or not all(isinstance(k, str) for k in overrides):
            raise UserError(f"{where}: {overrides!r} is not a dict of overrides by dotted key")
        for key in overrides:
            if key not in base:
                raise UserError(f"{where}: the config has no key {key!r}{_nearest(key, base)}")
            if key in command_line:
                raise UserError(
                    f"--config.{key} is set by the command line and by the sweep; leave one of them out"
                )
        changed = config.copy_and_resolve_references()
        try:
            changed.update_from_flattened_dict(dict(overrides))
            values = json.loads(changed.to_json())
            configs.settings(changed)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(f"{where}: {error}") from error
        # With the config's own types, so that 1 and 1.0 give the same run.
        flat = configs.flat(values)
        run = SweepRun(index, {key: flat[key] for key in overrides}, command_line, values)
        if same := [other.index for other in runs if other.id == run.id]:
            raise UserError(f"{where} is the same as run {same[0]} ({run.label}); leave one out")
        if unset := [key for key, value in run.overrides.items() if value is None]:
            raise UserError(f"{where}: {unset[0]} cannot be set to None; leave the key out")
        runs.append(run)
    return runs


def _nearest(key: str, keys: Iterable[str]) -> str:
    """Suggests the key most similar to a wrong one in its group; else lists the keys."""
    group, _, last = key.rpartition(".")
    names = [name for name in keys if name.rpartition(".")[0] == group] if group else []
    names = names or list(keys)
    by_last = {name.rpartition(".")[2]: name for name in names}
    if close := difflib.get_close_matches(last, by_last, 1, 0.5):
        return f"; did you mean {by_last[close[0]]!r}?"
    inner = group and len(names) < 30
    return f"; valid are {', '.join(sorted(names if inner else {n.split('.')[0] for n in names}))}"


def _text(value: Any) -> str:
    # JSON makes tuples lists; flags take Python's form of a tuple.
    return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)


@dataclasses.dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder; reads the state of its runs from their files."""

    path: Path

    def workdir(self, run: SweepRun) -> Path:
        """The run's workdir."""
        return self.path / RUNS / run.id

    def log(self, run: SweepRun) -> Path:
        """Log of the run's commands."""
        return self.path / LOGS / f"{run.id}.log"

    def failure(self, run: SweepRun) -> Path:
        """Record of the run's last failure."""
        return self.path / FAILURES / f"{run.id}.json"

    def summary(self, run: SweepRun) -> dict[str, Any] | None:
        """The `summary.json` of a completely trained run, else None."""
        return read_object(self.workdir(run) / "summary.json")

    def evaluation(self, run: SweepRun, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The run's `metrics.json` if it is of this request and the run's best checkpoint, else None.

        Args:
          run: a run of the sweep.
          request: `split`, `bootstrap`, `seed`, and `sets` by name, each with `path` and `digest`; a
            digest of None (the set no longer exists) matches any.
        """
        metrics = read_object(self.workdir(run) / EVALUATION / results.METRICS)
        summary = self.summary(run)
        if metrics is None or summary is None:
            return None
        try:
            evaluated = metrics["request"]
            (model,) = evaluated["models"]
            step = model["step"]
            sets = {
                name: {**entry, "digest": entry["digest"] or evaluated["sets"][name]["digest"]}
                for name, entry in request["sets"].items()
            }
            wanted = {**request, "sets": sets}
            same = {key: evaluated[key] for key in wanted} == wanted
        except (KeyError, TypeError, ValueError):
            return None
        return metrics if same and step == summary.get("best_step") else None

    def status(self, run: SweepRun, request: Mapping[str, Any]) -> str:
        """'done', 'failed', 'trained' (not evaluated), 'begun' or 'new'."""
        trained = self.summary(run) is not None
        if trained and self.evaluation(run, request) is not None:
            return "done"
        if self.failure(run).exists():
            return "failed"
        if trained:
            return "trained"
        return "begun" if self.workdir(run).exists() else "new"

    def check(self, runs: Iterable[SweepRun]) -> None:
        """Checks that existing workdirs belong to these runs, and that new runs' changes have an effect.

        Raises:
          UserError: a workdir was made with another config, or a change has no effect.
        """
        for run in runs:
            workdir = self.workdir(run)
            if (workdir / "checkpoints").is_dir() or self.summary(run) is not None:
                configs.check_same(workdir, run.values)
            else:
                try:
                    configs.check_effect(run.values, {*run.command_line, *run.overrides})
                except UserError as error:
                    raise UserError(f"get_sweep(), run {run.index}: {error}") from error
