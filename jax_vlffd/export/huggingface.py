"""Writes the weights for transformers and PEFT: `hf/`, `heads.safetensors` and `adapter/`.

transformers' CLIPModel has a pre-LayerNorm and no patch bias. A tower with a patch bias beside its
pre-LayerNorm is the same function with the bias added to the patches' position embeddings, and is written so.
A tower without a pre-LayerNorm (a plain ViT) cannot be a CLIPModel: it is written as a ViTModel, and the text
tower and the projections go to `heads.safetensors`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jax_vlffd import hub
from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.clip.huggingface_config import clip_to_hf, vit_to_hf
from jax_vlffd.config import ModelConfig

Values = Mapping[str, np.ndarray]

#: Projections train in every mode; PEFT saves such layers in full, beside the adapters.
_FULL_LAYERS = ("visual_projection", "text_projection")


def form(config: CLIPConfig) -> str:
    """The model type of `hf/`: 'clip' (a CLIPModel) or 'vit' (a ViTModel)."""
    return "clip" if config.vision.pre_layernorm else "vit"


def merge(parameters: Values, config: ModelConfig) -> tuple[dict[str, np.ndarray], ModelConfig]:
    """Merges the adapters: each weight with its scaled `lora_b @ lora_a` added.

    Args:
      parameters: path -> fp32 value, the layers of a tower stacked on the first axis.
      config: their model's.

    Returns:
      The merged parameters, summed in float64 and rounded once to fp32, and their config.
    """
    compute = config.compute
    merged = {path: value for path, value in parameters.items() if "/lora_" not in path}
    for path, down in parameters.items():
        if not path.endswith("/lora_a"):
            continue
        stem = path.removesuffix("/lora_a")
        up = np.asarray(parameters[f"{stem}/lora_b"], np.float64)
        update = compute.lora_alpha / compute.lora_rank * (up @ np.asarray(down, np.float64))
        merged[f"{stem}/weight"] = (merged[f"{stem}/weight"] + update).astype(np.float32)
    compute = dataclasses.replace(compute, lora_rank=0)
    return merged, dataclasses.replace(config, compute=compute)


def save(
    folder: Path, parameters: Values, config: ModelConfig, token_ids: Mapping[str, int]
) -> set[str]:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Args:
      folder: created.
      parameters: merged, path -> fp32 value.
      config: their model's.
      token_ids: the tokenizer's `bos_token_id` and `pad_token_id`, for CLIP's text config.

    Returns:
      The paths of the parameters that were written.
    """
    folder.mkdir(parents=True)
    clip = config.clip
    if form(clip) == "vit":
        values, table = dict(parameters), huggingface.VIT_TABLE
        # CLIP's patch embedding has no bias; a ViTModel's always has one.
        values.setdefault("vision/patch_embedding/bias", np.zeros(clip.vision.width, np.float32))
        settings = vit_to_hf(clip.vision)
    else:
        values, clip = _folded(parameters, clip)
        table, settings = huggingface.CLIP_TABLE, clip_to_hf(clip)
        settings["text_config"] |= token_ids
    tensors = huggingface.to_hf(values, clip, table)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", settings | {"dtype": "float32"})
    _write_json(folder / "preprocessor_config.json", _preprocessor(config))
    held = {ours for ours, _ in table}
    return held | {path for path in parameters if path == "vision/patch_embedding/bias"}


def _folded(parameters: Values, clip: CLIPConfig) -> tuple[dict[str, np.ndarray], CLIPConfig]:
    """Adds a patch bias to the position embedding of every patch, and removes it."""
    values = dict(parameters)
    bias = values.pop("vision/patch_embedding/bias", None)
    if bias is not None:
        positions = np.array(values["vision/position_embedding"])
        positions[1:] += bias
        values["vision/position_embedding"] = positions
    vision = dataclasses.replace(clip.vision, patch_bias=False)
    return values, dataclasses.replace(clip, vision=vision)


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    """Preprocessing as in evaluation: the largest centered square, resized, normalized."""
    side = config.clip.vision.image_size
    square = {"height": side, "width": side}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic; ours averages when it shrinks, so pixels differ slightly
        "do_center_crop": True,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
    }


def save_heads(path: Path, parameters: Values, held: set[str]) -> None:
    """Writes every parameter that is not in `hf/` (`held`), under our names."""
    rest = {name: np.array(v, order="C") for name, v in parameters.items() if name not in held}
    save_file(rest, path, metadata={"format": "jax_vlffd"})


def save_adapter(
    folder: Path, parameters: Values, config: ModelConfig, base: str, revision: str | None = None
) -> None:
    """Writes the adapters of the model in `hf/` in PEFT's format: a config and one safetensors file.

    They apply to the weights that the training started from, not to `hf/`, where they are merged already.

    Args:
      folder: created.
      parameters: with adapters, not merged.
      config: their model's, `compute.lora_rank` above 0.
      base: name of the checkpoint that the run started from, as `ID` or `ID@REVISION`; '' for none.
      revision: its commit on the hub, if it is known.
    """
    folder.mkdir(parents=True)
    clip = config.clip
    table = huggingface.CLIP_TABLE if form(clip) == "clip" else huggingface.VIT_TABLE
    tensors: dict[str, np.ndarray] = {}
    targets = set()
    for ours, hf_path in table:
        stem, layer = ours.removesuffix("/weight"), hf_path.removesuffix(".weight")
        for name, peft_name in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            for n, value in enumerate(parameters.get(f"{stem}/{name}", ())):
                key = f"base_model.model.{layer.format(n)}.{peft_name}.weight"
                tensors[key] = np.array(value, np.float32, order="C")
                targets.add(layer.rpartition("{}.")[2])
    full_layers = [name for name in _FULL_LAYERS if (f"{name}/weight", f"{name}.weight") in table]
    for name in full_layers:
        value = np.array(parameters[f"{name}/weight"], np.float32, order="C")
        tensors[f"base_model.model.{name}.weight"] = value
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    name, named = hub.parse(base) or (base, None)
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": name or None,
        "revision": revision or named,
        "r": config.compute.lora_rank,
        "lora_alpha": config.compute.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(targets),
        "modules_to_save": full_layers or None,
    }
    _write_json(folder / "adapter_config.json", settings)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
