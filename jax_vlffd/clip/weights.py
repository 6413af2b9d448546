"""Hugging Face weights, read and written by one declarative table.

A row of a table is (our parameter, their key). Our name is a path ('vision/blocks/mlp/fc1/weight'); a
`{}` in their key stands for the layer, and our parameter stacks the layers on its first axis. Both keep the
same layout within a layer, so mapping is renaming, stacking and the removal of axes of length one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jax_vlffd.clip.config import CLIPConfig, VisionConfig, clip_from_hf, clip_to_hf, vit_from_hf
from jax_vlffd.errors import UserError

Table = Sequence[tuple[str, str]]
Target = Mapping[str, jax.ShapeDtypeStruct]

_MAX_JSON = 16 * 2**20  # a config or an index is kilobytes; more is not one


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

#: Buffers of old files, and the heads of a plain ViT: there, and not needed.
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


def open_checkpoint(source: str) -> Checkpoint:
    """Opens a local folder, or a hub id that is downloaded first (safetensors and config only).

    Raises:
      UserError: no such folder or id, no or broken config, pickled or broken weights, another model.
    """
    folder = _folder(source)
    values = read_json(folder / "config.json")
    if values.get("model_type") == "vit":
        vision, clip = vit_from_hf(values), None
    else:
        clip = clip_from_hf(values)
        vision = clip.vision
    tensors = {}
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="np") as handle:
                tensors.update(dict.fromkeys(handle.keys(), file))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: not a whole safetensors file ({error}); download it again"
            ) from None
    return Checkpoint(folder, vision, clip, tensors)


def _folder(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise UserError(
            f"{source}: no such folder (a hub id looks like openai/clip-vit-base-patch16)"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", "model*.safetensors", "model.safetensors.index.json"]
    tokenizer = ["tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"]
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=wanted + tokenizer))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{source}: neither a folder nor a hub id that could be downloaded ({type(error).__name__}); "
            "download it elsewhere and give the folder"
        ) from None


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(read_json(index).get("weight_map", {}).values())
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise UserError(f"{index}: names a file outside the folder")
        files = sorted(folder / name for name in names)
    else:
        files = [folder / "model.safetensors"]
    missing = [file.name for file in files if not file.exists()]
    if not missing:
        return files
    pickled = [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickled:
        raise UserError(
            f"{folder}: has only pickled weights ({pickled[0]}), which can run code when opened and are "
            "refused; convert them once where you trust them: CLIPModel.from_pretrained(FOLDER)"
            ".save_pretrained(NEW, safe_serialization=True)"
        )
    raise UserError(f"{folder}: {', '.join(missing)} is missing; download the checkpoint again")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a small JSON object.

    Raises:
      UserError: it is not there, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise UserError(f"{path}: larger than {_MAX_JSON >> 20} MiB, which no such file is")
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object")
    return values


def load(
    checkpoint: Checkpoint,
    target: Target,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """Reads a checkpoint straight into its target shardings, in fp32.

    Each process reads only the slices that its own devices hold. Position embeddings of another image size
    are interpolated (bicubic).

    Args:
      checkpoint: as `open_checkpoint` gives it.
      target: path -> shape of every parameter of the towers that the checkpoint should fill.
      shardings: path -> sharding.

    Raises:
      UserError: one message with every fault: keys missing, keys unknown, shapes that differ.
    """
    prefix = _prefix(checkpoint)
    rows = [(ours, prefix + theirs) for ours, theirs in checkpoint.table if ours in target]
    faults = [f"parameter {ours} has no row in the table" for ours in target.keys() - dict(rows)]
    used: set[str] = set()
    readers: dict[str, Callable[[Any], np.ndarray]] = {}
    for ours, theirs in rows:
        shape = target[ours].shape
        layered = "{}" in theirs
        keys = [theirs.format(n) for n in range(shape[0])] if layered else [theirs]
        used.update(keys)
        faults += [f"{key} is missing" for key in keys if key not in checkpoint.tensors]
        wanted = shape[1:] if layered else shape
        for key in keys:
            found = _shape(checkpoint, key)
            if found is None:
                continue
            if _squeezed(found) != _squeezed(wanted) and not _fits_flat(found, wanted):
                if ours == "vision/position_embedding" and found[-1] == wanted[-1]:
                    readers[ours] = _interpolated(checkpoint, key, wanted)
                    continue
                faults.append(f"{key} is {list(found)}, the model wants {list(wanted)}")
        readers.setdefault(ours, _reader(checkpoint, keys, shape, layered))
    table_keys = {_pattern(prefix + theirs) for _, theirs in checkpoint.table}
    for key in sorted(checkpoint.tensors.keys() - used):
        if not IGNORED.fullmatch(key):
            known = any(re.fullmatch(pattern, key) for pattern in table_keys)
            faults.append(f"{key} is {'of a layer beyond the model' if known else 'not known'}")
    if faults:
        more = f" and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise UserError(
            f"{checkpoint.folder}: the weights do not fit the model: {'; '.join(faults[:12])}{more}; "
            "give the checkpoint that belongs to this architecture, or change the config's model"
        )
    return {
        ours: jax.make_array_from_callback(target[ours].shape, shardings[ours], readers[ours])
        for ours, _ in rows
    }


def _pattern(theirs: str) -> str:
    return re.escape(theirs).replace(r"\{\}", r"\d+")


def _prefix(checkpoint: Checkpoint) -> str:
    """`ViTForImageClassification` keeps its tower under 'vit.', `ViTModel` does not."""
    if checkpoint.clip is None and any(key.startswith("vit.") for key in checkpoint.tensors):
        return "vit."
    return ""


def _shape(checkpoint: Checkpoint, key: str) -> tuple[int, ...] | None:
    if key not in checkpoint.tensors:
        return None
    with safe_open(checkpoint.tensors[key], framework="np") as handle:
        return tuple(handle.get_slice(key).get_shape())


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _fits_flat(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """A convolution's weight [D, 3, p, p] is our matrix [D, 3 p p]."""
    flat = len(found) == 4 and len(wanted) == 2 and found[0] == wanted[0]
    return flat and int(np.prod(found)) == int(np.prod(wanted))


