"""Validates a config from the command line and converts it to typed settings; done nowhere else."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from configs.base import recipe
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import (
    UNRECORDED_RESIZE,
    InitConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
    model_config,
)
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_json
from jax_vlffd.settings import build, check_group, check_known
from launch.experiment.unused_settings import check_used

#: Settings that change how a run is computed, monitored or stored, but not its result: they may differ when a
#: run is continued.
FREE = (
    "mesh.", "init.", "compute.remat", "compute.unroll", "compute.attention", "compute.pad_to_multiple_of",
    "data.workers", "data.prefetch", "data.max_bad_share", "train.log_every", "train.keep",
    "train.tensorboard",
)  # fmt: skip

_GROUPS: dict[str, Any] = {
    "init": InitConfig,
    "tuning": TuningConfig,
    "loss": LossConfig,
    "optim": OptimConfig,
    "mesh": MeshConfig,
    "train": TrainConfig,
}


def settings(
    config: config_dict.ConfigDict | Mapping[str, Any], *, saved: bool = False
) -> tuple[RunConfig, DataSettings]:
    """Checks a config and returns its settings; a missing key has its default.

    Args:
      config: as a recipe or a workdir has it.
      saved: it was read from a workdir, which may be a stranger's: the folders that it names are not
        looked for, so a comma or an @ always ends a set's path.

    Raises:
      UserError: an unknown key (the nearest valid one is named), a value of another type or out of range.
    """
    values = config.to_dict() if isinstance(config, config_dict.ConfigDict) else dict(config)
    check_known("config", values, [*_GROUPS, "seed", "model", "compute", "data"])
    parts = {name: build(kind, values.get(name, {}), name) for name, kind in _GROUPS.items()}
    if not parts["loss"].image > 0:
        raise UserError(
            "loss.image is 0: every verdict comes from the image branch, whose head would stay untrained; "
            "set it above 0"
        )
    seed = values.get("seed", 0)
    model = model_config(values.get("model", {}), values.get("compute", {}))
    exists = _never if saved else os.path.exists
    return RunConfig(model=model, seed=seed, **parts), _data(values.get("data", {}), seed, exists)


def check_effect(values: Mapping[str, Any], changed: Collection[str]) -> None:
    """Checks that every setting chosen for a new run has an effect; see `unused_settings`.

    Args:
      values: the config's.
      changed: keys that the command line or a sweep sets.

    Raises:
      UserError: a setting has no effect; names it and the remedy. Or the seed is too large.
    """
    run, data = settings(values)
    if run.seed >= 2**32:
        raise UserError(f"seed is {run.seed}: draws use 32 bits of it; give one below {2**32}")
    check_used(run, data, _plain(values), _defaults(), changed)


def _never(path: str) -> bool:
    return False


def _data(values: Any, seed: int, exists: Callable[[str], bool]) -> DataSettings:
    fields = dict(check_group(values, "data"))
    check_known(
        "data", fields, [f.name for f in dataclasses.fields(DataSettings) if f.name != "seed"]
    )
    fields["augment"] = build(AugmentSettings, fields.get("augment", {}), "data.augment")
    fields["train"] = tuple(
        _weighted(entry, exists) for entry in _joined(_listed(fields, "train"), exists)
    )
    fields["validation"] = _joined(_listed(fields, "validation"), exists)
    fields["methods"] = _listed(fields, "methods")
    return DataSettings(**fields, seed=seed)


def _listed(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    text = fields.get(name, "")
    if not isinstance(text, str):
        raise UserError(f"data.{name} is {text!r:.80}: give names separated by commas")
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _joined(entries: tuple[str, ...], exists: Callable[[str], bool]) -> tuple[str, ...]:
    """The sets of a list, those whose path has commas put together again: where there is such a folder."""
    sets = []
    while entries:
        for count in range(len(entries), 0, -1):
            name = ",".join(entries[:count])
            folder, _, weight = name.rpartition("@")
            weighted = folder and "," not in weight and exists(folder)
            if count == 1 or weighted or exists(name):
                break
        sets.append(name)
        entries = entries[count:]
    return tuple(sets)


def _weighted(entry: str, exists: Callable[[str], bool]) -> tuple[str, float]:
    folder, at, weight = entry.rpartition("@")
    if not at or exists(entry):  # a folder's name may have an @
        return entry, 1.0
    try:
        return folder, float(weight)
    except ValueError:
        if exists is _never:  # a folder's name with an @, which was there when the run started
            return entry, 1.0
        raise UserError(f"data.train: {entry!r} does not end in a weight, as DIR@0.5") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as `config.json` holds them."""
    return flat(json.loads(json.dumps(values)))


@functools.cache
def _defaults() -> dict[str, Any]:
    """The default of every key, by dotted key; of the model's sizes, those of a CLIP ViT-B/16."""
    return _plain(recipe(RunConfig(ModelConfig(CLIPConfig.b16())), DataSettings()).to_dict())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    from importlib import metadata

    names = ("jax-vlffd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions_by_name = {"python": sys.version.split()[0]}
    for name in names:
        try:
            versions_by_name[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions_by_name[name] = "not installed"
    return versions_by_name


def read_saved(workdir: Path) -> dict[str, Any] | None:
    """The config of a workdir; None if it has none.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / "config.json"
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; use another workdir") from error
    try:
        values: dict[str, Any] = content["config"]
        tuning: dict[str, str] = values.get("tuning") or {}
        for tower, mode in tuning.items():
            if mode == "linear":  # the mode's name in older versions
                tuning[tower] = "frozen"
        values["model"] = {"resize": UNRECORDED_RESIZE, **values.get("model", {})}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a run's config ({error}); use another workdir") from None
    return values


def with_saved_resize(
    run: RunConfig, values: Mapping[str, Any], folder: Path
) -> tuple[RunConfig, dict[str, Any]]:
    """Keeps the resizing of the run in `folder`, which this run continues, if an older version made it."""
    saved = read_saved(folder)
    if saved is None or saved["model"]["resize"] != UNRECORDED_RESIZE:
        return run, dict(values)
    model = dataclasses.replace(run.model, resize=UNRECORDED_RESIZE)
    kept = {**values["model"], "resize": UNRECORDED_RESIZE}
    return dataclasses.replace(run, model=model), {**values, "model": kept}


def check_same(workdir: Path, config: Mapping[str, Any]) -> None:
    """Checks that a workdir belongs to this config; the settings in FREE may differ.

    A missing key has its default: it was added after the config was written. A run of a version without
    `model.resize` keeps its resizing, see `with_saved_resize`.

    Raises:
      UserError: the workdir belongs to another config; names the differing keys.
    """
    saved = read_saved(workdir)
    if saved is None:
        return
    now, before = _defaults() | _plain(config), _defaults() | flat(saved)
    if before["model.resize"] == UNRECORDED_RESIZE:
        now["model.resize"] = UNRECORDED_RESIZE
    differing = [
        f"{key} {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key) and not key.startswith(FREE)
    ]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{workdir} holds a run of another config ({', '.join(differing[:5])}{more}); use another "
            "--workdir, or the config of that run"
        )
