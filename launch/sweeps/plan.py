"""The runs of a sweep, checked before any of them starts, and their state on disk.

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
from jax_vlffd.errors import UserError
from launch.experiment import config as configs
from launch.experiment import results

RUNS, LOGS, FAILURES, EVALUATION = "runs", "logs", "failures", "evaluation"

_MAX_RUNS = 10_000  # runs; a list that long is a slip
_MAX_WORDS = 72  # letters of an id before its digest


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    index: its place in the list. overrides: what `get_sweep()` changes, as the config holds it. given: what
    the command line changes in every run. values: the whole config that follows, as `config.json` has it.
    """

    index: int
    overrides: Mapping[str, Any]
    given: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A name for a folder: of this run's own overrides alone, so that other runs may come and go."""
        words = "_".join(
            f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.overrides.items())
        )
        words = re.sub(r"[^A-Za-z0-9.=+-]+", "_", words).strip("._")[:_MAX_WORDS]
        exact = json.dumps(self.overrides, sort_keys=True)
        return f"{words or 'recipe'}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"

    @property
    def label(self) -> str:
        """What is changed, in words."""
        changes = (f"{key}={value}" for key, value in self.overrides.items())
        return ", ".join(changes) or "the recipe as it is"

    def flags(self) -> list[str]:
        """The overrides as flags of `launch.train`."""
        changed = {**self.given, **self.overrides}
        return [f"--config.{key}={_text(value)}" for key, value in changed.items()]


def read_sweep(recipe: Path) -> list[Any]:
    """What the recipe's `get_sweep()` returns.

    Raises:
      UserError: there is none, it fails, or it does not return a list of overrides.
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
        found = list(module.get_sweep())
    except (ValueError, TypeError) as error:
        raise UserError(f"{recipe}: get_sweep(): {error}") from error
    if not 0 < len(found) <= _MAX_RUNS:
        raise UserError(
            f"{recipe}: get_sweep() gives {len(found)} runs; 1 to {_MAX_RUNS} can be run"
        )
    return found


def plan(
    config: config_dict.ConfigDict, sweep: Sequence[Any], given: Mapping[str, Any]
) -> list[Run]:
    """The runs of a sweep, every one checked.

    Args:
      config: the recipe with what the command line changes.
      sweep: as `get_sweep()` returned it.
      given: what the command line changes, by dotted key.

    Raises:
      UserError: an unknown key (the nearest is named), a value that the config refuses, two runs that are
        the same, or a key that the command line sets too.
    """
    runs: list[Run] = []
    base = configs.flat(config.to_dict())
    for index, overrides in enumerate(sweep):
        where = f"get_sweep(), run {index}"
        if not isinstance(overrides, Mapping) or not all(isinstance(k, str) for k in overrides):
            raise UserError(f"{where}: {overrides!r} is not a dict of overrides by dotted key")
        for key in overrides:
            if key not in base:
                raise UserError(f"{where}: the config has no key {key!r}{_nearest(key, base)}")
            if key in given:
                raise UserError(
                    f"--config.{key} is given, yet the sweep sets it itself; leave one of the two out"
                )
        changed = config.copy_and_resolve_references()
        try:
            changed.update_from_flattened_dict(dict(overrides))
            values = json.loads(changed.to_json())
            configs.settings(changed)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(f"{where}: {error}") from error
        # As the config holds them: 1 and 1.0 for the same number are the same run.
        flat = configs.flat(values)
        run = Run(index, {key: flat[key] for key in overrides}, given, values)
        if same := [other.index for other in runs if other.id == run.id]:
            raise UserError(f"{where} is the same as run {same[0]} ({run.label}); leave one out")
        if unset := [key for key, value in run.overrides.items() if value is None]:
            raise UserError(f"{where}: {unset[0]} cannot be set to None; leave the key out")
        runs.append(run)
    return runs


def _nearest(key: str, keys: Iterable[str]) -> str:
    """The key most like a wrong one, in its own group where that exists; else what there is."""
    group, _, last = key.rpartition(".")
    names = [name for name in keys if name.rpartition(".")[0] == group] if group else []
    names = names or list(keys)
    by_last = {name.rpartition(".")[2]: name for name in names}
    if close := difflib.get_close_matches(last, by_last, 1, 0.5):
        return f"; did you mean {by_last[close[0]]!r}?"
    inner = group and len(names) < 30
    return f"; there are {', '.join(sorted(names if inner else {n.split('.')[0] for n in names}))}"


def _text(value: Any) -> str:
    # A tuple's JSON form is a list; the flag's own form is that of Python.
    return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A sweep's folder, and the state of its runs according to its files."""

    path: Path

    def workdir(self, run: Run) -> Path:
        """The run's own."""
        return self.path / RUNS / run.id

    def log(self, run: Run) -> Path:
        """What the run's commands printed."""
        return self.path / LOGS / f"{run.id}.log"

    def failure(self, run: Run) -> Path:
        """Why the run ended last, when it failed."""
        return self.path / FAILURES / f"{run.id}.json"

    def summary(self, run: Run) -> dict[str, Any] | None:
        """The `summary.json` of a run that is trained to its end, else None."""
        return read_object(self.workdir(run) / "summary.json")

    def evaluation(self, run: Run, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The `metrics.json` of a run that says itself that it answers the request, else None.

        Args:
          run: a run of the sweep.
          request: `split`, `bootstrap`, `seed`, and `sets` by name, each its `path` and `digest`; the digest is
            None where the set is not there any more, and any is taken.
        """
        found = read_object(self.workdir(run) / EVALUATION / results.METRICS)
        summary = self.summary(run)
        if found is None or summary is None:
            return None
        try:
            answered = found["request"]
            (model,) = answered["models"]
            step = model["step"]
            sets = {
                name: {**entry, "digest": entry["digest"] or answered["sets"][name]["digest"]}
                for name, entry in request["sets"].items()
            }
            wanted = {**request, "sets": sets}
            same = {key: answered[key] for key in wanted} == wanted
        except (KeyError, TypeError, ValueError):
            return None
        return found if same and step == summary.get("best_step") else None

    def status(self, run: Run, request: Mapping[str, Any]) -> str:
        """'done', 'failed', 'trained' (and not evaluated), 'begun' or 'new'."""
        trained = self.summary(run) is not None
        if trained and self.evaluation(run, request) is not None:
            return "done"
        if self.failure(run).exists():
            return "failed"
        if trained:
            return "trained"
        return "begun" if self.workdir(run).exists() else "new"

    def check(self, runs: Iterable[Run]) -> None:
        """Sees that what is there belongs to these runs.

        Raises:
          UserError: a run's workdir was made with another config, or what a new run changes has no effect.
        """
        for run in runs:
            workdir = self.workdir(run)
            if (workdir / "checkpoints").is_dir() or self.summary(run) is not None:
                configs.check_same(workdir, run.values)
            else:
                try:
                    configs.check_effect(run.values, {*run.given, *run.overrides})
                except UserError as error:
                    raise UserError(f"get_sweep(), run {run.index}: {error}") from error
