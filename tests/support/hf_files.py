"""A small CLIP whose files are written and loaded, and what is said of files that do not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipeline.loading.tokenizer import Tokenizer, train_tokenizer
from jax_vlffd import model
from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import CLIPConfig, TextConfig, VisionConfig
from jax_vlffd.clip.huggingface_config import clip_to_hf
from jax_vlffd.config import ModelConfig
from jax_vlffd.errors import UserError
from tests.support import tiny

CONFIG = CLIPConfig(
    VisionConfig(32, 2, 4, 64, image_size=32, patch_size=8),
    TextConfig(16, 3, 2, 32, vocab_size=48, context_length=12, eos_id=47),
    embed_dim=8,
)
POSITION = "vision_model.embeddings.position_embedding.weight"


def shapes_of(config: CLIPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    _, shapes = model.graph_and_shapes(ModelConfig(config, fusion_heads=4))
    return {ours: shapes[ours] for ours, _ in huggingface.CLIP_TABLE}


SHAPES = shapes_of(CONFIG)


def draw() -> dict[str, np.ndarray]:
    """Parameters of CONFIG."""
    rng = np.random.default_rng(0)
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in SHAPES.items()}


def writer(folder: Path, tensors: dict[str, np.ndarray]) -> Callable[..., Path]:
    """What writes a checkpoint into a folder; see the fixture `write`."""

    def make(result: Any = None, config: Any = None) -> Path:
        text = json.dumps(clip_to_hf(CONFIG) if config is None else config)
        (folder / "config.json").write_text(text)
        if result is not False:
            save_file(tensors if result is None else result, folder / "model.safetensors")
        return folder

    return make


def write_clip(folder: Path) -> Path:
    """A CLIP of the tiny model's shape, with a tokenizer."""
    folder.mkdir(parents=True)
    train_tokenizer(["This is a fake face."], tiny.TEXT.vocab_size, folder)
    text = dataclasses.replace(tiny.TEXT, eos_id=Tokenizer.load(folder).eos_id)
    clip = dataclasses.replace(tiny.CLIP, text=text)
    (folder / "config.json").write_text(json.dumps(clip_to_hf(clip)))
    save_file(huggingface.to_hf(tiny.start(), clip), folder / "model.safetensors")
    return folder


def load(
    folder: Path, shapes: dict[str, jax.ShapeDtypeStruct] = SHAPES, shardings: Any = None
) -> dict[str, jax.Array]:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = shardings or dict.fromkeys(shapes, one)
    return huggingface.load(huggingface.open_checkpoint(str(folder)), shapes, shardings)


def refusal(folder: Path | str, **kwargs: Any) -> str:
    """The message of the UserError that opening or loading raises: one line."""
    with pytest.raises(UserError) as caught:
        load(folder, **kwargs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message
