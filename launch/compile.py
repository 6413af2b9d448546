"""Compiles a recipe's steps for a TPU pod that need not be there, and tells whether and how they would run.

python -m launch.compile --config=configs/X.py --topology=v5e:16x16 [--out=JSON] [--config.key=value]

Needs `pip install 'jax-vlffd[tpu]'` on a machine without a TPU; `--topology=cpu:8` needs nothing more.
Exit status 3: compiled, and does not fit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from launch import cli

if TYPE_CHECKING:
    from data_pipeline.settings import DataSettings
    from jax_vlffd.chips import Chip
    from jax_vlffd.config import RunConfig

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, as configs/demo.py.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "As v5e:16x16, v5p:8x8x8 or cpu:8.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the summary.")
_TRY = flags.DEFINE_bool(
    "try_to_fit",
    True,
    "When it does not fit, compile with remat, fsdp and smaller batches in turn.",
)
flags.mark_flags_as_required(["config", "topology"])

#: Exit status of a step that compiles and does not fit.
DOES_NOT_FIT = 3


def main(argv: Sequence[str]) -> None:
    """Compiles, prints a table, and writes the JSON."""
    from jax_vlffd.errors import UserError
    from launch import config as configs
    from launch import topology

    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; config keys are given as --config.key=value")
    run, data = configs.settings(_CONFIG.value)
    name = _TOPOLOGY.value or ""  # required by its flag
    topology.prepare(name)
    devices, chip = topology.devices(name)
    found = prove(run, data, devices, chip)
    if found["fits"] is False and _TRY.value:
        found["would_fit"] = what_would_fit(run, data, devices, chip)
    report = {
        "topology": name,
        "chip": chip.name if chip else "cpu",
        **found,
        "batch_size": data.batch_size,
        "remat": run.model.compute.remat,
        "config": json.loads(_CONFIG.value.to_json()),
        "versions": configs.versions() | _libtpu(),
    }
    from data_pipeline.files import atomic_write_text
    from launch import compile_table

    print(
        compile_table.render(report), flush=True
    )  # first: it took minutes, whatever becomes of the file
    if _OUT.value:
        atomic_write_text(_OUT.value, json.dumps(report, indent=2) + "\n")
    if found["fits"] is False:
        sys.exit(DOES_NOT_FIT)


def prove(
    run: RunConfig,
    data: DataSettings,
    devices: list[Any],
    chip: Chip | None,
    *,
    evaluation: bool = True,
) -> dict[str, Any]:
    """Compiles the steps of a run for these devices; the summary of `jax_vlffd.proof`.

    Args:
      run: the settings.
      data: the settings of the data; only the batch and the captions matter.
      devices: to compile for.
      chip: what they are, None for a CPU.
      evaluation: whether to compile the eval step too.

    Raises:
      UserError: the mesh or the batch does not divide.
    """
    from jax_vlffd import proof
    from jax_vlffd.flops import model_flops
    from launch import runs

    plan = runs.make_plan(run, data, steps=1000, warmup_steps=50, devices=devices)
    model = model_flops(
        run.model, run.loss, run.tuning,
        batch_size=data.batch_size, separate_captions=plan.spec.separate_captions,
    )  # fmt: skip
    trained = proof.prove_train(plan, data.batch_size, chip)
    evaluated = proof.prove_eval(plan, data.batch_size, chip) if evaluation else None
    return proof.summary(plan, data.batch_size, model, trained, evaluated, chip)


def what_would_fit(
    run: RunConfig, data: DataSettings, devices: list[Any], chip: Chip | None
) -> list[dict[str, Any]]:
    """Tries remat, fsdp, accumulation and smaller batches, each alone, the mildest that fits of each.

    Returns:
      One entry a try: the changed key, its value, whether it fits, and what it takes.
    """
    import dataclasses

    from jax_vlffd.errors import UserError

    tried: list[dict[str, Any]] = []

    def fits(key: str, value: Any, run: RunConfig, data: DataSettings) -> bool:
        try:
            found = prove(run, data, devices, chip, evaluation=False)
        except UserError as error:
            tried.append({"key": key, "value": value, "fits": False, "error": str(error)})
            return False
        names = ("fits", "hbm_bytes_per_chip", "flops_per_chip", "flops_over_model", "compile_s")
        tried.append({"key": key, "value": value, **{n: found.get(n) for n in names}})
        return bool(found["fits"])

    order = ("none", "dots", "full")
    for remat in order[order.index(run.model.compute.remat) + 1 :]:
        compute = dataclasses.replace(run.model.compute, remat=remat)
        model = dataclasses.replace(run.model, compute=compute)
        if fits("compute.remat", remat, dataclasses.replace(run, model=model), data):
            break
    for ways in (4, 16, 64):
        if ways > run.mesh.fsdp and len(devices) % (ways * run.mesh.tensor) == 0:
            mesh = dataclasses.replace(run.mesh, data=-1, fsdp=ways)
            if fits("mesh.fsdp", ways, dataclasses.replace(run, mesh=mesh), data):
                break
    for parts in (2, 4, 8):
        train = dataclasses.replace(run.train, accumulate=parts * run.train.accumulate)
        changed = dataclasses.replace(run, train=train)
        if fits("train.accumulate", train.accumulate, changed, data):
            break
    size = data.batch_size // 2
    while size >= max(len(devices) // run.mesh.tensor, data.batch_size // 16):
        if fits("data.batch_size", size, run, dataclasses.replace(data, batch_size=size)):
            break
        size //= 2
    return tried


def _libtpu() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"libtpu": metadata.version("libtpu")}
    except metadata.PackageNotFoundError:
        return {}


if __name__ == "__main__":
    cli.run(main)
