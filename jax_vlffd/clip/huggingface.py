"""Hugging Face weights, read and written by one declarative table.

A row of a table is (our parameter, Hugging Face's key). Our name is a path ('vision/blocks/mlp/fc1/weight'); a
`{}` in the key stands for the layer, and our parameter stacks the layers on its first axis. The layout within a
layer is the same, so mapping is renaming, stacking and the removal of axes of length one.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jax_vlffd import files
from jax_vlffd.clip.config import CLIPConfig, VisionConfig
from jax_vlffd.clip.huggingface_config import clip_from_hf, clip_to_hf, vit_from_hf
from jax_vlffd.clip.huggingface_files import check_format, local_folder, read_json, weight_files
from jax_vlffd.errors import UserError
from jax_vlffd.path_containment import check_link

Table = Sequence[tuple[str, str]]
Target = Mapping[str, jax.ShapeDtypeStruct]

_MAX_WEIGHTS = 1 << 40
_MAX_FAULTS = 100  # in one message; the tables have fewer rows
_FLOATS = ("F64", "F32", "F16", "BF16")  # quantized weights mean nothing without their scales


def _both(ours: str, theirs: str) -> list[tuple[str, str]]:
    return [(f"{ours}/weight", f"{theirs}.weight"), (f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[tuple[str, str]]:
    return [(f"{ours}/scale", f"{theirs}.weight"), (f"{ours}/bias", f"{theirs}.bias")]


def _clip_tower(ours: str, theirs: str) -> list[tuple[str, str]]:
    block, layer = f"{ours}/blocks", f"{theirs}.encoder.layers.{{}}"
    return [
        *_both(f"{block}/attention/query", f"{layer}.self_attn.q_proj"),
        *_both(f"{block}/attention/key", f"{layer}.self_attn.k_proj"),
        *_both(f"{block}/attention/value", f"{layer}.self_attn.v_proj"),
        *_both(f"{block}/attention/out", f"{layer}.self_attn.out_proj"),
        *_norm(f"{block}/layernorm1", f"{layer}.layer_norm1"),
        *_norm(f"{block}/layernorm2", f"{layer}.layer_norm2"),
        *_both(f"{block}/mlp/fc1", f"{layer}.mlp.fc1"),
        *_both(f"{block}/mlp/fc2", f"{layer}.mlp.fc2"),
    ]


CLIP_TABLE: Table = (
    ("logit_scale", "logit_scale"),
    ("visual_projection/weight", "visual_projection.weight"),
    ("text_projection/weight", "text_projection.weight"),
    ("text/token_embedding", "text_model.embeddings.token_embedding.weight"),
    ("text/position_embedding", "text_model.embeddings.position_embedding.weight"),
    *_clip_tower("text", "text_model"),
    *_norm("text/post_layernorm", "text_model.final_layer_norm"),
    ("vision/class_embedding", "vision_model.embeddings.class_embedding"),
    ("vision/patch_embedding/weight", "vision_model.embeddings.patch_embedding.weight"),
    ("vision/position_embedding", "vision_model.embeddings.position_embedding.weight"),
    *_norm("vision/pre_layernorm", "vision_model.pre_layrnorm"),  # their spelling
    *_clip_tower("vision", "vision_model"),
    *_norm("vision/post_layernorm", "vision_model.post_layernorm"),
)

_VIT_LAYER = "encoder.layer.{}"
VIT_TABLE: Table = (
    ("vision/class_embedding", "embeddings.cls_token"),
    *_both("vision/patch_embedding", "embeddings.patch_embeddings.projection"),
    ("vision/position_embedding", "embeddings.position_embeddings"),
    *_both("vision/blocks/attention/query", f"{_VIT_LAYER}.attention.attention.query"),
    *_both("vision/blocks/attention/key", f"{_VIT_LAYER}.attention.attention.key"),
    *_both("vision/blocks/attention/value", f"{_VIT_LAYER}.attention.attention.value"),
    *_both("vision/blocks/attention/out", f"{_VIT_LAYER}.attention.output.dense"),
    *_norm("vision/blocks/layernorm1", f"{_VIT_LAYER}.layernorm_before"),
    *_norm("vision/blocks/layernorm2", f"{_VIT_LAYER}.layernorm_after"),
    *_both("vision/blocks/mlp/fc1", f"{_VIT_LAYER}.intermediate.dense"),
    *_both("vision/blocks/mlp/fc2", f"{_VIT_LAYER}.output.dense"),
    *_norm("vision/post_layernorm", "layernorm"),
)

#: Keys that are not needed: buffers of old files, and the heads of a plain ViT.
IGNORED = re.compile(r"(.*\.position_ids|(vit\.)?pooler\..*|classifier\..*)")


@dataclass(frozen=True)
class Checkpoint:
    """A folder of Hugging Face weights, opened but not read.

    vision: the image tower's shape. clip: both towers' shapes, None for a plain ViT.
    """

    folder: Path
    vision: VisionConfig
    clip: CLIPConfig | None
    tensors: Mapping[str, Path]

    @property
    def table(self) -> Table:
        """The rows that map this kind of checkpoint."""
        return VIT_TABLE if self.clip is None else CLIP_TABLE


def open_checkpoint(source: str, *, cached: bool = False) -> Checkpoint:
    """Opens a local folder, or a hub id that is downloaded first (safetensors and config only).

    Args:
      source: a folder, `OWNER/NAME` or `OWNER/NAME@REVISION`.
      cached: nothing is downloaded; a hub id must be in the cache.

    Raises:
      UserError: no such folder or id, no or broken config, pickled or broken weights, another model.
    """
    folder = local_folder(source, cached=cached)
    check_format(folder)
    check_link(folder, folder / "config.json")
    values = read_json(folder / "config.json")
    clip: CLIPConfig | None = None
    try:
        if values.get("model_type") == "vit":
            vision = vit_from_hf(values)
        else:
            clip = clip_from_hf(values)
            vision = clip.vision
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}; give a CLIP or a plain ViT") from None
    tensors = {}
    for file in weight_files(folder):
        check_link(folder, file)
        files.check_regular(file, _MAX_WEIGHTS)
        try:
            with safe_open(file, framework="np") as handle:
                tensors.update(dict.fromkeys(handle.keys(), file))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: not a whole safetensors file ({error}); download it again"
            ) from None
    return Checkpoint(folder, vision, clip, tensors)


def load(
    checkpoint: Checkpoint,
    target: Target,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """Reads a checkpoint straight into its target shardings, in fp32.

    Each process reads only the slices that its own devices hold. Position embeddings of another image size
    are interpolated (bicubic).

    Args:
      checkpoint: of `open_checkpoint`.
      target: path -> shape of every parameter of the towers that the checkpoint should fill.
      shardings: path -> sharding.

    Raises:
      UserError: one message with every fault: keys missing, keys unknown, shapes that differ.
    """
    prefix = _prefix(checkpoint)
    table = {ours: prefix + theirs for ours, theirs in checkpoint.table}
    faults = [f"parameter {ours} has no row in the table" for ours in sorted(target.keys() - table)]
    unknown = {key for key in checkpoint.tensors if not IGNORED.fullmatch(key)}
    readers: dict[str, Callable[[Any], np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        # Each file is opened once: reading a header takes longer than reading most tensors.
        files = {
            path: stack.enter_context(safe_open(path, framework="np"))
            for path in set(checkpoint.tensors.values())
        }
        parts = {key: files[path].get_slice(key) for key, path in checkpoint.tensors.items()}
        for ours, theirs in table.items():
            if ours not in target:
                continue
            shape, layered = target[ours].shape, "{}" in theirs
            inner = shape[1:] if layered else shape
            keys = _layers(theirs, parts)
            unknown.difference_update(keys.values())
            wanted = set(range(shape[0] if layered else 1))
            kinds = {
                "is missing": wanted - keys.keys(),
                "is of a layer beyond the model": keys.keys() - wanted,
            }
            for layer in wanted & keys.keys():
                if fault := _fault(parts[keys[layer]], inner, ours == "vision/position_embedding"):
                    kinds.setdefault(fault, set()).add(layer)
            faults += [f"{theirs.format(_span(n))} {fault}" for fault, n in kinds.items() if n]
            names = [key for _, key in sorted(keys.items())]
            readers[ours] = _reader(checkpoint.folder, names, parts, shape, layered)
        wrapper = _wrapper(checkpoint)
        if faults and wrapper:
            raise UserError(
                f"{checkpoint.folder}: every weight's name begins with {wrapper!r}, which a wrapper put there "
                f"when the model was saved; save the model inside it, or rename the keys without {wrapper!r}"
            )
        faults += [f"{key} is not a parameter of the model" for key in sorted(unknown)]
        if faults:
            more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
            raise UserError(
                f"{checkpoint.folder}: the weights do not fit the model: "
                f"{'; '.join(faults[:_MAX_FAULTS])}{more}; "
                "give the checkpoint that belongs to this architecture, or change the config's model"
            )
        return {
            ours: jax.make_array_from_callback(target[ours].shape, shardings[ours], reader)
            for ours, reader in readers.items()
        }


def _wrapper(checkpoint: Checkpoint) -> str:
    """What a wrapper put before the names of all parameters in a file; '' if nothing."""
    name = "position_embedding.weight" if checkpoint.clip else "position_embeddings"
    starts = {key.split(".")[0] + "." for key in checkpoint.tensors}
    if any(key.endswith(name) for key in checkpoint.tensors) and len(starts) == 1:
        return "".join(starts - {_prefix(checkpoint)})
    return ""


def _prefix(checkpoint: Checkpoint) -> str:
    """`ViTForImageClassification` keeps its tower under 'vit.', `ViTModel` does not."""
    if checkpoint.clip is None and any(key.startswith("vit.") for key in checkpoint.tensors):
        return "vit."
    return ""


def _layers(theirs: str, keys: Iterable[str]) -> dict[int, str]:
    """The keys of one row by layer; a row without layers counts as layer 0."""
    pattern = re.compile(re.escape(theirs).replace(r"\{\}", r"(0|[1-9]\d{0,5})"))
    matches = ((pattern.fullmatch(key), key) for key in keys)
    return {int(match[1]) if match.groups() else 0: key for match, key in matches if match}


def _span(layers: set[int]) -> str:
    first, last = min(layers), max(layers)
    if len(layers) == last - first + 1:
        return str(first) if first == last else f"{first}-{last}"
    return ",".join(map(str, sorted(layers)))


def _fault(part: Any, wanted: Sequence[int], is_position: bool) -> str | None:
    shape, dtype = part.get_shape(), part.get_dtype()
    if dtype not in _FLOATS:
        return f"is of {dtype}, not of floats"
    if _squeezed(shape) == _squeezed(wanted):
        return None
    # A convolution's weight [D, 3, p, p] is our matrix [D, 3 p p].
    if len(shape) == 4 and shape[1] == 3 and [shape[0], math.prod(shape[1:])] == list(wanted):
        return None
    if is_position and len(flat := _squeezed(shape)) == 2 and flat[1] == wanted[1]:
        if flat[0] and flat[0] == math.isqrt(flat[0] - 1) ** 2 + 1:
            return None
        return f"is {shape}, which is not a square grid and a class token"
    return f"is {shape}, the model wants {list(wanted)}"


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _reader(
    folder: Path, keys: Sequence[str], parts: Mapping[str, Any], shape: Sequence[int], layered: bool
) -> Callable:
    def read_one(key: str, shape: Sequence[int], index: Any) -> np.ndarray:
        value = _read(parts[key], shape, index)
        if not np.isfinite(value).all():
            raise UserError(
                f"{folder}: {key} holds values that are not finite; download the checkpoint again, or give "
                "another one"
            )
        return value

    def read(index: Any) -> np.ndarray:
        if not layered:
            return read_one(keys[0], shape, index)
        return np.stack([read_one(key, shape[1:], index[1:]) for key in keys[index[0]]])

    return read


def _read(part: Any, shape: Sequence[int], index: Any) -> np.ndarray:
    if shape and part.get_shape() == list(shape):
        return np.asarray(part[index], np.float32)
    value = np.asarray(part[...], np.float32)
    if value.size != math.prod(shape):  # only position embeddings may be of another size
        value = interpolate_positions(value.reshape(-1, shape[-1]), shape[0])
    return value.reshape(shape)[index]


def interpolate_positions(positions: np.ndarray, tokens: int) -> np.ndarray:
    """Position embeddings [N, D] of a square grid and a class token, for another N.

    Bicubic (Keys, a = -0.5) with half-pixel centers and no antialiasing; the class token's is unchanged.
    """
    side, new = round((len(positions) - 1) ** 0.5), round((tokens - 1) ** 0.5)
    grid = positions[1:].reshape(side, side, -1)
    resized = jax.image.resize(grid, (new, new, grid.shape[-1]), "bicubic", antialias=False)
    return np.concatenate([positions[:1], np.asarray(resized).reshape(new * new, -1)])


def to_hf(
    parameters: Mapping[str, np.ndarray], config: CLIPConfig, table: Table = CLIP_TABLE
) -> dict[str, np.ndarray]:
    """Our parameters under Hugging Face's names, layer by layer; those without a row are left out."""
    patch = config.vision.patch_size
    result: dict[str, np.ndarray] = {}
    for ours, theirs in table:
        value = np.asarray(parameters[ours])
        if ours == "vision/patch_embedding/weight":
            value = value.reshape(-1, 3, patch, patch)
        # A plain ViT keeps these as a batch of one.
        if theirs == "embeddings.cls_token":
            value = value[None, None]
        elif theirs == "embeddings.position_embeddings":
            value = value[None]
        if "{}" in theirs:
            result |= {theirs.format(n): layer for n, layer in enumerate(value)}
        else:
            result[theirs] = value
    # Files store the bytes in memory order; `ascontiguousarray` would give a scalar an axis.
    return {key: np.array(value, order="C") for key, value in result.items()}


def save_hf(folder: Path, parameters: Mapping[str, np.ndarray], config: CLIPConfig) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers.CLIPModel` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(clip_to_hf(config), indent=2) + "\n")
    save_file(to_hf(parameters, config), folder / "model.safetensors", metadata={"format": "pt"})
