"""Detectors to evaluate: trained runs that score packed sets, or existing scores files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.loading.corruptions import KINDS, Corruption
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation import calibration as calibrations
from jax_vlffd.evaluation import metrics
from jax_vlffd.evaluation import scores as tables
from jax_vlffd.evaluation.comparison import UNKNOWN, EvaluatedDetector
from jax_vlffd.files import read_regular
from launch.cli.progress import note, progress
from launch.experiment import remote_workdir, results

if TYPE_CHECKING:
    from jax_vlffd.evaluation.calibration import Calibration
    from jax_vlffd.evaluation.scores import Scores
    from launch.experiment.workdir import TrainedRun

#: Severities of a corruption.
_SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation.

    Attributes:
      split: that is tested.
      bootstrap: resamples for the intervals; 0 for none.
      seed: of the resampling and of the example pictures.
      matrix: whether to make the table 'trained on these methods, tested on each'.
      robustness: whether to score corrupted pictures too.
      examples: pictures in each gallery of the report.
    """

    split: str = "test"
    bootstrap: int = 1000
    seed: int = 0
    matrix: bool = False
    robustness: bool = False
    examples: int = 12


@dataclass(frozen=True)
class Scored:
    """Detectors with their scores.

    Attributes:
      detectors: the others are compared with the first.
      request: `models` or `scores`, and `sets`, each with its digest, as in `metrics.json`.
      geometry: face geometry of the sets by detector and set; see `results.compared_geometry`.
      robustness: frame and video AUC by detector, set and kind of corruption.
    """

    detectors: list[EvaluatedDetector]
    request: dict[str, Any]
    geometry: dict[str, Any] = field(default_factory=dict)
    robustness: dict[str, Any] = field(default_factory=dict)


def score_runs(
    runs: Sequence[tuple[str, Path]],
    sets: Mapping[str, str],
    settings: EvaluateSettings,
    train_data: Sequence[str] = (),
) -> Scored:
    """Scores packed sets by trained runs.

    Args:
      runs: name (empty for the run's own) and workdir, or exported folder, of each.
      sets: packed sets by name.
      settings: of the evaluation.
      train_data: packed sets that the runs were trained on, for runs that do not record them.

    Raises:
      UserError: a run or a set cannot be read, two runs have the same name (allowed with `matrix`), or a set
        changed during scoring.
    """
    from jax_vlffd.inference.trained import trained_name
    from launch.experiment.workdir import load_run, require_run

    # Check all runs and sets before the first is scored.
    groups: list[str] = []
    for name, folder in runs:
        require_run(folder)
        group = name or trained_name(folder)
        if group in groups and not settings.matrix:
            raise UserError(f"two runs are named {group!r}; use --name and --compare=NAME=WORKDIR")
        groups.append(group)
    for set_dir in sets.values():
        PackedSplit(set_dir, settings.split)
    described = results.described_sets(sets)
    models: list[dict[str, Any]] = []
    scored = Scored([], {"models": models, "sets": described})
    corrupted = len(KINDS) * len(_SEVERITIES) * settings.robustness
    done, total = 0, len(runs) * len(sets) * (1 + corrupted)
    with progress("scoring") as update:

        def score(
            name: str, run: TrainedRun, set_name: str, corruption: Corruption | None
        ) -> Scores:
            nonlocal done
            kind = f", {corruption.kind} {corruption.severity}" if corruption else ""
            update(done, total, f"{name}: {set_name}{kind}")
            done += 1
            return run.score(sets[set_name], settings.split, corruption)

        for group, (_, folder) in zip(groups, runs, strict=True):
            run = load_run(folder, train_data=train_data)
            repeats = sum(detector.group == group for detector in scored.detectors)
            name = f"{group} ({repeats + 1})" if repeats else group
            if not run.methods:
                note(f"{name}: {UNKNOWN}; give the sets that it was trained on as --train_data=DIR")
            parts = [score(name, run, set_name, None).with_set_name(set_name) for set_name in sets]
            models.append(results.described_model(name, remote_workdir.origin(folder), run))
            scored.geometry[name] = results.compared_geometry(run.geometry, sets, settings.split)
            joined_scores = tables.concatenate(parts)
            set_metrics = _measure(joined_scores, run.calibration, settings)
            scored.detectors.append(
                EvaluatedDetector(
                    name,
                    joined_scores,
                    set_metrics,
                    run.calibration,
                    run.history,
                    run.methods,
                    group,
                )
            )
            if settings.robustness:
                scored.robustness[name] = {
                    set_name: {
                        kind: [
                            _aucs(0, joined_scores.select(joined_scores.set_name == set_name)),
                            *(
                                _aucs(n, score(name, run, set_name, Corruption(kind, n)))
                                for n in _SEVERITIES
                            ),
                        ]
                        for kind in KINDS
                    }
                    for set_name in sets
                }
        update(total, total)
    if results.described_sets(sets) != described:
        raise UserError("a set of --data changed while it was scored; run the command again")
    return scored


