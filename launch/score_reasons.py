"""Scores the regions that a run's reasons name, and its heat maps, against the records' regions and masks.

  python -m launch.score_reasons --workdir=DIR --data=NAME=DIR --validation=DIR [--compare=NAME=WORKDIR]

Reasons are calibrated on the split `validation` of the sets of --validation. Controls: the same run with its
text tower as before training, calibrated in the same way; the fixed regions for every fake that score best on
validation; and other runs by --compare, such as one trained with --config.data.captions=shuffled.
Sets and checkpoints that a run's config names are not opened: a run is untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command
from launch.cli.flags import named_paths
from launch.cli.outputs import FILE

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


def main(argv: Sequence[str]) -> None:
    """Scores and prints the table."""
    del argv
    from jax_vlffd.errors import UserError, printable

    sets = named_paths(FLAGS.data, "--data")
    if not sets:
        raise UserError("no set to score on; add --data=NAME=DIR, DIR being a packed set")
    if not FLAGS.validation:
        raise UserError(
            "no set to calibrate the reasons on; add --validation=DIR, DIR being a packed set with a split "
            "'validation', as the run was validated on"
        )
    others = named_paths(FLAGS.compare, "--compare")
    command.use_compilation_cache()
    from jax_vlffd.file_writing import atomic_write_text
    from launch.cli import table
    from launch.evaluation import reasons
    from launch.evaluation.heatmaps import score_maps
    from launch.experiment.workdir import load_run

    reason_sets = reasons.ReasonSets(sets, FLAGS.split, FLAGS.validation)
    run = load_run(Path(FLAGS.workdir))
    figures = reasons.score_reasons(run, run.name, reason_sets, FLAGS.clip, controls=True)
    for name, folder in others.items():
        for key, rows in reasons.score_reasons(load_run(Path(folder)), name, reason_sets).items():
            figures[key] |= rows
    runs = {run.name: FLAGS.workdir} | others
    maps = {
        key: {
            name: score_maps(Path(folder), Path(packed), FLAGS.split)
            for name, folder in runs.items()
        }
        for key, packed in sets.items()
    }
    for key, rows in figures.items():
        fakes = next(iter(rows.values()))["images"]
        title = f"{key}: {fakes} fakes of split {FLAGS.split}"
        table.show(reasons.table_rows(rows), reasons.HEADER, title)
        for name, scored in maps[key].items():
            print(printable(reasons.maps_line(name, scored)))
    if FLAGS.out:
        content = {"version": 1, "split": FLAGS.split, "sets": figures, "maps": maps}
        atomic_write_text(Path(FLAGS.out), json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    command.run(main, writes={"out": FILE})
