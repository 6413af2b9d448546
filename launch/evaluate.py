"""Evaluates detectors on packed sets, or on scores that any detector wrote.

`python -m launch.evaluate --workdir=DIR --data=NAME=DIR [...] --out=DIR` scores every frame and
writes `metrics.json`, `scores.csv` and `report.html`. `--from_scores=[NAME=]FILE` (repeatable)
takes scores instead of a model and computes everything anew; several detectors stand side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from data_pipeline.packed import remote
from jax_vlffd.errors import UserError
from launch.cli import command
from launch.evaluation.pictures import thumbnails
from launch.experiment import agreement, distributed, remote_workdir, results

if TYPE_CHECKING:
    from jax_vlffd.evaluation.calibration import Calibration
    from jax_vlffd.evaluation.comparison import Detector
    from jax_vlffd.evaluation.scores import Scores
    from launch.experiment.workdir import Run

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "workdir", "", "A trained workdir (a folder, or gs://BUCKET/RUN), or an export."
)
flags.DEFINE_multi_string("data", [], "NAME=DIR: a packed set to test on; repeat for several.")
flags.DEFINE_string("out", None, "Folder for metrics.json, scores.csv and report.html.")
flags.DEFINE_multi_string(
    "compare", [], "NAME=WORKDIR: a further run, side by side; with --matrix a name may repeat."
)
flags.DEFINE_multi_string(
    "from_scores",
    [],
    "[NAME=]FILE: a scores.csv instead of a model; the same NAME again adds further sets to it.",
)
flags.DEFINE_multi_string(
    "calibration",
    [],
    "[NAME=]FILE: the calibration.json of a detector of --from_scores. Without it, rows of split "
    "`validation` in its scores calibrate it, if there are any.",
)
flags.DEFINE_list(
    "train_data",
    [],
    "Packed sets that the runs were trained on, for runs that do not tell (made before that was kept).",
)
flags.DEFINE_string("name", "", "What the report calls the run of --workdir.")
flags.DEFINE_string("split", "test", "The split that is tested.")
flags.DEFINE_bool("matrix", False, "Add the table: trained on these methods, tested on each.")
flags.DEFINE_bool("robustness", False, "Score corrupted pictures too: five kinds, five strengths.")
flags.DEFINE_integer("bootstrap", 1000, "Resamples for the intervals; 0 for none.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of the resampling and of the examples drawn.", lower_bound=0)
flags.DEFINE_integer("examples", 12, "Pictures in each gallery of the report.", lower_bound=0)
flags.mark_flag_as_required("out")

#: Flags that figures or report depend on.
_ASKED = ("split", "bootstrap", "seed", "matrix", "robustness", "examples")


def main(argv: Sequence[str]) -> None:
    """Evaluates what the flags name, and writes the three files."""
    if bool(FLAGS.workdir) == bool(FLAGS.from_scores):
        raise UserError("give either --workdir (a trained run) or --from_scores (a scores.csv)")
    if FLAGS.from_scores and (FLAGS.compare or FLAGS.robustness):
        raise UserError("--compare and --robustness need models: they go with --workdir only")
    if FLAGS.from_scores and FLAGS.train_data:
        raise UserError("--train_data goes with --workdir: nothing is trained for --from_scores")
    if FLAGS.workdir and FLAGS.calibration:
        raise UserError("--calibration goes with --from_scores; a run has its own calibration")
    sets = _named(FLAGS.data, "--data")
    if FLAGS.workdir and not sets:
        raise UserError("no set to test on; add --data=NAME=DIR, DIR being a packed set")

    if FLAGS.workdir:
        asked = {
            name: FLAGS[name].value
            for name in ("workdir", "data", "compare", "split", "robustness", "train_data")
        }
        # Every process scores its share, and knows all the scores.
        with distributed.joined(asked) as peers, remote_workdir.local(FLAGS.workdir) as workdir:
            agreement.check_read(
                peers,
                {
                    f"set {folder}": remote.set_digest(local)
                    for folder in sets.values()
                    if ((local := remote.local(folder)) / "index").is_dir()  # else told below
                },
            )
            detectors, asked, lies, robustness = _from_runs(workdir, sets)
            if peers.index == 0:
                _write(Path(FLAGS.out), detectors, sets, asked, lies, robustness)
        return
    files = [_pair(text, "--from_scores") for text in FLAGS.from_scores]
    detectors, digests = _from_scores(files)
    known = detectors[0].sets
    unknown = [name for name in sets if name not in known]
    if unknown:  # pictures would be missing and nobody would know why
        raise UserError(
            f"--data={unknown[0]}=...: {detectors[0].name} has no scores of a set of this name, "
            f"it has {', '.join(known)}"
        )
    asked = {"scores": digests, "sets": results.described_sets(sets)}
    _write(Path(FLAGS.out), detectors, sets, asked, {}, {})


def _pair(text: str, flag: str) -> tuple[str, Path]:
    """Splits NAME=PATH; a text without a name gives an empty one."""
    name, found, path = text.partition("=")
    if not found or "/" in name:  # a path may hold an equals sign
        name, path = "", text
    if not path or (found and not name):
        raise UserError(f"{flag}={text}: write NAME=PATH")
    return name, Path(path)


def _named(texts: Iterable[str], flag: str) -> dict[str, Path]:
    """NAME=PATH flags whose names are needed and differ."""
    found: dict[str, Path] = {}
    for text in texts:
        name, path = _pair(text, flag)
        if not name:
            raise UserError(f"{flag}={text}: write NAME=PATH")
        if name in found:
            raise UserError(
                f"{flag}: the name {name!r} is given twice; give the second another name"
            )
        found[name] = path
    return found


def _from_scores(
    files: Sequence[tuple[str, Path]],
) -> tuple[list[Detector], list[dict[str, str]]]:
    """The detectors of scores files, of whose rows those of --split count, and the digests of all files."""
    from jax_vlffd.evaluation import scores as tables
    from jax_vlffd.evaluation.comparison import Detector

    parts: dict[str, list[Scores]] = {}
    digests: list[dict[str, str]] = []
    for name, path in files:
        found = tables.from_csv(_read(path, digests), str(path))
        for inner, scores in found.items():
            both = [name, inner] if len(found) > 1 else [name or inner]
            label = "/".join(filter(None, both)) or path.stem
            if label in parts and not name:
                raise UserError(
                    f"{path}: another file holds a detector {label!r} too; tell them apart by "
                    "--from_scores=NAME=FILE"
                )
            parts.setdefault(label, []).append(scores)
    given = _given_calibrations(parts, digests)
    detectors = []
    for label, found_parts in parts.items():
        tables.refuse_shared_videos(found_parts, label)
        everything = tables.concatenate(found_parts)
        tables.refuse_repeats(everything, label)
        tested = everything.select((everything.split == FLAGS.split) | (everything.split == ""))
        if not len(tested):
            splits = ", ".join(sorted(set(everything.split.tolist())))
            raise UserError(f"{label}: no scores of split {FLAGS.split!r}; it has {splits}")
        fitted = given.pop(label, None)
        if fitted is None:
            fitted = _fit(everything.select(everything.split == "validation"))
        detectors.append(Detector(label, tested, _measure(tested, fitted), fitted))
    if given:
        raise UserError(f"--calibration names {', '.join(given)}; detectors are {', '.join(parts)}")
    return detectors, digests


def _given_calibrations(
    detectors: Iterable[str], digests: list[dict[str, str]]
) -> dict[str, Calibration]:
    """The calibrations of --calibration by detector; a name may be left out for a lone detector."""
    from jax_vlffd.evaluation.calibration import Calibration

    names = list(detectors)
    found = {}
    for text in FLAGS.calibration:
        name, path = _pair(text, "--calibration")
        if not name and len(names) > 1:
            raise UserError(f"--calibration={text}: of which detector? write NAME={path}")
        found[name or names[0]] = Calibration.from_json(_read(path, digests), str(path))
    return found


def _fit(held_out: Scores) -> Calibration | None:
    """A calibration fitted on validation scores; None without both classes or when tested on."""
    from jax_vlffd.evaluation import calibration

    if FLAGS.split == "validation" or not 0 < held_out.label.sum() < len(held_out):
        return None
    return calibration.fit(held_out.logits(), held_out.label)


def _read(path: Path, digests: list[dict[str, str]]) -> str:
    """The text of a file, whose digest is added to `digests`."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    digests.append({"file": str(path), "sha256": hashlib.sha256(data).hexdigest()})
    return text


