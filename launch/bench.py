"""Measures speed against a peer, both in one run, and writes JSON.

python -m launch.bench step --config=configs/X.py [--task=train|tower|detect] [--repeats=5]
python -m launch.bench tuning --config=configs/X.py [--repeats=5]
python -m launch.bench data [--jpegs=DIR]
python -m launch.bench feed --config=configs/X.py
python -m launch.bench records [--plots=DIR]
python -m launch.bench growth --config=configs/X.py [--plots=DIR]
python -m launch.bench start
python -m launch.bench device --config=configs/X.py
python -m launch.bench fftg [--pairs=48]
python -m launch.bench intervals [--datasets=2000]
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any, Final

from absl import flags

if util.find_spec("benchmarks") is None:
    sys.exit(
        "error: the benches are not part of the package; run launch.bench in a checkout of jax-vlffd"
    )

from benchmarks import data, device, feed, fftg, growth, intervals, start, step
from launch.cli import command
from launch.cli.outputs import FILE

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the figures; they are printed in any case.")
for _module in (data, device, feed, fftg, growth, intervals, start, step):
    flags.adopt_module_key_flags(_module)

#: Benches by name.
_BENCHES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "step": step.measure,
    "tuning": step.measure_tuning,
    "data": data.measure,
    "feed": feed.measure,
    "records": growth.measure_records,
    "growth": growth.measure,
    "start": start.measure,
    "device": device.measure,
    "fftg": fftg.measure,
    "intervals": intervals.measure,
}

#: Environment variables that change a process's speed.
_ENVIRONMENT = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "XLA_FLAGS")


def main(argv: Sequence[str]) -> None:
    """Runs the named bench."""
    import json

    from jax_vlffd.errors import UserError
    from jax_vlffd.file_writing import atomic_write_text

    if len(argv) != 2 or argv[1] not in _BENCHES:
        raise UserError(f"name one bench: python -m launch.bench {{{','.join(_BENCHES)}}}")
    made_by = _made_by()
    figures = _BENCHES[argv[1]]()
    text = json.dumps(figures | {"made_by": made_by}, indent=2)
    if FLAGS.out:
        atomic_write_text(FLAGS.out, text + "\n")
    print(text)


def _made_by() -> dict[str, Any]:
    """The command, versions and machine that produced the figures."""
    import os
    import platform
    from importlib import metadata

    from launch.experiment import config as configs

    versions = configs.versions()
    for name in ("torch", "transformers", "opencv-python-headless", "pillow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    arguments = [a for a in sys.argv[1:] if not a.startswith("--out")]
    environment = os.environ
    variables = [
        f"{name}={shlex.quote(environment[name])}" for name in _ENVIRONMENT if environment.get(name)
    ]
    return {
        "command": " ".join([*variables, f"python -m launch.bench {shlex.join(arguments)}"]),
        "versions": versions,
        "cpu": _cpu() or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        # Above the number of cores other programs were running, and only ratios are meaningful.
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return ""


if __name__ == "__main__":
    command.run(main, positional=True, writes={"out": FILE})
