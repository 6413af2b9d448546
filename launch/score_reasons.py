"""Scores the regions that a run's reasons name, and its heat maps, against the records' regions and masks.

  python -m launch.score_reasons --workdir=DIR --data=NAME=DIR --validation=DIR [--compare=NAME=WORKDIR]

Reasons are calibrated on the split `validation` of the sets of --validation. Controls: the same run with its
text tower as it was before training, calibrated alike; naming the same regions for every fake, those that do
best on validation; and other runs by --compare, such as one trained with --config.data.captions=shuffled.
No set or checkpoint is opened because a run's config names it: a run may be a stranger's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.cli import command

if TYPE_CHECKING:
    from jax_vlffd.config import InitConfig
    from jax_vlffd.evaluation.scores import Scores
    from launch.experiment.workdir import Run

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A trained workdir.", required=True)
flags.DEFINE_multi_string("data", [], "NAME=DIR: a packed set to score on; repeat for several.")
flags.DEFINE_list(
    "validation",
    [],
    "Packed sets, separated by commas, whose split `validation` calibrates the reasons.",
)
flags.DEFINE_string(
    "clip",
    "",
    "The CLIP that the run started from (its init.clip): a folder or a hub id, for the control.",
)
flags.DEFINE_multi_string("compare", [], "NAME=WORKDIR: a further run.")
flags.DEFINE_string("split", "test", "The split that is scored.")
flags.DEFINE_string("out", "", "JSON file for the figures.")

UNTUNED, CONSTANT = "untuned text tower", "the same regions for all"


def main(argv: Sequence[str]) -> None:
    """Scores and prints the table."""
    from jax_vlffd.errors import UserError

    sets = dict(_named("--data", text) for text in FLAGS.data)
    if not sets:
        raise UserError("no set to score on; add --data=NAME=DIR, DIR being a packed set")
    if not FLAGS.validation:
        raise UserError(
            "nothing to calibrate the reasons on; add --validation=DIR, DIR being a packed set with a split "
            "'validation', as the run was validated on"
        )
    others = [_named("--compare", text) for text in FLAGS.compare]
    command.use_compilation_cache()
    from launch.experiment.workdir import load_run

    found: dict[str, dict[str, Any]] = {name: {} for name in sets}
    run = load_run(Path(FLAGS.workdir))
    from launch.evaluation.heatmaps import score_maps

    runs = {run.name: Path(FLAGS.workdir)} | dict(others)
    _score(run, run.name, sets, found, controls=True)
    for name, folder in others:
        _score(load_run(folder), name, sets, found, controls=False)
    maps = {
        key: {name: score_maps(folder, packed, FLAGS.split) for name, folder in runs.items()}
        for key, packed in sets.items()
    }
    for name, rows in found.items():
        print(_table(name, rows))
        for run_name, scored in maps[name].items():
            print(_maps(run_name, scored))
    if FLAGS.out:
        from data_pipeline.core.files import atomic_write_text

        content = {"version": 1, "split": FLAGS.split, "sets": found, "maps": maps}
        atomic_write_text(Path(FLAGS.out), json.dumps(content, indent=2) + "\n")


def _named(flag: str, text: str) -> tuple[str, Path]:
    from jax_vlffd.errors import UserError

    name, _, path = text.partition("=")
    if not name or not path:
        raise UserError(f"{flag}={text}: write NAME=PATH")
    return name, Path(path)


def _score(
    run: Run, name: str, sets: dict[str, Path], found: dict[str, dict[str, Any]], controls: bool
) -> None:
    from jax_vlffd import explanation
    from jax_vlffd.errors import UserError
    from launch.experiment import config as configs
    from launch.experiment import explanations

    scorer = run.scorer
    if scorer.plan.spec.loss.alignment <= 0:
        raise UserError(
            f"{name} has no bank of sentences: it was trained without the alignment branch"
        )
    tested = {
        key: scorer.score(run.parameters, folder, FLAGS.split) for key, folder in sets.items()
    }
    validation = _validation(run)
    banks = {name: run.parameters}
    if controls:
        settings, _ = configs.settings(run.config)
        missing = _why_no_start(settings.init, FLAGS.clip)
        if missing:
            print(f"note: there is no row {UNTUNED!r}: {missing}")
        else:
            banks[UNTUNED] = explanations.untuned_text(
                scorer.plan, settings.seed, run.parameters, FLAGS.clip
            )
        constant = _best_constant(validation)
    # Fitted anew, that of the run too: so all rows are made alike, whatever version trained the run.
    explainers = {
        label: explanations.fit(
            explanations.embed_bank(scorer.plan, parameters, scorer.tokenizer), validation
        )
        for label, parameters in banks.items()
    }
    for key, scores in tested.items():
        for label, explainer in explainers.items():
            assert explainer is not None and scores.embedding is not None  # noqa: PT018
            said = explanations.with_reasons(scores, explainer, run.calibration)
            raw = explanation.raw_scores(explainer.directions, scores.embedding).regions
            found[key][label] = _figures(said, said.regions_in_reasons(), raw)
        if controls:
            import numpy as np

            every = np.tile(constant, (len(scores), 1))
            found[key][CONSTANT] = _figures(scores, every, np.zeros(every.shape))


def _why_no_start(init: InitConfig, clip: str) -> str:
    """Why the text tower before training is not known, '' where it is."""
    from jax_vlffd.errors import UserError

    if init.resume:
        return "the run continued another one; score the one that began it"
    if init.clip and not clip:
        return "name the CLIP that the run started from by --clip=DIR"
    if clip and not init.clip:
        raise UserError("--clip: the text tower of this run started at random; leave the flag out")
    return ""


def _validation(run: Run) -> Scores:
    from jax_vlffd.evaluation.scores import concatenate

    return concatenate(
        [run.scorer.score(run.parameters, folder, "validation") for folder in FLAGS.validation]
    )


def _best_constant(validation: Scores) -> Any:
    """The regions, bool [4], that named for every fake give the best F1 per image on validation."""
    import numpy as np

    from jax_vlffd.evaluation.metrics import region_scores

    fake = validation.label == 1
    assert validation.regions is not None
    truth = validation.regions[fake]
    choices = [np.array(flags) for flags in itertools.product((False, True), repeat=4)]
    scored = [
        region_scores(np.tile(flags, (len(truth), 1)), truth)["mean_per_image"]["f1"]
        for flags in choices
    ]
    return choices[int(np.argmax(scored))]


def _figures(scores: Scores, named: Any, ranking: Any) -> dict[str, Any]:
    """`metrics.region_scores` over the fakes, with `region_aucs` of the scores before any threshold under
    `auc`, and the share of reals of which any region is named.
    """
    from jax_vlffd.errors import UserError
    from jax_vlffd.evaluation.metrics import region_aucs, region_scores

    fake = scores.label == 1
    assert scores.regions is not None
    if not fake.any():
        raise UserError(f"split {FLAGS.split!r} holds no fakes")
    found = region_scores(named[fake], scores.regions[fake])
    found["auc"] = region_aucs(ranking[fake], scores.regions[fake])
    found["reals_named"] = float(named[~fake].any(axis=1).mean()) if (~fake).any() else None
    return found


def _table(name: str, rows: dict[str, Any]) -> str:
    from jax_vlffd.vocabulary import REGIONS

    width = max(map(len, rows))
    fakes = next(iter(rows.values()))["images"]
    lines = [
        f"{name}: {fakes} fakes of split {FLAGS.split}",
        f"{'':{width}}  per image: P     R     F1   all: P     R     F1   reals named   "
        + "  ".join(f"{region} P/R/AUC" for region in REGIONS),
    ]
    for label, found in rows.items():
        parts = [
            found[kind][key]
            for kind in ("mean_per_image", "micro")
            for key in ("precision", "recall", "f1")
        ]
        each = [
            "/".join(
                _number(value)
                for value in (
                    found["regions"][r]["precision"],
                    found["regions"][r]["recall"],
                    found["auc"][r],
                )
            )
            for r in REGIONS
        ]
        lines.append(
            f"{label:{width}}        {'  '.join(map(_number, parts[:3]))}      "
            f"{'  '.join(map(_number, parts[3:]))}         {_number(found['reals_named'])}   {'  '.join(each)}"
        )
    return "\n".join(lines)


def _maps(name: str, scored: dict[str, Any] | None) -> str:
    if scored is None:
        return f"heat maps of {name}: no mask of the set covers a patch"
    return (
        f"heat maps of {name}, AUC of patches over {scored['fakes']} fakes: classifier "
        f"{_number(scored['classifier'])}, reasons {_number(scored['reasons'])}; controls: another's map "
        f"{_number(scored['classifier_of_another'])}, nearness to the centre {_number(scored['centre'])}"
    )


def _number(value: float | None) -> str:
    return " -- " if value is None else f"{value:.2f}"


if __name__ == "__main__":
    command.run(main)
