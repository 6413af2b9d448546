"""Detectors to evaluate: trained runs that score packed sets, or scores that were written before."""

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
from launch.cli.progress import note, progress
from launch.experiment import remote_workdir, results

if TYPE_CHECKING:
    from jax_vlffd.evaluation.calibration import Calibration
    from jax_vlffd.evaluation.scores import Scores
    from launch.experiment.workdir import Run

#: Strengths of a corruption.
_STRENGTHS = range(1, 6)


@dataclass(frozen=True)
class EvaluateSettings:
    """What an evaluation's figures and report depend on, besides the detectors and the sets.

    Attributes:
      split: that is tested.
      bootstrap: resamples for the intervals; 0 for none.
      seed: of the resampling and of the examples drawn.
      matrix: whether the table 'trained on these methods, tested on each' is made.
      robustness: whether corrupted pictures are scored too.
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
      detectors: the first is what is evaluated, the others stand beside it.
      request: `models` or `scores`, and `sets`, each with its digest, as `metrics.json` names them.
      geometry: how the faces of the sets lie, by detector and set; see `results.compared_geometry`.
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
      settings: what is asked for.
      train_data: packed sets that the runs were trained on, for runs that do not say.

    Raises:
      UserError: a run or a set cannot be read, two runs have one name (with `matrix` they may), or a set
        changed meanwhile.
    """
    from jax_vlffd.inference.trained import trained_name
    from launch.experiment.workdir import load_run, require_run

    # What is missing or named twice is an error now, not when the others have been scored.
    groups: list[str] = []
    for given, folder in runs:
        require_run(folder)
        group = given or trained_name(folder)
        if group in groups and not settings.matrix:
            raise UserError(f"two runs are named {group!r}; use --name and --compare=NAME=WORKDIR")
        groups.append(group)
    for set_dir in sets.values():
        PackedSplit(set_dir, settings.split)
    described = results.described_sets(sets)
    models: list[dict[str, Any]] = []
    scored = Scored([], {"models": models, "sets": described})
    corrupted = len(KINDS) * len(_STRENGTHS) * settings.robustness
    done, total = 0, len(runs) * len(sets) * (1 + corrupted)
    with progress("scoring") as update:

        def score(name: str, run: Run, set_name: str, corruption: Corruption | None) -> Scores:
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
                note(f"{name}: {UNKNOWN}; name the sets that it was trained on by --train_data=DIR")
            parts = [score(name, run, set_name, None).with_set_name(set_name) for set_name in sets]
            models.append(results.described_model(name, remote_workdir.origin(folder), run))
            scored.geometry[name] = results.compared_geometry(run.geometry, sets, settings.split)
            found = tables.concatenate(parts)
            measured = _measure(found, run.calibration, settings)
            scored.detectors.append(
                EvaluatedDetector(
                    name, found, measured, run.calibration, run.history, run.methods, group
                )
            )
            if settings.robustness:
                scored.robustness[name] = {
                    set_name: {
                        kind: [
                            _aucs(0, found.select(found.set_name == set_name)),
                            *(
                                _aucs(at, score(name, run, set_name, Corruption(kind, at)))
                                for at in _STRENGTHS
                            ),
                        ]
                        for kind in KINDS
                    }
                    for set_name in sets
                }
        update(total, total)
    if results.described_sets(sets) != described:
        raise UserError("a set of --data changed while it was scored; start again")
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
    given_calibrations: Sequence[tuple[str, str]],
    sets: Mapping[str, str],
    settings: EvaluateSettings,
) -> Scored:
    """Takes the detectors from scores files, of whose rows those of the split count.

    Args:
      files: name (empty for the file's own) and path of each `scores.csv`; one name again adds sets to it.
      given_calibrations: name of a detector (may be empty for a lone one) and path of its `calibration.json`.
      sets: packed sets by name, for the pictures of the report.
      settings: what is asked for.

    Raises:
      UserError: a file cannot be read, detectors or rows are named twice, or a name is unknown.
    """
    parts: dict[str, list[Scores]] = {}
    digests: list[dict[str, str]] = []
    for name, path in files:
        found = tables.from_csv(_read(path, digests), path)
        for inner, scores in found.items():
            both = [name, inner] if len(found) > 1 else [name or inner]
            label = "/".join(filter(None, both)) or Path(path).stem
            if label in parts and not name:
                raise UserError(
                    f"{path}: another file holds a detector {label!r} too; tell them apart by "
                    "--from_scores=NAME=FILE"
                )
            parts.setdefault(label, []).append(scores)
    given = _read_calibrations(given_calibrations, parts, digests)
    detectors = []
    for label, tables_of in parts.items():
        tables.refuse_shared_videos(tables_of, label)
        everything = tables.concatenate(tables_of)
        tables.refuse_repeats(everything, label)
        tested = everything.select((everything.split == settings.split) | (everything.split == ""))
        if not len(tested):
            splits = ", ".join(sorted(set(everything.split.tolist())))
            raise UserError(f"{label}: no scores of split {settings.split!r}; it has {splits}")
        fitted = given.pop(label, None)
        if fitted is None and settings.split != "validation":
            fitted = _fit(everything.select(everything.split == "validation"))
        detectors.append(
            EvaluatedDetector(label, tested, _measure(tested, fitted, settings), fitted)
        )
    if given:
        raise UserError(f"--calibration names {', '.join(given)}; detectors are {', '.join(parts)}")
    known = detectors[0].sets
    for name in sets:  # pictures would be missing and nobody would know why
        if name not in known:
            raise UserError(
                f"--data={name}=...: {detectors[0].name} has no scores of a set of this name, "
                f"it has {', '.join(known)}"
            )
    return Scored(detectors, {"scores": digests, "sets": results.described_sets(sets)})


def _read_calibrations(
    files: Sequence[tuple[str, str]], detectors: Iterable[str], digests: list[dict[str, str]]
) -> dict[str, Calibration]:
    names = list(detectors)
    found = {}
    for name, path in files:
        if not name and len(names) > 1:
            raise UserError(f"--calibration={path}: of which detector? write NAME={path}")
        text = _read(path, digests)
        found[name or names[0]] = calibrations.Calibration.from_json(text, path)
    return found


def _fit(held_out: Scores) -> Calibration | None:
    """A calibration fitted on validation scores; None without both classes."""
    if not 0 < held_out.label.sum() < len(held_out):
        return None
    return calibrations.fit(held_out.logits(), held_out.label)


def _read(path: str, digests: list[dict[str, str]]) -> str:
    """The text of a file, whose digest is added to `digests`."""
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    digests.append({"file": path, "sha256": hashlib.sha256(data).hexdigest()})
    return text
