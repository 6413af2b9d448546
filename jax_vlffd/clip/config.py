"""The shapes of CLIP's two towers, as frozen dataclasses with named constructors.

Letters used throughout: B batch, H W image, N image tokens (with the class token), T text tokens,
D tower width, E joint embedding, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_vlffd.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "dots", "full")
ATTENTION = ("xla", "cudnn")

_LARGEST = 2**20  # no width, depth or vocabulary comes near it


def _check_values(config: Any) -> None:
    """Checks values that files give, of any type: sizes are whole and positive, numbers finite.

    Raises:
      UserError: one message that names every field with a value it cannot have.
    """
    faults = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{type(config).__name__}.{field.name}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 0 if field.name == "eos_id" else 1
        whole = number and isinstance(value, int) and least <= value <= _LARGEST
        if field.type == "int" and not whole:
            faults.append(f"{name} {value!r} is not a whole number from {least} to {_LARGEST}")
        elif field.type == "float" and not (number and math.isfinite(value)):
            faults.append(f"{name} {value!r} is not a finite number")
        elif field.type == "bool" and not isinstance(value, bool):
            faults.append(f"{name} {value!r} is neither true nor false")
    if faults:
        raise UserError("; ".join(faults))


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
        _check_values(self)
        if self.width % self.heads:
            raise UserError(f"width {self.width} does not divide into {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        if self.layernorm_eps <= 0:
            raise UserError(f"layernorm_eps {self.layernorm_eps} is not above 0")


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower. `patch_bias` and `pre_layernorm` tell a plain ViT from CLIP's."""

    image_size: int = 224
    patch_size: int = 16
    patch_bias: bool = False
    pre_layernorm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eos_id >= self.vocab_size:
            raise UserError(f"eos_id {self.eos_id} is not in a vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the width of the joint embedding."""

    vision: VisionConfig
    text: TextConfig
    embed_dim: int
    logit_scale_init: float = 2.6592

    def __post_init__(self) -> None:
        _check_values(self)

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


@dataclass(frozen=True)
class Compute:
    """How the same model is computed: none of these changes what it says, beyond rounding.

    dtype: of the matrix products, 'float32' (in full, also where a device would round the factors) or
    'bfloat16'. remat: 'none', 'dots' (keep the outputs of matrix products) or 'full' (keep nothing
    within a layer). unroll: layers per turn of the scan. attention: 'xla', or 'cudnn' for NVIDIA's flash
    attention within the towers, which wants bfloat16 and an NVIDIA GPU. pad_to_multiple_of: in training,
    texts are cut to the longest of their batch, rounded up to a multiple of this; 0 leaves them as long as
    the context.
    lora_rank: rank of the adapters on the attention's projections; 0 makes none. lora_alpha: the adapter
    is scaled by lora_alpha / lora_rank (Hu et al. 2021).
    """

    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    pad_to_multiple_of: int = 16
    lora_rank: int = 0
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"compute.dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if self.remat not in REMAT:
            raise UserError(f"compute.remat {self.remat!r} is none of {', '.join(REMAT)}")
        if self.attention not in ATTENTION:
            raise UserError(
                f"compute.attention {self.attention!r} is none of {', '.join(ATTENTION)}"
            )
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UserError("compute.attention 'cudnn' wants compute.dtype 'bfloat16'")
        if self.unroll < 1 or self.lora_rank < 0 or self.lora_alpha <= 0:
            raise UserError("compute wants unroll >= 1, lora_rank >= 0 and lora_alpha > 0")
        if self.pad_to_multiple_of < 0:
            raise UserError("compute.pad_to_multiple_of wants to be at least 0")


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


def difference(ours: VisionConfig | TextConfig, theirs: VisionConfig | TextConfig) -> list[str]:
    """The fields in which two towers differ, as 'field ours != theirs'; empty when weights fit.

    The image size is left out: position embeddings interpolate to another one.
    """
    return [
        f"{field.name} {getattr(ours, field.name)} != {getattr(theirs, field.name)}"
        for field in dataclasses.fields(ours)
        if field.name != "image_size" and getattr(ours, field.name) != getattr(theirs, field.name)
    ]


def _check_model_type(values: Mapping[str, Any], wanted: str) -> None:
    if values.get("model_type") != wanted:
        raise UserError(f"model_type is {values.get('model_type')!r}, not {wanted!r}")


def _tower_values(values: Mapping[str, Any], tower: str) -> dict[str, Any]:
    # Old files keep the real values in *_config_dict beside an empty *_config.
    found: dict[str, Any] = {}
    for name in (f"{tower}_config", f"{tower}_config_dict"):
        part = values.get(name) or {}
        if not isinstance(part, Mapping):
            raise UserError(f"{name} is not an object")
        found |= part
    return found


def _read(
    values: Mapping[str, Any],
    table: Mapping[str, tuple[str, Any]],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        ours: values.get(theirs, defaults.get(theirs, default))
        for theirs, (ours, default) in table.items()
    }
