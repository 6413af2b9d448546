"""The configs of Hugging Face's CLIP and ViT, read as our shapes and written from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_vlffd.clip.config import CLIPConfig, TextConfig, TowerConfig, VisionConfig
from jax_vlffd.errors import UserError

# Hugging Face's field -> ours, with the default that transformers assumes when a file leaves it out.
_HF_TOWER: dict[str, tuple[str, Any]] = {
    "hidden_size": ("width", None),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("heads", None),
    "intermediate_size": ("mlp_width", None),
    "hidden_act": ("activation", "quick_gelu"),
    "layer_norm_eps": ("layernorm_eps", 1e-5),
}
_HF_VISION = _HF_TOWER | {"image_size": ("image_size", 224), "patch_size": ("patch_size", 32)}
_HF_TEXT = _HF_TOWER | {
    "vocab_size": ("vocab_size", 49408),
    "max_position_embeddings": ("context_length", 77),
    "eos_token_id": ("eos_id", 49407),
}
_VISION_SIZES = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
_TEXT_SIZES = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
_VIT_SIZES = _VISION_SIZES | {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "patch_size": 16}


def clip_from_hf(values: Mapping[str, Any]) -> CLIPConfig:
    """Reads a Hugging Face CLIP `config.json`.

    Raises:
      UserError: the file is of another model type, or a value is out of range.
    """
    _check_model_type(values, "clip")
    text = TextConfig(**_read(_tower_values(values, "text"), _HF_TEXT, _TEXT_SIZES))
    if text.eos_id == 2:
        # Files older than transformers 4.30 say 2 and pool at the highest id, which is the last one.
        text = dataclasses.replace(text, eos_id=text.vocab_size - 1)
    return CLIPConfig(
        vision=VisionConfig(**_read(_tower_values(values, "vision"), _HF_VISION, _VISION_SIZES)),
        text=text,
        embed_dim=values.get("projection_dim", 512),
        logit_scale_init=values.get("logit_scale_init_value", 2.6592),
    )


def vit_from_hf(values: Mapping[str, Any]) -> VisionConfig:
    """Reads the `config.json` of a plain Hugging Face ViT (`ViTModel`, `ViTForImageClassification`).

    Raises:
      UserError: the file is of another model type, or lacks the query/key/value biases.
    """
    _check_model_type(values, "vit")
    if not values.get("qkv_bias", True):
        raise UserError("qkv_bias is false; only ViTs with those biases are read")
    return VisionConfig(
        **_read(values, _HF_VISION, _VIT_SIZES), patch_bias=True, pre_layernorm=False
    )


def clip_to_hf(config: CLIPConfig) -> dict[str, Any]:
    """The Hugging Face `config.json` of a CLIP of this shape.

    Raises:
      UserError: the image tower is a plain ViT, which transformers' CLIPModel cannot express.
    """
    if config.vision.patch_bias or not config.vision.pre_layernorm:
        raise UserError("a plain ViT image tower has no Hugging Face CLIP form")

    def tower(part: TowerConfig, table: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        return {theirs: getattr(part, ours) for theirs, (ours, _) in table.items()} | {
            "projection_dim": config.embed_dim
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale_init,
        "text_config": tower(config.text, _HF_TEXT) | {"model_type": "clip_text_model"},
        "vision_config": tower(config.vision, _HF_VISION) | {"model_type": "clip_vision_model"},
    }


def vit_to_hf(vision: VisionConfig) -> dict[str, Any]:
    """The Hugging Face `config.json` of a plain ViT of this shape (`ViTModel`).

    Raises:
      UserError: the image tower is CLIP's, which a ViTModel cannot express.
    """
    if vision.pre_layernorm:
        raise UserError("an image tower with a pre-LayerNorm has no ViTModel form")
    return {"architectures": ["ViTModel"], "model_type": "vit", "qkv_bias": True} | {
        theirs: getattr(vision, ours) for theirs, (ours, _) in _HF_VISION.items()
    }


def _check_model_type(values: Mapping[str, Any], wanted: str) -> None:
    if values.get("model_type") != wanted:
        raise UserError(f"model_type is {values.get('model_type')!r}, not {wanted!r}")


def _tower_values(values: Mapping[str, Any], tower: str) -> dict[str, Any]:
    # Old files keep the real values in *_config_dict beside an empty *_config.
    merged: dict[str, Any] = {}
    for name in (f"{tower}_config", f"{tower}_config_dict"):
        part = values.get(name) or {}
        if not isinstance(part, Mapping):
            raise UserError(f"{name} is not an object")
        merged |= part
    return merged


def _read(
    values: Mapping[str, Any],
    table: Mapping[str, tuple[str, Any]],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        ours: values.get(theirs, defaults.get(theirs, default))
        for theirs, (ours, default) in table.items()
    }
