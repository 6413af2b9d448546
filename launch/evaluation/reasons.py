"""Scores the regions that runs' reasons name against the records' regions, with controls (ours)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.packed.reader import PackedSplit
from jax_vlffd import explanation
from jax_vlffd.config import InitConfig
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.metrics import region_aucs, region_scores
from jax_vlffd.evaluation.scores import Scores, concatenate
from jax_vlffd.vocabulary import REGIONS
from launch.cli.progress import note
from launch.experiment import config as configs
from launch.experiment import explanations
from launch.experiment.workdir import TrainedRun

UNTUNED, CONSTANT = "untuned text tower", "the same regions for all"

#: Header of `table_rows`.
HEADER = (
    "reasons of", "per image: P", "R", "F1", "all: P", "R", "F1", "reals named",
    *(f"{region} P/R/AUC" for region in REGIONS),
)  # fmt: skip


@dataclass(frozen=True)
class ReasonSets:
    """The sets that reasons are scored and calibrated on.

    Attributes:
      tested: packed sets by name.
      split: of these.
      validation: packed sets whose split `validation` calibrates the reasons.
    """

    tested: Mapping[str, str]
    split: str
    validation: Sequence[str]


def score_reasons(
    run: TrainedRun, name: str, sets: ReasonSets, clip: str = "", *, controls: bool = False
) -> dict[str, dict[str, Any]]:
    """Scores the reasons of a run, and of controls.

    Args:
      run: with a bank of sentences.
      name: of the run.
      sets: to score and calibrate on.
      clip: folder or hub id of the CLIP that the run started from, for the control.
      controls: also score the run with its text tower as before training, calibrated in the same way, and
        the fixed regions for every fake that score best on validation.

    Returns:
      set -> row -> `metrics.region_scores` over the fakes, with `region_aucs` of the raw
      scores under `auc`, and the share of reals for which a region is named under `reals_named`.

    Raises:
      UserError: the run was trained without the alignment branch, or a set cannot be read or has no fakes.
    """
    scorer = run.scorer
    if scorer.plan.spec.loss.alignment <= 0:
        raise UserError(
            f"{name} has no bank of sentences: it was trained without the alignment branch"
        )
    tested = {
        key: scorer.score(run.parameters, folder, sets.split) for key, folder in sets.tested.items()
    }
    settings, _ = configs.settings(run.config, saved=True)
    validation = concatenate(
        [
            scorer.score(run.parameters, folder, "validation", methods=_trained_on(run, folder))
            for folder in sets.validation
        ]
    )
    banks = {name: run.parameters}
    if controls:
        if reason := _why_no_start(settings.init, clip):
            note(f"note: the row {UNTUNED!r} is left out: {reason}")
        else:
            banks[UNTUNED] = explanations.untuned_text(
                scorer.plan, settings.seed, run.parameters, clip
            )
    # Fitted again for the run too, so that all rows are made in the same way, whatever version trained it.
    explainers = {
        label: explanations.fit(
            explanations.embed_bank(scorer.plan, parameters, scorer.tokenizer), validation
        )
        for label, parameters in banks.items()
    }
    figures: dict[str, dict[str, Any]] = {key: {} for key in tested}
    for key, scores in tested.items():
        for label, explainer in explainers.items():
            assert explainer is not None and scores.embedding is not None  # noqa: PT018
            reasons = explanations.with_reasons(scores, explainer, run.calibration)
            raw = explanation.raw_scores(explainer.directions, scores.embedding).regions
            figures[key][label] = _figures(reasons, reasons.regions_in_reasons(), raw, sets.split)
        if controls:
            every = np.tile(_best_constant(validation), (len(scores), 1))
            figures[key][CONSTANT] = _figures(scores, every, np.zeros(every.shape), sets.split)
    return figures


def _trained_on(run: TrainedRun, folder: str) -> tuple[str, ...]:
    """The methods of a validation set that the run was trained on; all where none of them is known.

    A method that the run has not seen must not calibrate reasons that are then scored on it.
    """
    split = PackedSplit(folder, "validation")
    available = {split.methods[number] for number in set(split.index["method"].tolist())}
    known = tuple(name for name in run.methods if name in available)
    if not known:
        note(
            f"note: {folder}: not known to hold methods of the training; all of its methods calibrate"
        )
    return known


def _why_no_start(init: InitConfig, clip: str) -> str:
    """Why the text tower before training is unknown; '' if it is known."""
    if init.resume:
        return "the run continued another one; score that one"
    if init.clip and not clip:
        return "give the CLIP that the run started from as --clip=DIR"
    if clip and not init.clip:
        raise UserError("--clip: the text tower of this run started at random; leave the flag out")
    return ""


def _best_constant(validation: Scores) -> np.ndarray:
    """The regions, bool [4], that give the best F1 per image on validation if named for every fake."""
    fake = validation.label == 1
    assert validation.regions is not None
    truth = validation.regions[fake]
    choices = [np.array(flags) for flags in itertools.product((False, True), repeat=4)]
    scored = [
        region_scores(np.tile(flags, (len(truth), 1)), truth)["mean_per_image"]["f1"]
        for flags in choices
    ]
    return choices[int(np.argmax(scored))]


def _figures(scores: Scores, named: Any, ranking: Any, split: str) -> dict[str, Any]:
    fake = scores.label == 1
    assert scores.regions is not None
    if not fake.any():
        raise UserError(f"split {split!r} has no fakes")
    figures = region_scores(named[fake], scores.regions[fake])
    figures["auc"] = region_aucs(ranking[fake], scores.regions[fake])
    figures["reals_named"] = float(named[~fake].any(axis=1).mean()) if (~fake).any() else None
    return figures


def table_rows(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields the table rows of one set, in the columns of HEADER."""
    for label, figures in rows.items():
        overall = [
            _number(figures[kind][key])
            for kind in ("mean_per_image", "micro")
            for key in ("precision", "recall", "f1")
        ]
        by_region = []
        for region in REGIONS:
            scores = figures["regions"][region]
            values = scores["precision"], scores["recall"], figures["auc"][region]
            by_region.append("/".join(map(_number, values)))
        yield [label, *overall, _number(figures["reals_named"]), *by_region]


def maps_line(name: str, scored: Mapping[str, Any] | None) -> str:
    """The result of `heatmaps.score_maps` for a run, in words."""
    if scored is None:
        return f"heat maps of {name}: no mask of the set covers a patch"
    return (
        f"heat maps of {name}, AUC of patches over {scored['fakes']} fakes: classifier "
        f"{_number(scored['classifier'])}, reasons {_number(scored['reasons'])}; controls: another fake's map "
        f"{_number(scored['classifier_of_another'])}, nearness to the center {_number(scored['center'])}"
    )


def _number(value: float | None) -> str:
    return "--" if value is None else f"{value:.2f}"
