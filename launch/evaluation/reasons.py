"""Scores the regions that runs' reasons name against the records' regions, beside controls (ours)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_vlffd import explanation
from jax_vlffd.config import InitConfig
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.metrics import region_aucs, region_scores
from jax_vlffd.evaluation.scores import Scores, concatenate
from jax_vlffd.vocabulary import REGIONS
from launch.cli.progress import note
from launch.experiment import config as configs
from launch.experiment import explanations
from launch.experiment.workdir import Run

UNTUNED, CONSTANT = "untuned text tower", "the same regions for all"

#: Over the columns of `table_rows`.
HEADER = (
    "reasons of", "per image: P", "R", "F1", "all: P", "R", "F1", "reals named",
    *(f"{region} P/R/AUC" for region in REGIONS),
)  # fmt: skip


@dataclass(frozen=True)
class ReasonSets:
    """What reasons are scored on.

    Attributes:
      tested: packed sets by name.
      split: of these.
      validation: packed sets whose split `validation` calibrates the reasons.
    """

    tested: Mapping[str, str]
    split: str
    validation: Sequence[str]


def score_reasons(
    run: Run, name: str, sets: ReasonSets, clip: str = "", *, controls: bool = False
) -> dict[str, dict[str, Any]]:
    """The figures of a run's reasons, by set and by what they are of.

    Args:
      run: with a bank of sentences.
      name: of the run.
      sets: what to score on.
      clip: folder or hub id of the CLIP that the run started from, for the control.
      controls: whether the run with its text tower as it was before training, calibrated alike, and the
        same regions for every fake, those that do best on validation, are scored too.

    Returns:
      set -> row -> `metrics.region_scores` over the fakes, with `region_aucs` of the scores before any
      threshold under `auc`, and the share of reals of which any region is named under `reals_named`.

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
    validation = concatenate(
        [scorer.score(run.parameters, folder, "validation") for folder in sets.validation]
    )
    banks = {name: run.parameters}
    if controls:
        settings, _ = configs.settings(run.config)
        if missing := _why_no_start(settings.init, clip):
            note(f"note: there is no row {UNTUNED!r}: {missing}")
        else:
            banks[UNTUNED] = explanations.untuned_text(
                scorer.plan, settings.seed, run.parameters, clip
            )
    # Fitted anew, that of the run too: so all rows are made alike, whatever version trained the run.
    explainers = {
        label: explanations.fit(
            explanations.embed_bank(scorer.plan, parameters, scorer.tokenizer), validation
        )
        for label, parameters in banks.items()
    }
    found: dict[str, dict[str, Any]] = {key: {} for key in tested}
    for key, scores in tested.items():
        for label, explainer in explainers.items():
            assert explainer is not None and scores.embedding is not None  # noqa: PT018
            reasons = explanations.with_reasons(scores, explainer, run.calibration)
            raw = explanation.raw_scores(explainer.directions, scores.embedding).regions
            found[key][label] = _figures(reasons, reasons.regions_in_reasons(), raw, sets.split)
        if controls:
            every = np.tile(_best_constant(validation), (len(scores), 1))
            found[key][CONSTANT] = _figures(scores, every, np.zeros(every.shape), sets.split)
    return found


def _why_no_start(init: InitConfig, clip: str) -> str:
    """Why the text tower before training is not known, '' where it is."""
    if init.resume:
        return "the run continued another one; score the one that began it"
    if init.clip and not clip:
        return "name the CLIP that the run started from by --clip=DIR"
    if clip and not init.clip:
        raise UserError("--clip: the text tower of this run started at random; leave the flag out")
    return ""


def _best_constant(validation: Scores) -> np.ndarray:
    """The regions, bool [4], that named for every fake give the best F1 per image on validation."""
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
        raise UserError(f"split {split!r} holds no fakes")
    found = region_scores(named[fake], scores.regions[fake])
    found["auc"] = region_aucs(ranking[fake], scores.regions[fake])
    found["reals_named"] = float(named[~fake].any(axis=1).mean()) if (~fake).any() else None
    return found


def table_rows(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    """The figures of one set as the cells of a table, under HEADER."""
    for label, found in rows.items():
        overall = [
            _number(found[kind][key])
            for kind in ("mean_per_image", "micro")
            for key in ("precision", "recall", "f1")
        ]
        each = []
        for region in REGIONS:
            measured = found["regions"][region]
            values = measured["precision"], measured["recall"], found["auc"][region]
            each.append("/".join(map(_number, values)))
        yield [label, *overall, _number(found["reals_named"]), *each]


def maps_line(name: str, scored: Mapping[str, Any] | None) -> str:
    """What `heatmaps.score_maps` found for a run, in words."""
    if scored is None:
        return f"heat maps of {name}: no mask of the set covers a patch"
    return (
        f"heat maps of {name}, AUC of patches over {scored['fakes']} fakes: classifier "
        f"{_number(scored['classifier'])}, reasons {_number(scored['reasons'])}; controls: another's map "
        f"{_number(scored['classifier_of_another'])}, nearness to the center {_number(scored['center'])}"
    )


def _number(value: float | None) -> str:
    return "--" if value is None else f"{value:.2f}"