def _from_runs(
    workdir: Path, sets: Mapping[str, Path]
) -> tuple[list[Detector], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Scores every set by the run and by those it is compared with.

    Returns:
      The detectors; their `models` and `sets` as `results` describes them; how the sets' faces lie, by
      detector and set; and the figures of --robustness.
    """
    from data_pipeline.packed.reader import PackedSplit
    from jax_vlffd.evaluation import scores as tables
    from jax_vlffd.evaluation.comparison import UNKNOWN, Detector
    from jax_vlffd.inference.trained import trained_name
    from launch.experiment.workdir import load_run, require_run

    wanted = [(FLAGS.name, workdir)]
    wanted += [_pair(text, "--compare") for text in FLAGS.compare]
    # What is missing or named twice is told now, not when the others have been scored.
    groups: list[str] = []
    for given, folder in wanted:
        require_run(folder)
        group = given or trained_name(folder)
        if group in groups and not FLAGS.matrix:
            raise UserError(f"two runs are named {group!r}; use --name and --compare=NAME=WORKDIR")
        groups.append(group)
    for set_dir in sets.values():
        PackedSplit(set_dir, FLAGS.split)
    described = results.described_sets(sets)
    detectors: list[Detector] = []
    models: list[dict[str, Any]] = []
    robustness: dict[str, Any] = {}
    lies: dict[str, Any] = {}
    for group, (_, folder) in zip(groups, wanted, strict=True):
        run = load_run(folder, train_data=FLAGS.train_data)
        repeats = sum(detector.group == group for detector in detectors)
        name = f"{group} ({repeats + 1})" if repeats else group
        if not run.methods:
            print(f"{name}: {UNKNOWN}; name the sets that it was trained on by --train_data=DIR")
        parts = []
        for set_name, set_dir in sets.items():
            print(f"{name}: scoring {set_name}", flush=True)
            parts.append(run.score(str(set_dir), FLAGS.split).named(set_name))
        models.append(results.described_model(name, FLAGS.workdir if not models else folder, run))
        lies[name] = results.compared_geometry(run.geometry, sets, FLAGS.split)
        scores = tables.concatenate(parts)
        measured = _measure(scores, run.calibration)
        detectors.append(
            Detector(name, scores, measured, run.calibration, run.history, run.methods, group)
        )
        if FLAGS.robustness:
            robustness[name] = {
                set_name: _robustness(run, name, set_name, set_dir, scores)
                for set_name, set_dir in sets.items()
            }
    if results.described_sets(sets) != described:
        raise UserError("a set of --data changed while it was scored; start again")
    return detectors, {"models": models, "sets": described}, lies, robustness


def _measure(scores: Scores, calibration: Calibration | None) -> dict[str, Any]:
    from jax_vlffd.evaluation import metrics

    return metrics.evaluate(scores, calibration, FLAGS.bootstrap, FLAGS.seed)


def _robustness(
    run: Run, name: str, set_name: str, set_dir: Path, clean: Scores
) -> dict[str, list[dict[str, Any]]]:
    """Frame and video AUC of a set by kind of corruption and strength (0: as stored)."""
    from data_pipeline.loading.corruptions import KINDS, Corruption
    from jax_vlffd.evaluation import metrics

    def point(strength: int, scores: Scores) -> dict[str, Any]:
        values = metrics.measure(scores, resamples=0).values
        return {"strength": strength, **{k: values[k] for k in ("frame_auc", "video_auc")}}

    untouched = point(0, clean.select(clean.set_name == set_name))
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        found[kind] = [untouched]
        for strength in range(1, 6):
            print(f"{name}: scoring {set_name}, {kind} {strength}", flush=True)
            scored = run.score(str(set_dir), FLAGS.split, transform=Corruption(kind, strength))
            found[kind].append(point(strength, scored))
    return found


def _write(
    out: Path,
    detectors: Sequence[Detector],
    sets: Mapping[str, Path],
    asked: Mapping[str, Any],
    lies: Mapping[str, Any],
    robustness: Mapping[str, Any],
) -> None:
    """Writes the three files.

    asked: models or scores, and sets, with their digests. lies: geometry of the sets by detector and set.
    """
    from jax_vlffd.evaluation import comparison
    from jax_vlffd.evaluation import scores as tables
    from jax_vlffd.reports import evaluation, gallery

    main_one = detectors[0]
    matrix = comparison.matrix(detectors) if FLAGS.matrix else []
    facts = {
        "Split": FLAGS.split,
        "Detectors": ", ".join(detector.name for detector in detectors),
        "Sets": ", ".join(main_one.sets),
        "Frames": f"{len(main_one.scores):,}",
        "Intervals": f"{FLAGS.bootstrap} resamples of videos, seed {FLAGS.seed}",
    }
    if FLAGS.workdir:
        facts["Trained on"] = "; ".join(f"{d.name}: {d.methods_text()}" for d in detectors)
    outside = [
        f"{detector}, {name}: {results.outside_text(found)}"
        for detector, by_set in lies.items()
        for name, found in by_set.items()
        if found["verdict"] == "outside"
    ]
    if outside:
        facts["Geometry"] = "; ".join(outside)
    galleries = gallery.galleries(
        detectors,
        FLAGS.examples,
        FLAGS.seed,
        lambda rows: thumbnails(main_one.scores, rows, sets, FLAGS.split),
    )
    page = evaluation.render(
        f"Evaluation of {main_one.name}", facts, detectors,
        galleries, matrix, robustness,
    )  # fmt: skip
    content: dict[str, Any] = {
        "version": 1,
        "split": FLAGS.split,
        "bootstrap": {"resamples": FLAGS.bootstrap, "seed": FLAGS.seed, "confidence": 0.95},
        "request": {**asked, **{name: FLAGS[name].value for name in _ASKED}},
        **comparison.summary(detectors),
    }
    if lies:
        content["geometry"] = dict(lies)
    if matrix:
        content["matrix"] = matrix
    if robustness:
        content["robustness"] = robustness
    results.write(out, content, tables.to_csv({d.name: d.scores for d in detectors}), page)
    for detector in detectors:
        for name, found in detector.sets.items():
            print(f"{detector.name}, {name}: {found.overall.line()}")
    for text in outside:
        print(f"note: {text}")
    print(f"wrote {out}/metrics.json, scores.csv and report.html")


if __name__ == "__main__":
    command.run(main)
