"""Image normalization of a Hugging Face checkpoint, as its own files say.

Weights fed pictures of another mean and spread give other features, and nothing fails: LAION's CLIP L/14 has a
mean and a spread of 0.5, where OpenAI's has the pictures' own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jax_vlffd.clip.huggingface import read_json
from jax_vlffd.config import CLIP_MEAN, CLIP_STD, VIT_MEAN, VIT_STD, ModelConfig
from jax_vlffd.errors import UserError

#: The newer name holds the image's part under `image_processor`.
FILES: Final = ("preprocessor_config.json", "processor_config.json")
#: Files round their figures; those of two kinds of checkpoint lie further apart.
_ROUNDED: Final = 1e-3
_RESAMPLING: Final = {
    0: "nearest",
    1: "Lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "Hamming",
}
#: What transformers takes where a file names no figures, by the beginning of its class.
_DEFAULTS: Final = {"CLIP": (CLIP_MEAN, CLIP_STD), "ViT": (VIT_MEAN, VIT_STD)}


def check(folder: Path, model: ModelConfig) -> list[str]:
    """Holds a checkpoint's own preprocessing against the run's.

    Args:
      folder: of the checkpoint.
      model: the run's.

    Returns:
      What differs and does not matter much, for the terminal; nothing where the folder does not say.

    Raises:
      UserError: the file is damaged, or the run normalizes pictures in another way; with the flags to give.
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
        raise UserError(f"{path}: the checkpoint wants blue before red, which no run here gives it")
    wanted = _normalization(path, values)
    ours = (model.image_mean, model.image_std)
    if wanted and any(
        abs(a - b) > _ROUNDED
        for mine, theirs in zip(ours, wanted, strict=True)
        for a, b in zip(mine, theirs, strict=True)
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
    """Mean and spread of RGB in 0..1, whatever scale the file gives them in; None where it does not say."""
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    default = next((v for k, v in _DEFAULTS.items() if kind.startswith(k)), None)
    if values.get("do_normalize", True):
        mean, std = (
            _three(path, values, name, None if default is None else default[place])
            for place, name in enumerate(("image_mean", "image_std"))
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
    """Side in pixels of the square that the checkpoint was shown."""
    cropped = values.get("do_center_crop", "crop_size" in values)
    size = values.get("crop_size" if cropped else "size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) and not isinstance(size, bool) else None
