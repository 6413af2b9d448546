"""The preprocessing that a checkpoint's own files ask for, held against the run's."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.loading.tokenizer import Tokenizer, train_tokenizer
from jax_vlffd.clip.huggingface import save_hf
from jax_vlffd.config import CLIP_MEAN, CLIP_STD, LossConfig, ModelConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training import normalization
from tests.support import tiny
from tests.support.hf_files import CONFIG

MODEL = ModelConfig(CONFIG, fusion_heads=4)
HALF = [0.5, 0.5, 0.5]
OPENAI = {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}


def folder(path: Path, values: Any, name: str = normalization.FILES[0]) -> Path:
    (path / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_the_same_figures_pass_in_every_form_in_which_files_give_them(tmp_path: Path) -> None:
    assert normalization.check(tmp_path, MODEL) == []
    bytes_ = {key: [255 * x for x in value] for key, value in OPENAI.items()}
    for values in (
        OPENAI,
        {key: [round(x, 4) for x in value] for key, value in OPENAI.items()},
        {**OPENAI, "do_rescale": True, "rescale_factor": 0.00392156862745098},
        {**bytes_, "do_rescale": False},
        {**bytes_, "rescale_factor": 1.0},
        {"image_processor_type": "CLIPImageProcessor"},
        {"crop_size": {"height": 32, "width": 32}, "resample": 3},
    ):
        assert normalization.check(folder(tmp_path, values), MODEL) == []
    half = dataclasses.replace(MODEL, image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
    for values in (
        {"image_mean": HALF, "image_std": HALF},
        {"image_mean": 0.5, "image_std": 0.5},
        {"feature_extractor_type": "ViTFeatureExtractor"},
        {"image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5},
    ):
        assert normalization.check(folder(tmp_path, values), half) == []
        with pytest.raises(UserError, match=r"give --config\.model\.image_mean="):
            normalization.check(tmp_path, MODEL)


def test_the_newer_file_is_read_too(tmp_path: Path) -> None:
    inner = {"image_processor": {"image_mean": HALF, "image_std": HALF}}
    with pytest.raises(UserError, match=r"processor_config.json: .*image_mean='\(0.5, 0.5, 0.5\)'"):
        normalization.check(folder(tmp_path, inner, normalization.FILES[1]), MODEL)
    only_text = {"processor_class": "CLIPProcessor"}
    assert normalization.check(folder(tmp_path, only_text, normalization.FILES[1]), MODEL) == []


def test_minor_differences_are_warnings(tmp_path: Path) -> None:
    values = {**OPENAI, "resample": 2, "size": {"height": 224, "width": 224}}
    first, second = normalization.check(folder(tmp_path, values), MODEL)
    assert "by bilinear resampling" in first
    assert "have 224 px, the run's model.vision.image_size is 32" in second


@pytest.mark.parametrize(
    "values",
    [
        "[]", "{", "[" * 5000, {"image_mean": "x"}, {"image_mean": [1, 2], "image_std": HALF},
        {"image_mean": HALF, "image_std": [0, 1, 1]}, {"image_mean": [True] * 3, "image_std": HALF},
        '{"image_mean": [NaN, 0, 0]}', '{"image_mean": [1e999, 0, 0]}',
        '{"image_mean": [1' + "0" * 400 + ", 0, 0]}", {**OPENAI, "rescale_factor": 0},
        {"image_processor": 3}, {**OPENAI, "do_flip_channel_order": True},
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(tmp_path: Path, values: Any) -> None:
    with pytest.raises(UserError) as error:
        normalization.check(folder(tmp_path, values), MODEL)
    assert str(error.value).startswith(str(tmp_path / normalization.FILES[0]))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_training_refuses_another_normalization_and_takes_the_flags_that_it_names(
    packed: Path, tmp_path: Path
) -> None:
    loss = LossConfig(alignment=0, fusion=0)
    settings = tiny.settings(packed, loss=loss, duration="1 steps", evaluate_every="1 steps")
    recipe = tiny.write_recipe(tmp_path / "tiny.py", *settings)
    words = tmp_path / "words"
    train_tokenizer(["This is a fake face."], tiny.TEXT.vocab_size, words)
    text = dataclasses.replace(tiny.TEXT, eos_id=Tokenizer.load(words).eos_id)
    source = tmp_path / "clip"
    clip = dataclasses.replace(tiny.CLIP, text=text)
    save_hf(source, {k: np.asarray(v) for k, v in tiny.start().items()}, clip)
    folder(source, {"image_mean": HALF, "image_std": [0.25, 0.5, 0.5], "crop_size": 224})
    flags = [
        f"--config={recipe}", f"--workdir={tmp_path / 'run'}", f"--config.init.clip={source}",
        f"--config.data.tokenizer={words}",
    ]  # fmt: skip
    done = tiny.command("launch.train", *flags)
    assert done.returncode == 1
    assert "have mean (0.5, 0.5, 0.5) and spread (0.25, 0.5, 0.5)" in done.stderr
    # The flags are in the line, ready to be pasted into a shell.
    given = re.findall(r"--config\.model\.image_(?:mean|std)='[^']+'", done.stderr)
    done = tiny.command("launch.train", *flags, *(flag.replace("'", "") for flag in given))
    assert done.returncode == 0, done.stderr
    assert "have 224 px, the run's model.vision.image_size is 16" in done.stdout
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["model"]
    assert (saved["image_mean"], saved["image_std"]) == (HALF, [0.25, 0.5, 0.5])
