"""The shapes of CLIP's two towers, as frozen dataclasses with named constructors.

Letters used throughout: B batch, H W image, N image tokens (with the class token), T text tokens,
D tower width, E joint embedding, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_vlffd.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class TowerConfig:
    """What the image and the text transformer share."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    layernorm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in ("width", "layers", "heads", "mlp_width"):
            if getattr(self, field) < 1:
                raise UserError(f"{type(self).__name__}.{field} must be at least 1")
        if self.width % self.heads:
            raise UserError(f"width {self.width} does not divide into {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower. `patch_bias` and `pre_layernorm` tell a plain ViT from CLIP's."""

    image_size: int = 224
    patch_size: int = 16
    patch_bias: bool = False
    pre_layernorm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size < 1 or self.image_size < 1 or self.image_size % self.patch_size:
            raise UserError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """N: patches and the class token."""
        return self.grid**2 + 1


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower: causal, pooled at the first end-of-text token."""

    vocab_size: int = 49408
    context_length: int = 77
    eos_id: int = 49407


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the width of the joint embedding."""

    vision: VisionConfig
    text: TextConfig
    embed_dim: int
    logit_scale_init: float = 2.6592

    @classmethod
    def b32(cls, **changes: Any) -> CLIPConfig:
        """OpenAI ViT-B/32 at 224 px."""
        return _openai(768, 12, 12, 32, 512, 8, 512, **changes)

    @classmethod
    def b16(cls, **changes: Any) -> CLIPConfig:
        """OpenAI ViT-B/16 at 224 px."""
        return _openai(768, 12, 12, 16, 512, 8, 512, **changes)

    @classmethod
    def l14(cls, **changes: Any) -> CLIPConfig:
        """OpenAI ViT-L/14 at 224 px."""
        return _openai(1024, 24, 16, 14, 768, 12, 768, **changes)

    @classmethod
    def l14_336(cls) -> CLIPConfig:
        """OpenAI ViT-L/14 at 336 px."""
        return cls.l14(image_size=336)

    @classmethod
    def laion_h14(cls) -> CLIPConfig:
        """LAION ViT-H/14 at 224 px (exact gelu)."""
        vision = VisionConfig(1280, 32, 16, 5120, "gelu", image_size=224, patch_size=14)
        return cls(vision, TextConfig(1024, 24, 16, 4096, "gelu"), 1024)

    @classmethod
    def laion_bigg14(cls) -> CLIPConfig:
        """LAION ViT-bigG/14 at 224 px (exact gelu)."""
        vision = VisionConfig(1664, 48, 16, 8192, "gelu", image_size=224, patch_size=14)
        return cls(vision, TextConfig(1280, 32, 20, 5120, "gelu"), 1280)

    @classmethod
    def vit_tiny(cls) -> CLIPConfig:
        """A plain ViT-Tiny/16 at 224 px beside a small text tower that is trained from scratch."""
        vision = VisionConfig(
            192, 12, 3, 768, "gelu", 1e-6,
            image_size=224, patch_size=16, patch_bias=True, pre_layernorm=False,
        )  # fmt: skip
        return cls(vision, TextConfig(192, 4, 3, 768, "gelu"), 192)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPConfig:
        """Builds from nested plain values, as `dataclasses.asdict` gives them."""
        values = dict(values)
        vision = VisionConfig(**values.pop("vision"))
        return cls(vision=vision, text=TextConfig(**values.pop("text")), **values)


def _openai(
    vision_width: int, vision_layers: int, vision_heads: int, patch: int,
    text_width: int, text_heads: int, embed_dim: int, image_size: int = 224,
) -> CLIPConfig:  # fmt: skip
    vision = VisionConfig(
        vision_width, vision_layers, vision_heads, 4 * vision_width,
        image_size=image_size, patch_size=patch,
    )  # fmt: skip
    return CLIPConfig(vision, TextConfig(text_width, 12, text_heads, 4 * text_width), embed_dim)


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
    if values.get("model_type") != "clip":
        raise UserError(f"config.json is of model type {values.get('model_type')!r}, not 'clip'")
    # Old files keep the real values in *_config_dict beside an empty *_config.
    vision = {**(values.get("vision_config") or {}), **(values.get("vision_config_dict") or {})}
    text = {**(values.get("text_config") or {}), **(values.get("text_config_dict") or {})}
    text_values = _read(text, _HF_TEXT, _TEXT_SIZES)
    if text_values["eos_id"] == 2:
        # Files older than transformers 4.30 say 2 and pool at the highest id, which is the last one.
        text_values["eos_id"] = text_values["vocab_size"] - 1
    return CLIPConfig(
        vision=VisionConfig(**_read(vision, _HF_VISION, _VISION_SIZES)),
        text=TextConfig(**text_values),
        embed_dim=int(values.get("projection_dim", 512)),
        logit_scale_init=float(values.get("logit_scale_init_value", 2.6592)),
    )


def vit_from_hf(values: Mapping[str, Any]) -> VisionConfig:
    """Reads the `config.json` of a plain Hugging Face ViT (`ViTModel`, `ViTForImageClassification`).

    Raises:
      UserError: the file is of another model type, or lacks the query/key/value biases.
    """
    if values.get("model_type") != "vit":
        raise UserError(f"config.json is of model type {values.get('model_type')!r}, not 'vit'")
    if not values.get("qkv_bias", True):
        raise UserError("config.json says qkv_bias is false; only ViTs with those biases are read")
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


def difference(ours: VisionConfig | TextConfig, theirs: VisionConfig | TextConfig) -> list[str]:
    """The fields in which two towers differ, as 'field ours != theirs'; empty when weights fit.

    The image size is left out: position embeddings interpolate to another one.
    """
    return [
        f"{field.name} {getattr(ours, field.name)} != {getattr(theirs, field.name)}"
        for field in dataclasses.fields(ours)
        if field.name != "image_size" and getattr(ours, field.name) != getattr(theirs, field.name)
    ]


def _read(
    values: Mapping[str, Any],
    table: Mapping[str, tuple[str, Any]],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        ours: values.get(theirs, defaults.get(theirs, default))
        for theirs, (ours, default) in table.items()
    }
