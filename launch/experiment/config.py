"""From a config on the command line to checked settings; the one place where a config is validated."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from data_pipeline.core.json_reading import parse_json
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from jax_vlffd.config import (
    InitConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from jax_vlffd.config_values import build, check_known, model_config
from jax_vlffd.contained import read_small
from jax_vlffd.errors import UserError

#: Settings that change how a run is computed, watched or stored, not what it computes: a run may be
#: continued with others.
FREE = (
    "mesh.", "init.", "compute.remat", "compute.unroll", "compute.attention", "compute.pad_to_multiple_of",
    "data.workers", "data.prefetch", "data.max_bad_share", "train.log_every", "train.keep",
    "train.tensorboard",
)  # fmt: skip


def settings(config: config_dict.ConfigDict | Mapping[str, Any]) -> tuple[RunConfig, DataSettings]:
    """Checks a whole config.

    Raises:
      UserError: an unknown key (the nearest valid one is named), a value of another type or out of range.
    """
    values = config.to_dict() if isinstance(config, config_dict.ConfigDict) else dict(config)
    groups = {
        "init": InitConfig,
        "tuning": TuningConfig,
        "loss": LossConfig,
        "optim": OptimConfig,
        "mesh": MeshConfig,
        "train": TrainConfig,
    }
    check_known("config", values, [*groups, "seed", "model", "compute", "data"])
    whole = model_config(values["model"], values["compute"])
    parts = {name: build(kind, values[name], name) for name, kind in groups.items()}
    if not parts["loss"].image > 0:
        raise UserError(
            "loss.image is 0: every verdict is the image branch's, whose head would stay as it was drawn; "
            "set it above 0"
        )
    seed = values["seed"]
    return RunConfig(model=whole, seed=seed, **parts), _data(values["data"], seed)


def _data(values: Mapping[str, Any], seed: int) -> DataSettings:
    fields = dict(values)
    fields["augment"] = build(AugmentSettings, fields["augment"], "data.augment")
    fields["train"] = tuple(_weighted(entry) for entry in _listed(fields["train"]))
    for name in ("validation", "methods"):
        fields[name] = _listed(fields[name])
    return build(DataSettings, {**fields, "seed": seed}, "data")


def _listed(text: object) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise UserError(f"data: {text!r:.80} is not a text of names with commas between them")
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _weighted(entry: str) -> tuple[str, float]:
    folder, at, weight = entry.rpartition("@")
    if not at:
        return entry, 1.0
    try:
        return folder, float(weight)
    except ValueError:
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


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    from importlib import metadata

    names = ("jax-vlffd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def read_saved(workdir: Path) -> dict[str, Any] | None:
    """The config that a workdir was made with, None when it has none.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / "config.json"
    try:
        values: dict[str, Any] = parse_json(read_small(path))["config"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's config ({error}); use another workdir") from None
    return values


def check_same(workdir: Path, config: Mapping[str, Any]) -> None:
    """Sees that a workdir belongs to this config; what only changes the computing may differ.

    Raises:
      UserError: it belongs to another; the differing keys are named.
    """
    saved = read_saved(workdir)
    if saved is None:
        return
    ours = flat(json.loads(json.dumps(config)))
    theirs = flat(saved)
    wrong = [
        f"{key} {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and not key.startswith(FREE)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{workdir} holds a run of another config ({', '.join(wrong[:5])}{more}); use another "
            "--workdir, or the config of that run"
        )
