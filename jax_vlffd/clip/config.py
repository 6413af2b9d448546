"""The shapes of CLIP's two towers, as frozen settings with named constructors."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from jax_vlffd.errors import UserError
from jax_vlffd.settings import settings

Activation = Literal["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"]
Remat = Literal["none", "dots", "full"]

# Far above any real tower: an untrusted config cannot ask for more memory than machines have.
_Size = Annotated[int, Field(ge=1, le=2**20)]
_Pixels = Annotated[int, Field(ge=1, le=2**13)]
_MAX_TOKENS = 2**16
_MAX_PARAMETERS = 2**35


@settings("tower.")
class TowerConfig:
    """Settings of both the image and the text transformer."""

    width: _Size
    layers: _Size
    heads: _Size
    mlp_width: _Size
    activation: Activation = "quick_gelu"
    layernorm_eps: PositiveFloat = 1e-5

    def _check(self, group: str, tokens: int, rows: int) -> None:
        """Checks the fields together, with the `tokens` of an input and the `rows` of the embedding tables."""
        if self.width % self.heads:
            raise UserError(f"{group}.width {self.width} does not divide into {self.heads} heads")
        parameters = self.width * (self.layers * (4 * self.width + 2 * self.mlp_width) + rows)
        if tokens > _MAX_TOKENS or parameters > _MAX_PARAMETERS:
            raise UserError(
                f"{group} describes a tower of {parameters:,} parameters and {tokens:,} tokens; the "
                f"maximum is {_MAX_PARAMETERS:,} and {_MAX_TOKENS:,}"
            )


@settings("model.vision.")
class VisionConfig(TowerConfig):
    """The image tower. A plain ViT has `patch_bias` and no `pre_layernorm`, CLIP's the reverse."""

    image_size: _Pixels = 224
    patch_size: _Pixels = 16
    patch_bias: bool = False
    pre_layernorm: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise UserError(
                f"model.vision.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        self._check("model.vision", self.tokens, self.tokens + 3 * self.patch_size**2)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """N: patches and the class token."""
        return self.grid**2 + 1


@settings("model.text.")
class TextConfig(TowerConfig):
    """The text tower: causal, pooled at the first end-of-text token."""

    vocab_size: _Size = 49408
    context_length: _Size = 77
    eos_id: NonNegativeInt = 49407

    def __post_init__(self) -> None:
        if self.eos_id >= self.vocab_size:
            raise UserError(
                f"model.text.eos_id {self.eos_id} is not in a vocabulary of {self.vocab_size}"
            )
        self._check("model.text", self.context_length, self.vocab_size + self.context_length)


@settings("model.")
class CLIPConfig:
    """Both towers and the width of the joint embedding."""

    vision: VisionConfig
    text: TextConfig
    embed_dim: Annotated[int, Field(ge=1, le=2**16)]
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
        """A plain ViT-Tiny/16 at 224 px, and a small text tower to train from scratch."""
        vision = VisionConfig(
            192, 12, 3, 768, "gelu", 1e-6,
            image_size=224, patch_size=16, patch_bias=True, pre_layernorm=False,
        )  # fmt: skip
        return cls(vision, TextConfig(192, 4, 3, 768, "gelu"), 192)


def _openai(
    vision_width: int, vision_layers: int, vision_heads: int, patch: int,
    text_width: int, text_heads: int, embed_dim: int, image_size: int = 224,
) -> CLIPConfig:  # fmt: skip
    vision = VisionConfig(
        vision_width, vision_layers, vision_heads, 4 * vision_width,
        image_size=image_size, patch_size=patch,
    )  # fmt: skip
    return CLIPConfig(vision, TextConfig(text_width, 12, text_heads, 4 * text_width), embed_dim)


@settings("compute.")
class Compute:
    """How the model is computed; apart from the adapters, results change by rounding only.

    dtype: of the matrix products, 'float32' (at full precision on every device) or 'bfloat16'. remat: 'none',
    'dots' (save the outputs of matrix products) or 'full' (save nothing within a layer). unroll: layers per
    iteration of the scan, with remat at most half of them. attention: 'xla', or 'cudnn' for NVIDIA's flash
    attention within the towers, which needs bfloat16 and an NVIDIA GPU. pad_to_multiple_of: in training, texts
    are truncated to the longest of their batch, rounded up to a multiple of this; 0 leaves them as long as the
    context. lora_rank: rank of the adapters on the attention's projections; 0 for none. lora_alpha: the adapter
    is scaled by lora_alpha / lora_rank (Hu et al. 2021).
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: PositiveInt = 1
    attention: Literal["xla", "cudnn"] = "xla"
    pad_to_multiple_of: NonNegativeInt = 16
    lora_rank: NonNegativeInt = 0
    lora_alpha: PositiveFloat = 16.0

    def __post_init__(self) -> None:
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UserError("compute.attention 'cudnn' wants compute.dtype 'bfloat16'")


def difference(ours: VisionConfig | TextConfig, theirs: VisionConfig | TextConfig) -> list[str]:
    """The fields in which two towers differ, as 'field ours != theirs'; empty when weights fit.

    Except the image size: position embeddings are interpolated to another one.
    """
    return [
        f"{field.name} {getattr(ours, field.name)} != {getattr(theirs, field.name)}"
        for field in dataclasses.fields(ours)
        if field.name != "image_size" and getattr(ours, field.name) != getattr(theirs, field.name)
    ]
