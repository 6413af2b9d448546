"""Compiles a run's steps for given devices, and searches for settings that make them fit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

from data_pipeline.loading.settings import DataSettings
from jax_vlffd.clip.config import Remat
from jax_vlffd.compilation import report
from jax_vlffd.compilation.chips import Chip
from jax_vlffd.compilation.flops import model_flops
from jax_vlffd.config import RunConfig
from jax_vlffd.errors import UserError
from launch.experiment import plan as plans


def compile_steps(
    run: RunConfig,
    data: DataSettings,
    devices: list[Any],
    chip: Chip | None,
    *,
    evaluation: bool = True,
) -> dict[str, Any]:
    """Compiles the steps of a run for these devices; returns `report.summary`.

    Args:
      run: the settings.
      data: the settings of the data; only the batch and the captions matter.
      devices: to compile for.
      chip: of the devices; None for a CPU.
      evaluation: whether to compile the eval step too.

    Raises:
      UserError: the mesh or the batch does not divide.
    """
    plan = plans.make_plan(run, data, steps=1000, warmup_steps=50, devices=devices)
    model = model_flops(
        run.model, run.loss, run.tuning,
        batch_size=data.batch_size, separate_captions=plan.spec.separate_captions,
    )  # fmt: skip
    trained = report.compile_train(plan, data.batch_size, chip)
    evaluated = report.compile_eval(plan, data.batch_size, chip) if evaluation else None
    return report.summary(plan, data.batch_size, model, trained, evaluated, chip)


def search_fitting_settings(
    run: RunConfig, data: DataSettings, devices: list[Any], chip: Chip | None
) -> list[dict[str, Any]]:
    """Tries remat, fsdp, accumulation and smaller batches separately, each with growing effect until it fits.

    Returns:
      One entry a try: the changed key, its value, whether it fits, and its memory, FLOPs and compile time.
    """
    tried: list[dict[str, Any]] = []

    def fits(key: str, value: Any, run: RunConfig, data: DataSettings) -> bool:
        try:
            summary = compile_steps(run, data, devices, chip, evaluation=False)
        except UserError as error:
            tried.append({"key": key, "value": value, "fits": False, "error": str(error)})
            return False
        names = ("fits", "hbm_bytes_per_chip", "flops_per_chip", "flops_over_model", "compile_s")
        tried.append({"key": key, "value": value, **{n: summary.get(n) for n in names}})
        return bool(summary["fits"])

    order = get_args(Remat)
    for remat in order[order.index(run.model.compute.remat) + 1 :]:
        compute = dataclasses.replace(run.model.compute, remat=remat)
        model = dataclasses.replace(run.model, compute=compute)
        if fits("compute.remat", remat, dataclasses.replace(run, model=model), data):
            break
    for shards in (4, 16, 64):
        if shards > run.mesh.fsdp and len(devices) % (shards * run.mesh.tensor) == 0:
            mesh = dataclasses.replace(run.mesh, data=-1, fsdp=shards)
            if fits("mesh.fsdp", shards, dataclasses.replace(run, mesh=mesh), data):
                break
    for parts in (2, 4, 8):
        train = dataclasses.replace(run.train, accumulate=parts * run.train.accumulate)
        changed = dataclasses.replace(run, train=train)
        if fits("train.accumulate", train.accumulate, changed, data):
            break
    # Whole examples, and whole pairs, on every device that splits the batch.
    unit = math.lcm(len(devices) // run.mesh.tensor * run.train.accumulate, 2 if data.paired else 1)
    size = data.batch_size
    while (size := size // 2 // unit * unit) >= max(unit, data.batch_size // 16):
        if fits("data.batch_size", size, run, dataclasses.replace(data, batch_size=size)):
            break
    return tried
