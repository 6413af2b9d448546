"""Exports a trained detector: python -m launch.export --workdir=DIR --out=DIR.

In OUT: hf/ (for transformers), heads.safetensors, adapter/ (for PEFT, where the run has adapters), orbax/,
model.stablehlo, calibration, tokenizer, config, README.md (the model card), SHA256SUMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jax_vlffd.errors import UserError
from launch.cli import command
from launch.cli.outputs import FOLDER
from launch.experiment import remote_workdir

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A trained workdir: a folder, or gs://BUCKET/RUN.")
flags.DEFINE_string("out", None, "Folder to create; it must not exist yet.")
flags.DEFINE_enum("step", "best", ["best", "latest"], "Which checkpoint.")
flags.DEFINE_string(
    "metrics", None,
    "An evaluation's metrics.json for the model card; by default the one in WORKDIR or in its folder "
    "evaluation/ or report/.",
)  # fmt: skip
flags.DEFINE_string("name", None, "Name of the model in its card; by default the workdir's name.")
flags.DEFINE_list(
    "train_data", [],
    "Packed sets that it was trained on, for a workdir of an older version that did not record them.",
)  # fmt: skip
flags.DEFINE_list("validation", [], "Packed sets that it was validated on, likewise.")
flags.mark_flags_as_required(["workdir", "out"])


def main(argv: Sequence[str]) -> None:
    """Exports the run of --workdir."""
    out = Path(FLAGS.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out, or remove it first")
    from launch.experiment import export

    with remote_workdir.local(FLAGS.workdir) as workdir:
        metrics = export.evaluation_of(workdir, FLAGS.metrics)
        step = export.export(
            workdir, out, step=FLAGS.step, name=FLAGS.name, metrics=metrics,
            train_data=FLAGS.train_data, validation=FLAGS.validation,
        )  # fmt: skip
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"exported step {step} of {FLAGS.workdir} to {out}, {size / 1e6:,.1f} MB; see {out}/README.md"
    )


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER}, reads=["workdir", "metrics"])
