"""Checks the run's image normalization against a Hugging Face checkpoint's own files.

With another mean and spread the same weights give other features, and nothing fails: LAION's CLIP L/14 has a
mean and a spread of 0.5, OpenAI's those of its pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jax_vlffd.clip.huggingface_files import read_json
from jax_vlffd.config import CLIP_MEAN, CLIP_STD, VIT_MEAN, VIT_STD, ModelConfig
from jax_vlffd.errors import UserError

#: The newer file has the image's settings under `image_processor`.
FILES: Final = ("preprocessor_config.json", "processor_config.json")
#: Files round their values; those of different kinds of checkpoint differ by more.
_TOLERANCE: Final = 1e-3
_RESAMPLING: Final = {
    0: "nearest",
    1: "Lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "Hamming",
}
#: Defaults of transformers for a file without values, by the prefix of its class.
_DEFAULTS: Final = {"CLIP": (CLIP_MEAN, CLIP_STD), "ViT": (VIT_MEAN, VIT_STD)}


def check(folder: Path, model: ModelConfig) -> list[str]:
    """Compares a checkpoint's own preprocessing with the run's.

    Args:
      folder: of the checkpoint.
      model: the run's.

    Returns:
      Warnings about minor differences; none where the folder has no preprocessing file.

    Raises:
      UserError: the file is damaged, or the run's normalization differs; the message gives the flags to set.
    """
    for name in FILES:
        path = folder / name
        if not path.exists():
            continue
        values = read_json(path)
        inner = values.get("image_processor", values)
        if not isinstance(inner, dict):
            raise UserError(f"{path}: image_processor is not an object; download it again")
        if name == FILES[0] or inner is not values:
            return _check(path, inner, model)
    return []


def _check(path: Path, values: Mapping[str, Any], model: ModelConfig) -> list[str]:
    if values.get("do_flip_channel_order"):
        raise UserError(
            f"{path}: the checkpoint reads images as BGR, which is not supported; give another checkpoint"
        )
    wanted = _normalization(path, values)
    ours = (model.image_mean, model.image_std)
    if wanted and any(
        abs(a - b) > _TOLERANCE
        for run, checkpoint in zip(ours, wanted, strict=True)
        for a, b in zip(run, checkpoint, strict=True)
    ):
        mean, std = (tuple(float(f"{x:.8g}") for x in part) for part in wanted)
        raise UserError(
            f"{path}: the checkpoint's pictures have mean {mean} and spread {std}, the run's "
            f"{tuple(ours[0])} and {tuple(ours[1])}; give --config.model.image_mean='{mean}' "
            f"--config.model.image_std='{std}', or remove the file if it is wrong"
        )
    notes = []
    resample = values.get("resample", 3)
    if isinstance(resample, int) and resample != 3 and values.get("do_resize", True):
        kind = _RESAMPLING.get(resample, f"kind {resample}")
        notes.append(
            f"{path}: its pictures were resized by {kind} resampling, the run's are bicubic"
        )
    side, size = _side(values), model.clip.vision.image_size
    if side and side != size:
        notes.append(
            f"{path}: its pictures have {side} px, the run's model.vision.image_size is {size}"
        )
    return notes


def _normalization(
    path: Path, values: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and spread of RGB in 0..1, whatever the file's scale; None where it has none."""
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    default = next((v for k, v in _DEFAULTS.items() if kind.startswith(k)), None)
    if values.get("do_normalize", True):
        mean, std = (
            _three(path, values, name, None if default is None else default[index])
            for index, name in enumerate(("image_mean", "image_std"))
        )
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if mean is None or std is None:
        return None
    factor = _number(path, "rescale_factor", values.get("rescale_factor", 1 / 255))
    scale = 255 * (factor if values.get("do_rescale", True) else 1.0)
    if min(std) <= 0 or scale <= 0:
        raise UserError(f"{path}: image_std and rescale_factor must be above 0; download it again")
    return tuple(x / scale for x in mean), tuple(x / scale for x in std)


def _three(
    path: Path, values: Mapping[str, Any], name: str, default: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    value = values.get(name)
    if value is None:
        return default
    parts = value if isinstance(value, list) else [value] * 3
    if len(parts) != 3:
        raise UserError(f"{path}: {name} has {len(parts)} numbers, not 3; download it again")
    return tuple(_number(path, name, part) for part in parts)


def _number(path: Path, name: str, value: Any) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # of an integer with hundreds of digits
        pass
    raise UserError(f"{path}: {name} is not a number; download it again")


def _side(values: Mapping[str, Any]) -> int | None:
    """Side in pixels of the checkpoint's input square."""
    cropped = values.get("do_center_crop", "crop_size" in values)
    size = values.get("crop_size" if cropped else "size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) and not isinstance(size, bool) else None
