"""Trained detectors as they lie on disk: a workdir of training, or an exported folder.

`open_trained` tells them apart; each reader gives the same `TrainedModel`, so that whoever answers with it
need not know where it came from. JAX is imported when one is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jax_vlffd import geometry
from jax_vlffd.config import ModelConfig
from jax_vlffd.config_values import model_config
from jax_vlffd.contained import check_contained, read_small
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explanation import Explainer
from jax_vlffd.export import folder as exported
from jax_vlffd.geometry import Trained

if TYPE_CHECKING:
    import jax

#: Names within a workdir.
CONFIG, CHECKPOINTS = "config.json", "checkpoints"
CALIBRATION, EXPLANATION = "calibration.json", "explanation.safetensors"
#: Parameters that a verdict and its reasons rest on.
IMAGE_PARTS: Final = ("vision/", "visual_projection/", "image_head/")

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


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
      geometry: how faces lay in the pictures of its training.
      learned_from_masks: whether patches were taught by forgery masks; otherwise maps mean nothing.
    """

    name: str
    model: ModelConfig
    parameters: Mapping[str, np.ndarray]
    calibration: Calibration | None
    explainer: Explainer | None
    step: int
    geometry: Trained = field(default_factory=Trained)
    learned_from_masks: bool = False

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
    """Reads a detector from a folder, or from a hub id that is downloaded first.

    Raises:
      UserError: there is none, it is damaged or of another architecture, or a link leads out of the folder.
    """
    folder = Path(source)
    if not folder.exists():
        folder = _from_hub(str(source))
    if folder.is_dir():
        check_contained(folder)
    if exported.is_export(folder):
        return load_export(folder)
    if (folder / CONFIG).is_file() and (folder / CHECKPOINTS).is_dir():
        return load_workdir(folder)
    raise UserError(
        f"{source}: holds no trained detector; give the --workdir of launch.train, or the --out of "
        "launch.export"
    )


def _from_hub(source: str) -> Path:
    """Downloads what an answer needs of an export on the Hugging Face hub."""
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            f"{source}: there is no such folder; give the --workdir of launch.train, the --out of "
            "launch.export, or a hub id such as someone/detector"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    others = [f"{name}*" if name.endswith("/") else name for name in exported.FOR_OTHERS]
    try:
        return Path(huggingface_hub.snapshot_download(source, ignore_patterns=others))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{source}: neither a folder nor a hub id that could be downloaded ({type(error).__name__}); "
            "download it elsewhere and give the folder"
        ) from None


def load_export(folder: Path) -> TrainedModel:
    """Reads an export of `launch.export`.

    Raises:
      UserError: a file is missing, it is damaged, or its parameters are not those of its config.
    """
    manifest = exported.read_manifest(folder)
    model, masks = _workdir_model(folder)
    parameters = exported.load_parameters(folder, _abstract(model))
    return TrainedModel(
        str(manifest.get("name", folder.name)), model, _image_parts(parameters),
        read_calibration(folder), read_explainer(folder), manifest["step"],
        geometry.read(folder), masks,
    )  # fmt: skip


def load_workdir(workdir: Path, step: str = "best") -> TrainedModel:
    """Reads the `best` or `latest` checkpoint of a run of `launch.train`.

    Raises:
      UserError: it is no workdir, has no checkpoint yet, or the checkpoint is damaged or of another model.
    """
    from jax_vlffd.training.checkpoints import Checkpoints

    model, masks = _workdir_model(workdir)
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        found = checkpoints.best if step == "best" else checkpoints.latest
        if found is None:
            raise UserError(f"{workdir} has no checkpoint yet; let launch.train reach its first")
        parameters = checkpoints.restore_parameters(_abstract(model), found)
    return TrainedModel(
        workdir.resolve().name, model, _image_parts(parameters),
        read_calibration(workdir), read_explainer(workdir), found, geometry.read(workdir),
        masks,
    )  # fmt: skip


def _abstract(model: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Every parameter's shape, on one device."""
    import jax

    from jax_vlffd.model import graph_and_shapes

    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        path: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
        for path, shape in graph_and_shapes(model)[1].items()
    }


def _image_parts(parameters: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in parameters.items() if k.startswith(IMAGE_PARTS)}


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration that lies in a folder, None when there is none."""
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        text = read_small(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fit the calibration again") from error
    return Calibration.from_json(text, str(path))


def read_explainer(folder: Path) -> Explainer | None:
    """The bank of sentences that lies in a folder, None when there is none."""
    path = folder / EXPLANATION
    return Explainer.load(path) if path.exists() else None


def _workdir_model(workdir: Path) -> tuple[ModelConfig, bool]:
    """The model of a config, and whether it learned from forgery masks."""
    path = workdir / CONFIG
    try:
        values: dict[str, Any] = json.loads(read_small(path))["config"]
        model, loss = model_config(values["model"], values["compute"]), values["loss"]
        image, local = float(loss["image"]), float(loss.get("local", 0))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's config ({error}); give a trained workdir") from error
    if not image > 0:
        raise UserError(
            f"{path}: loss.image is 0, so the head that gives verdicts was never trained; train with it above 0"
        )
    return model, local > 0
