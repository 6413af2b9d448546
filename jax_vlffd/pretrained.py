"""Trained detectors as they lie on disk: a workdir of training, or an exported folder.

`open_trained` tells them apart; each reader gives the same `TrainedModel`, so that whoever answers with it
need not know where it came from. JAX is imported when one is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from jax_vlffd.config import ModelConfig
from jax_vlffd.config_values import model_config
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explain import Explainer

#: Names within a workdir.
CONFIG, CHECKPOINTS = "config.json", "checkpoints"
CALIBRATION, EXPLANATION = "calibration.json", "explanation.safetensors"
#: Parameters that a verdict and its reasons rest on.
IMAGE_PARTS: Final = ("vision/", "visual_projection/", "image_head/")


@dataclass(frozen=True)
class TrainedModel:
    """A trained detector, read into memory.

    Attributes:
      name: of its folder.
      model: its shape.
      parameters: path -> array, those of IMAGE_PARTS at least.
      calibration: None where validation had one class only; probabilities are then the raw ones.
      explainer: its bank of sentences, None where it was trained without the alignment branch.
      step: of the checkpoint.
    """

    name: str
    model: ModelConfig
    parameters: Mapping[str, np.ndarray]
    calibration: Calibration | None
    explainer: Explainer | None
    step: int

    def hash(self) -> str:
        """SHA-256 of all that an answer depends on: image parameters, normalisation, calibration, bank."""
        digest = hashlib.sha256()
        for path in sorted(p for p in self.parameters if p.startswith(IMAGE_PARTS)):
            value = np.ascontiguousarray(self.parameters[path])
            digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
            digest.update(value.data)
        digest.update(json.dumps([*self.model.image_mean, *self.model.image_std]).encode())
        if self.calibration is not None:
            digest.update(self.calibration.to_json().encode())
        if self.explainer is not None:
            digest.update(self.explainer.to_bytes())
        return digest.hexdigest()


def open_trained(source: str | Path) -> TrainedModel:
    """Reads a detector from a folder.

    Raises:
      UserError: there is none, or it is damaged or of another architecture.
    """
    folder = Path(source)
    if (folder / CONFIG).is_file() and (folder / CHECKPOINTS).is_dir():
        return load_workdir(folder)
    if not folder.exists():
        raise UserError(f"{source}: there is no such folder; give the --workdir of launch.train")
    raise UserError(f"{source}: holds no trained detector; give the --workdir of launch.train")


def load_workdir(workdir: Path, step: str = "best") -> TrainedModel:
    """Reads the `best` or `latest` checkpoint of a run of `launch.train`.

    Raises:
      UserError: it is no workdir, has no checkpoint yet, or the checkpoint is damaged or of another model.
    """
    import jax

    from jax_vlffd.model import graph_and_shapes
    from jax_vlffd.training.checkpoint import Checkpoints

    model = _workdir_model(workdir)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    _, shapes = graph_and_shapes(model)
    abstract = {
        path: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
        for path, shape in shapes.items()
    }
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        found = checkpoints.best if step == "best" else checkpoints.latest
        if found is None:
            raise UserError(f"{workdir} has no checkpoint yet; let launch.train reach its first")
        parameters = checkpoints.restore_parameters(abstract, found)
    image = {k: np.asarray(v) for k, v in parameters.items() if k.startswith(IMAGE_PARTS)}
    return TrainedModel(
        workdir.resolve().name, model, image,
        read_calibration(workdir), read_explainer(workdir), found,
    )  # fmt: skip


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration that lies in a folder, None when there is none."""
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fit the calibration again") from error
    return Calibration.from_json(text, str(path))


def read_explainer(folder: Path) -> Explainer | None:
    """The bank of sentences that lies in a folder, None when there is none."""
    path = folder / EXPLANATION
    return Explainer.load(path) if path.exists() else None


def _workdir_model(workdir: Path) -> ModelConfig:
    path = workdir / CONFIG
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))["config"]
        model, compute = values["model"], values["compute"]
        return model_config(model, compute)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's config ({error}); give a trained workdir") from error
