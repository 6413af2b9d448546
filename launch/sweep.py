"""Trains a recipe's variants one after another and compares them.

  python -m launch.sweep --config=configs/X.py --workdir=DIR [--config.key=value] [--data=NAME=DIR]

The recipe's `get_sweep()` lists the variants. Each is a `launch.train` of its own, then a `launch.evaluate`:
on the packed sets of --data, or on the recipe's validation sets. Finished runs are skipped, interrupted ones
are continued, and failures are recorded without stopping the others. In DIR: runs/, logs/, failures/,
summary.csv and summary.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jax_vlffd.reports.sweep import METRICS
from launch.cli import command
from launch.cli.flags import named_paths, shard
from launch.cli.outputs import FOLDER

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe with a get_sweep(), as configs/demo.py."
)

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the sweep; created if missing.")
flags.DEFINE_bool("list", False, "Print the runs and their status.")
flags.DEFINE_bool("dry_run", False, "Print the commands that would run, and run none.")
flags.DEFINE_integer("index", None, "Run only this one, counted from 0.", lower_bound=0)
flags.DEFINE_string("shard", None, "i/n: every n-th run, starting with the i-th.")
flags.DEFINE_multi_string("data", [], "NAME=DIR: a packed set to compare on; repeat for several.")
flags.DEFINE_string("split", "test", "The split of --data; the recipe's own sets: validation.")
flags.DEFINE_enum("metric", "frame_auc", list(METRICS), "Metric to sort the table by, and to plot.")
flags.DEFINE_integer("bootstrap", 1000, "Resamples for the intervals; 0 for none.", lower_bound=0)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    """Lists or runs the sweep; the exit status is 1 if any run failed."""
    del argv
    from jax_vlffd.errors import UserError
    from jax_vlffd.path_containment import check_contained
    from launch.experiment import config as configs
    from launch.sweeps import plan, run

    if FLAGS.index is not None and FLAGS.shard is not None:
        raise UserError("--index and --shard both choose runs; give one of them")
    recipe = str(config_flags.get_config_filename(FLAGS["config"]))
    keys = config_flags.get_override_values(FLAGS["config"])
    flat = configs.flat(json.loads(_CONFIG.value.to_json()))
    command_line = {key: flat[key] for key in keys}
    runs = plan.plan(_CONFIG.value, plan.read_sweep(Path(recipe)), command_line)
    if FLAGS.index is not None and FLAGS.index >= len(runs):
        raise UserError(f"--index={FLAGS.index}: the sweep has runs 0 to {len(runs) - 1}")
    chosen = runs[shard(FLAGS.shard)] if FLAGS.shard else runs
    chosen = runs[FLAGS.index : FLAGS.index + 1] if FLAGS.index is not None else chosen
    sets, split = named_paths(FLAGS.data, "--data"), FLAGS.split
    if not sets:
        sets, split = run.validation_sets(flat["data.validation"]), "validation"
    folder = plan.SweepFolder(Path(FLAGS.workdir))
    for inner in (plan.LOGS, plan.FAILURES):
        check_contained(folder.path / inner)
    request = run.request(sets, split, FLAGS.bootstrap)
    sweep = run.Sweep(recipe, folder, runs, request, FLAGS.metric)
    if FLAGS.list:
        sweep.print_runs(chosen)
        return
    folder.check(runs)
    if FLAGS.dry_run:
        sweep.print_commands(chosen)
        return
    if not sets:
        raise UserError(
            "no set to train and compare on: give --config.data.train=DIR and "
            "--config.data.validation=DIR, and --data=NAME=DIR for a separate set to compare on"
        )
    sweep.run(chosen)


if __name__ == "__main__":
    command.run(main, writes={"workdir": FOLDER})