def _read(checkpoint: Checkpoint, key: str, shape: Sequence[int], index: Any) -> np.ndarray:
    with safe_open(checkpoint.tensors[key], framework="np") as handle:
        part = handle.get_slice(key)
        if tuple(part.get_shape()) == tuple(shape) and shape:
            value = part[index]
        else:
            value = handle.get_tensor(key).reshape(shape)[index]
    return np.asarray(value, np.float32)


def _reader(
    checkpoint: Checkpoint, keys: Sequence[str], shape: Sequence[int], layered: bool
) -> Callable[[Any], np.ndarray]:
    def read(index: Any) -> np.ndarray:
        if not layered:
            return _read(checkpoint, keys[0], shape, index)
        inner = shape[1:]
        return np.stack([_read(checkpoint, key, inner, index[1:]) for key in keys[index[0]]])

    return read


def _interpolated(
    checkpoint: Checkpoint, key: str, shape: Sequence[int]
) -> Callable[[Any], np.ndarray]:
    def read(index: Any) -> np.ndarray:
        with safe_open(checkpoint.tensors[key], framework="np") as handle:
            found = np.asarray(handle.get_tensor(key), np.float32)
        return interpolate_positions(found.reshape(-1, shape[-1]), shape[0])[index]

    return read


def interpolate_positions(positions: np.ndarray, tokens: int) -> np.ndarray:
    """Position embeddings [N, D] of a square grid and a class token, for another N.

    Bicubic (Keys, a = -0.5) with half-pixel centres and no antialiasing; the class token's is kept.
    """
    side, new = round((len(positions) - 1) ** 0.5), round((tokens - 1) ** 0.5)
    grid = positions[1:].reshape(side, side, -1)
    resized = jax.image.resize(grid, (new, new, grid.shape[-1]), "bicubic", antialias=False)
    return np.concatenate([positions[:1], np.asarray(resized).reshape(new * new, -1)])


def to_hf(parameters: Mapping[str, np.ndarray], config: CLIPConfig) -> dict[str, np.ndarray]:
    """Our parameters under Hugging Face's names, layer by layer; other parameters are left out."""
    patch = config.vision.patch_size
    result = {}
    for ours, theirs in CLIP_TABLE:
        value = np.asarray(parameters[ours])
        if ours == "vision/patch_embedding/weight":
            value = value.reshape(-1, 3, patch, patch)
        if "{}" in theirs:
            result |= {
                theirs.format(n): np.ascontiguousarray(layer) for n, layer in enumerate(value)
            }
        else:
            result[theirs] = np.ascontiguousarray(value)
    return result


def save_hf(folder: Path, parameters: Mapping[str, np.ndarray], config: CLIPConfig) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers.CLIPModel` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(clip_to_hf(config), indent=2) + "\n")
    save_file(to_hf(parameters, config), folder / "model.safetensors", metadata={"format": "pt"})
