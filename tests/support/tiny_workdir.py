"""A workdir as training leaves it, of the tiny model with drawn parameters: nothing is trained for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data_pipeline.loading.tokenizer import train_tokenizer
from jax_vlffd import explanation
from jax_vlffd.config import LossConfig
from jax_vlffd.evaluation import calibration
from jax_vlffd.training.checkpoints import Checkpoints
from launch.experiment import workdir
from tests.support import tiny

STEP = 5


def write(folder: Path, loss: LossConfig | None = None) -> Path:
    """Writes config, checkpoint, tokenizer-free calibration and, with the alignment branch, the bank."""
    loss = loss or LossConfig()
    run, data = tiny.settings(folder / "packed", loss=loss)
    plan = tiny.plan(loss=loss)
    with Checkpoints(folder / workdir.CHECKPOINTS) as checkpoints:
        position = {"data": {}, "clock": {}}
        state = tiny.state(plan)
        state = type(state)(np.int32(STEP), state.parameters, state.optimizer)
        checkpoints.save(state, position, {"auc": 0.9})
    workdir.save_config(folder, tiny.recipe(run, data).to_dict())
    fitted = calibration.Calibration(2.0, 0.5, 0.45, 0.55, 0.05, 40)
    (folder / workdir.CALIBRATION).write_text(fitted.to_json())
    if loss.alignment > 0:
        (folder / workdir.EXPLANATION).write_bytes(explainer().to_bytes())
    return folder


def write_scoring(folder: Path, loss: LossConfig | None = None, **data: str) -> Path:
    """The same with a tokenizer, so that packed sets can be scored; `data` are settings of the config."""
    write(folder, loss)
    train_tokenizer(["This is a fake face."], tiny.TEXT.vocab_size, folder / workdir.TOKENIZER)
    config = json.loads((folder / workdir.CONFIG).read_text())
    config["config"]["data"] |= data
    (folder / workdir.CONFIG).write_text(json.dumps(config))
    return folder


def explainer(width: int = tiny.CLIP.embed_dim, seed: int = 0) -> explanation.Explainer:
    """A bank with drawn embeddings, fitted on images that were drawn around what is true of them."""
    rng = np.random.default_rng(seed)
    sentences = explanation.bank()
    centers = unit(rng.normal(size=(len(explanation.ENTRIES), width)))
    entry = [sentence.entry for sentence in sentences]
    embeddings = unit(centers[entry] + 0.1 * rng.normal(size=(len(entry), width)))
    label = np.arange(400) % 2
    types = (rng.random((400, 4, 5)) < 0.1) * label[:, None, None]
    truth = np.column_stack([types.reshape(400, -1), 1 - label])
    images = unit(truth @ centers + 0.1 * rng.normal(size=(400, width)))
    return explanation.fit(sentences, embeddings, images, label, types.any(2), types)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
