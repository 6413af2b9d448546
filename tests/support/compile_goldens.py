"""What each recipe's steps take on 8 simulated devices, in a file that the tests compare with.

After a change that is meant: python -m tests.support.compile_goldens [RECIPE ...]
Where libtpu is installed: python -m tests.support.compile_goldens RECIPE@TOPOLOGY, as vlffd_clip_l14@v5e:2x2.
The widths are the recipe's; depth and batch are cut, so that it compiles in seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("compile_goldens.json")
LAYERS, BATCH, DEVICES = 2, 16, 8
#: Goldens of real topologies, compared where libtpu is installed.
POD = "vlffd_clip_l14@v5e:2x2"
POD_BATCH = 256
#: What is compiled here never runs.
_FAST = "--xla_backend_optimization_level=0"


def measure(name: str) -> dict[str, Any]:
    """The summary of RECIPE, compiled for this process's devices, or of RECIPE@TOPOLOGY."""
    recipe, _, place = name.partition("@")
    place = place or f"cpu:{DEVICES}"
    from launch.compilation import topology

    if "@" in name:
        topology.prepare(place)
    import jax

    from launch.compilation import check
    from launch.experiment import config as configs

    config = importlib.import_module(f"configs.{recipe}").get_config()
    config.model.vision.layers = config.model.text.layers = LAYERS
    devices, chip = topology.devices(place)
    config.data.batch_size = BATCH if chip is None else POD_BATCH
    run, data = configs.settings(config)
    result = check.compile_steps(run, data, devices, chip)
    split = result["hbm_split_per_chip"]
    kept = ("parameters", "optimizer", "batch", "activations", "temporaries")
    return {
        "flops": result["flops_per_chip"],
        "model_flops": result["model_flops_per_chip"],
        "eval_flops": result["eval"]["flops_per_chip"],
        "collective_bytes": result["collective_bytes"],
        "least_collective_bytes": sum(result["collectives_least"].values()),
        **{name: split[name] for name in kept},
        "jax": jax.__version__,
    }


def read() -> dict[str, dict[str, Any]]:
    """The goldens by recipe."""
    result: dict[str, dict[str, Any]] = json.loads(FILE.read_text("utf-8"))
    return result


def main() -> None:
    """Measures and writes the goldens of the recipes named, of all by default."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES} {_FAST}"
    from tests.launch.experiment.test_recipes import RECIPES

    known = [*RECIPES, POD]
    goldens = read() if FILE.exists() else {}
    for name in sys.argv[1:] or RECIPES:
        goldens[name] = measure(name)
        print(name, goldens[name], flush=True)
    kept = {name: goldens[name] for name in sorted(goldens) if name in known}
    FILE.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
