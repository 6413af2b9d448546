"""From plain values, as a config or a JSON file holds them, to checked settings. Imports no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax_vlffd.clip.config import CLIPConfig, Compute, TextConfig, VisionConfig
from jax_vlffd.config import ModelConfig
from jax_vlffd.errors import UserError


def model_config(model: Mapping[str, Any], compute: Mapping[str, Any]) -> ModelConfig:
    """The model that the groups `model` (with `vision` and `text`) and `compute` of a config describe.

    Raises:
      UserError: an unknown key, or a value of another type or out of range.
    """
    model = dict(model)
    vision = build(VisionConfig, model.pop("vision"), "model.vision")
    text = build(TextConfig, model.pop("text"), "model.text")
    own = [f.name for f in dataclasses.fields(CLIPConfig) if f.name not in ("vision", "text")]
    clip = CLIPConfig(vision, text, **{name: model.pop(name) for name in own if name in model})
    whole = {**model, "clip": clip, "compute": build(Compute, compute, "compute")}
    found: ModelConfig = build(ModelConfig, whole, "model")
    return found


def build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """A dataclass of these values.

    Args:
      kind: the dataclass.
      values: by field name.
      where: the group's dotted name, for the messages.

    Raises:
      UserError: an unknown key (the nearest valid one is named), or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    check_known(where, values, list(fields))
    for name, value in values.items():
        default = fields[name].default
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"{where}.{name} is {value!r}: it must be a number")
        if number and not math.isfinite(value):
            raise UserError(f"{where}.{name} is {value!r}: it must be finite")
        if isinstance(default, int) and number and value != int(value):
            raise UserError(f"{where}.{name} is {value!r}: it must be a whole number")
    return kind(**values)


def check_known(where: str, values: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises UserError for a key of `values` that is none of `names`."""
    for key in values:
        if key not in names:
            raise UserError(f"{where} has no key {key!r}{nearest(key, names)}")


def nearest(key: str, names: Sequence[str]) -> str:
    """'; did you mean X?' for the valid name closest to a wrong one, else the valid names."""
    close = difflib.get_close_matches(key, names, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(names))}"
