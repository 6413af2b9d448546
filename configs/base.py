"""A recipe as an ml_collections config, made from the settings' own dataclasses.

Every key, its default and its meaning stand in `jax_vlffd.config`, `jax_vlffd.clip.config` and
`data_pipeline.loading.settings`. A recipe sets only what it changes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import config_dict

from data_pipeline.loading.settings import DataSettings
from jax_vlffd.config import RunConfig

#: Lists are given as text on the command line: 'DIR,DIR' or, with weights, 'DIR@0.7,DIR@0.3'. A folder whose
#: name has a comma or an @ is taken where it exists.
LISTS = ("train", "validation", "methods")


def recipe(run: RunConfig, data: DataSettings) -> config_dict.ConfigDict:
    """Converts settings to a config: groups of plain values, locked against unknown keys.

    Groups: model (with vision and text), compute, init, tuning, loss, optim, mesh, train, data (with
    augment), and the single key `seed`, which is that of the parameters and of the data.
    """
    values = dataclasses.asdict(run)
    model = values.pop("model")
    compute = model.pop("compute")
    values["model"] = {**model.pop("clip"), **model}
    values["compute"] = compute
    fields = dataclasses.asdict(data)
    fields.pop("seed")
    fields["train"] = ",".join(
        folder if weight == 1 and "@" not in folder else f"{folder}@{weight:g}"
        for folder, weight in data.train
    )
    for name in ("validation", "methods"):
        fields[name] = ",".join(getattr(data, name))
    values["data"] = fields
    config = config_dict.ConfigDict(_with_placeholders(values))
    config.lock()
    return config


def _with_placeholders(values: dict[str, Any]) -> dict[str, Any]:
    """None would fix a key's type to None; a placeholder accepts a number later."""
    return {
        key: _with_placeholders(value) if isinstance(value, dict)
        else config_dict.placeholder(float) if value is None
        else value
        for key, value in values.items()
    }  # fmt: skip