def _measure(
    scores: Scores, calibration: Calibration | None, settings: EvaluateSettings
) -> dict[str, Any]:
    return metrics.evaluate(scores, calibration, settings.bootstrap, settings.seed)


def _aucs(strength: int, scores: Scores) -> dict[str, Any]:
    values = metrics.measure(scores, resamples=0).values
    return {"strength": strength, **{key: values[key] for key in ("frame_auc", "video_auc")}}


def read_scores(
    files: Sequence[tuple[str, str]],
    calibration_files: Sequence[tuple[str, str]],
    sets: Mapping[str, str],
    settings: EvaluateSettings,
) -> Scored:
    """Reads detectors from scores files; only rows of the split are evaluated.

    Args:
      files: name (empty for the file's own) and path of each `scores.csv`; a repeated name adds sets to it.
      calibration_files: name of a detector (may be empty if there is one) and path of its `calibration.json`.
      sets: packed sets by name, for the pictures of the report.
      settings: of the evaluation.

    Raises:
      UserError: a file cannot be read, detectors or rows occur twice, or a name is unknown.
    """
    parts: dict[str, list[Scores]] = {}
    digests: list[dict[str, str]] = []
    for name, path in files:
        tables_in_file = tables.from_csv(_read(path, digests), path)
        for inner, scores in tables_in_file.items():
            both = [name, inner] if len(tables_in_file) > 1 else [name or inner]
            label = "/".join(filter(None, both)) or Path(path).stem
            if label in parts and not name:
                raise UserError(
                    f"{path}: another file has a detector {label!r} too; name each by "
                    "--from_scores=NAME=FILE"
                )
            parts.setdefault(label, []).append(scores)
    fitted_by_name = _read_calibrations(calibration_files, parts, digests)
    detectors = []
    for label, tables_of in parts.items():
        tables.refuse_shared_videos(tables_of, label)
        all_rows = tables.concatenate(tables_of)
        tables.refuse_repeats(all_rows, label)
        tested = all_rows.select((all_rows.split == settings.split) | (all_rows.split == ""))
        if not len(tested):
            splits = ", ".join(sorted(set(all_rows.split.tolist())))
            raise UserError(f"{label}: no scores of split {settings.split!r}; it has {splits}")
        fitted = fitted_by_name.pop(label, None)
        if fitted is None and settings.split != "validation":
            fitted = _fit(all_rows.select(all_rows.split == "validation"))
        detectors.append(
            EvaluatedDetector(label, tested, _measure(tested, fitted, settings), fitted)
        )
    if fitted_by_name:
        raise UserError(
            f"--calibration names {', '.join(fitted_by_name)}; detectors are {', '.join(parts)}"
        )
    first_sets = detectors[0].sets
    for name in sets:  # otherwise pictures would be missing without a reason
        if name not in first_sets:
            raise UserError(
                f"--data={name}=...: {detectors[0].name} has no scores of a set of this name, "
                f"it has {', '.join(first_sets)}"
            )
    return Scored(detectors, {"scores": digests, "sets": results.described_sets(sets)})


def _read_calibrations(
    files: Sequence[tuple[str, str]], detectors: Iterable[str], digests: list[dict[str, str]]
) -> dict[str, Calibration]:
    names = list(detectors)
    by_name = {}
    for name, path in files:
        if not name and len(names) > 1:
            raise UserError(f"--calibration={path}: there are several detectors; write NAME={path}")
        text = _read(path, digests)
        by_name[name or names[0]] = calibrations.Calibration.from_json(text, path)
    return by_name


def _fit(held_out: Scores) -> Calibration | None:
    """Fits a calibration on validation scores; None without both classes."""
    if not 0 < held_out.label.sum() < len(held_out):
        return None
    return calibrations.fit(held_out.logits(), held_out.label)


def _read(path: str, digests: list[dict[str, str]]) -> str:
    """Reads a text file, and appends its digest to `digests`."""
    try:
        data = read_regular(path, results.MAX_BYTES)
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    digests.append({"file": path, "sha256": hashlib.sha256(data).hexdigest()})
    return text
