"""Runs of the tiny model with drawn parameters, of each kind that exports differ by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs.base import recipe
from data_pipeline.loading.tokenizer import train_tokenizer
from jax_vlffd.config import TuningConfig
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.state import TrainState
from launch.experiment import export, training_data
from launch.experiment import plan as plans
from launch.experiment import workdir as runs
from tests.support import tiny, tiny_workdir

STEP = 3
SIDE = tiny.VISION.image_size
IMAGES = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def variant(name: str) -> dict[str, Any]:
    """Settings of a run: CLIP, CLIP with adapters, a plain ViT, CLIP with a patch bias."""
    model = tiny.model(lora_rank=2 if name == "lora" else 0)
    vision = {
        "vit": {"patch_bias": True, "pre_layernorm": False, "layernorm_eps": 1e-6},
        "bias": {"patch_bias": True},
    }.get(name, {})
    clip = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.VISION, **vision))
    tuning = TuningConfig("lora", "lora") if name == "lora" else TuningConfig()
    return {"model": dataclasses.replace(model, clip=clip), "tuning": tuning}


def draw(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Parameters of which none is zero, one, or small enough to be lost."""
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in shapes.items():
        value = 0.2 * rng.standard_normal(shape.shape) + float(path.endswith("/scale"))
        values[path] = np.asarray(value, np.float32)
    return values


def make_workdir(workdir: Path, packed: Path, **settings: Any) -> Path:
    """A workdir as training leaves it, its parameters drawn."""
    run, data = tiny.settings(packed, **settings)
    texts = [f"This is a fake face. The {word} is odd." for word in ("mouth", "nose", "eye")]
    tokenizer = train_tokenizer(texts, tiny.TEXT.vocab_size, workdir / runs.TOKENIZER)
    runs.save_config(workdir, json.loads(recipe(run, data).to_json()))
    training_data.save(workdir, training_data.describe(data))
    plan = plans.make_plan(plans.with_tokenizer(run, tokenizer), data, steps=1)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), plan.abstract.optimizer)
    state = TrainState(np.asarray(STEP, np.int32), draw(dict(plan.shapes)), zeros)
    state = jax.tree.map(jax.device_put, state, plan.sharding)
    with Checkpoints(workdir / runs.CHECKPOINTS) as checkpoints:
        checkpoints.save(state, {}, {"auc": 0.75})
    calibration = Calibration(1.3, 0.5, 0.4, 0.6, 0.05, 24)
    (workdir / runs.CALIBRATION).write_text(calibration.to_json())
    (workdir / runs.EXPLANATION).write_bytes(tiny_workdir.explainer().to_bytes())
    (workdir / runs.SUMMARY).write_text(json.dumps({"validation": {"auc": 0.75}, "parameters": 5}))
    return workdir


Made = Callable[[str], tuple[Path, Path]]


def maker(packed: Path, folders: pytest.TempPathFactory) -> Made:
    """What gives workdir and export of a variant; see the fixture `made`."""
    done: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in done:
            root = folders.mktemp(name)
            workdir = make_workdir(root / "run", packed, **variant(name))
            export.export(workdir, root / "export")
            assert sorted(path.name for path in root.iterdir()) == ["export", "run"]
            done[name] = workdir, root / "export"
        return done[name]

    return make
