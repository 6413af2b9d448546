"""Compiles a recipe's steps for a TPU pod that need not exist, and reports whether they fit and what they cost.

python -m launch.compile --config=configs/X.py --topology=v5e:16x16 [--out=JSON] [--config.key=value]

Needs `pip install 'jax-vlffd[tpu]'` on a machine without a TPU; `--topology=cpu:8` needs nothing more.
Exit status 3: it compiles but does not fit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.cli import command
from launch.cli.outputs import FILE

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, as configs/demo.py.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "As v5e:16x16, v5p:8x8x8 or cpu:8.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the summary.")
_TRY = flags.DEFINE_bool(
    "try_to_fit",
    True,
    "When it does not fit, compile with remat, fsdp and smaller batches in turn.",
)
flags.mark_flags_as_required(["config", "topology"])

#: Exit status when a step compiles but does not fit.
DOES_NOT_FIT = 3


def main(argv: Sequence[str]) -> None:
    """Compiles, prints a table, and writes the JSON."""
    from launch.compilation import topology
    from launch.experiment import config as configs

    run, data = configs.settings(_CONFIG.value)
    name = _TOPOLOGY.value or ""  # required by its flag
    topology.prepare(name)
    from launch.compilation import check  # imports JAX

    devices, chip = topology.devices(name)
    summary = check.compile_steps(run, data, devices, chip)
    if summary["fits"] is False and _TRY.value:
        summary["would_fit"] = check.search_fitting_settings(run, data, devices, chip)
    report = {
        "topology": name,
        "chip": chip.name if chip else "cpu",
        **summary,
        "batch_size": data.batch_size,
        "remat": run.model.compute.remat,
        "config": json.loads(_CONFIG.value.to_json()),
        "versions": configs.versions() | _libtpu(),
    }
    from jax_vlffd.file_writing import atomic_write_text
    from launch.cli import table
    from launch.compilation.table import rows, title

    # Printed first: compiling took minutes, and writing the file may fail.
    table.show(rows(report), title=title(report))
    if _OUT.value:
        atomic_write_text(_OUT.value, json.dumps(report, indent=2) + "\n")
    if summary["fits"] is False:
        sys.exit(DOES_NOT_FIT)


def _libtpu() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"libtpu": metadata.version("libtpu")}
    except metadata.PackageNotFoundError:
        return {}


if __name__ == "__main__":
    command.run(main, writes={"out": FILE})
