"""Evaluates detectors on packed sets, or from existing scores.

`python -m launch.evaluate --workdir=DIR --data=NAME=DIR [...] --out=DIR` scores every frame and
writes `metrics.json`, `scores.csv` and `report.html`. `--from_scores=[NAME=]FILE` (repeatable)
evaluates scores of any detector instead; several detectors are compared side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from data_pipeline.packed import remote
from jax_vlffd.errors import UserError
from launch.cli import command
from launch.cli.flags import name_and_path, named_paths
from launch.cli.outputs import FOLDER
from launch.experiment import agreement, distributed, remote_workdir

if TYPE_CHECKING:
    from launch.evaluation.scoring import EvaluateSettings

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
    "Packed sets that the runs were trained on, for runs of older versions that did not record them.",
)
flags.DEFINE_string("name", "", "Name of the run of --workdir in the report.")
flags.DEFINE_string("split", "test", "The split that is tested.")
flags.DEFINE_bool("matrix", False, "Add the table: trained on these methods, tested on each.")
flags.DEFINE_bool("robustness", False, "Score corrupted pictures too: five kinds, five strengths.")
flags.DEFINE_integer("bootstrap", 1000, "Resamples for the intervals; 0 for none.", lower_bound=0)
flags.DEFINE_integer(
    "seed", 0, "Seed of the resampling and of the example pictures.", lower_bound=0
)
flags.DEFINE_integer("examples", 12, "Pictures in each gallery of the report.", lower_bound=0)
flags.mark_flag_as_required("out")


def main(argv: Sequence[str]) -> None:
    """Evaluates what the flags name, and writes the three files."""
    del argv
    if bool(FLAGS.workdir) == bool(FLAGS.from_scores):
        raise UserError("give either --workdir (a trained run) or --from_scores (a scores.csv)")
    if FLAGS.from_scores and (FLAGS.compare or FLAGS.robustness):
        raise UserError("--compare and --robustness need models: they go with --workdir only")
    if FLAGS.from_scores and FLAGS.train_data:
        raise UserError("--train_data goes with --workdir only: scores have no training sets")
    if FLAGS.workdir and FLAGS.calibration:
        raise UserError("--calibration goes with --from_scores; a run has its own calibration")
    sets = named_paths(FLAGS.data, "--data")
    if FLAGS.workdir and not sets:
        raise UserError("no set to test on; add --data=NAME=DIR, DIR being a packed set")
    if FLAGS.workdir:
        _evaluate_runs(sets)
    else:
        _evaluate_scores(sets)


def _evaluate_runs(sets: dict[str, str]) -> None:
    names = ("workdir", "data", "compare", "split", "robustness", "train_data")
    # Every process scores its share and receives all scores.
    with (
        distributed.joined({name: FLAGS[name].value for name in names}) as peers,
        remote_workdir.local(FLAGS.workdir) as workdir,
    ):
        agreement.check_read(
            peers,
            {
                f"set {folder}": remote.set_digest(local)
                for folder in sets.values()
                if (
                    (local := remote.local(folder)) / "index"
                ).is_dir()  # otherwise an error follows
            },
        )
        from launch.evaluation import scoring, writing

        others = [name_and_path(text, "--compare") for text in FLAGS.compare]
        runs = [(FLAGS.name, workdir), *((name, Path(folder)) for name, folder in others)]
        settings = _settings()
        scored = scoring.score_runs(runs, sets, settings, FLAGS.train_data)
        if peers.index == 0:
            writing.write(Path(FLAGS.out), scored, sets, settings)


def _evaluate_scores(sets: dict[str, str]) -> None:
    from launch.evaluation import scoring, writing

    files = [name_and_path(text, "--from_scores") for text in FLAGS.from_scores]
    fitted = [name_and_path(text, "--calibration") for text in FLAGS.calibration]
    settings = _settings()
    scored = scoring.read_scores(files, fitted, sets, settings)
    writing.write(Path(FLAGS.out), scored, sets, settings)


def _settings() -> EvaluateSettings:
    from launch.evaluation.scoring import EvaluateSettings

    names = [field.name for field in dataclasses.fields(EvaluateSettings)]
    values: dict[str, Any] = {name: FLAGS[name].value for name in names}
    return EvaluateSettings(**values)


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER}, reads=["from_scores", "calibration"])
