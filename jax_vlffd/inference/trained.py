"""Reads trained detectors: a workdir of training, an exported folder, or an export on the Hugging Face hub.

The only reader for prediction, evaluation and export. JAX is imported when a model is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jax_vlffd import geometry, hub
from jax_vlffd.config import UNRECORDED_RESIZE, ModelConfig, model_config, on_any_device
from jax_vlffd.errors import UserError, printable
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explanation import Explainer
from jax_vlffd.export import folder as exported
from jax_vlffd.files import MAX_CONFIG, MAX_TEXT, read_json, read_text
from jax_vlffd.geometry import Trained
from jax_vlffd.path_containment import check_contained

if TYPE_CHECKING:
    import jax

#: Names within a workdir.
CONFIG, CHECKPOINTS = "config.json", "checkpoints"
CALIBRATION, EXPLANATION = "calibration.json", "explanation.safetensors"
SUMMARY: Final = "summary.json"
#: Letters of a model's name.
_MAX_NAME: Final = 200
#: Parameters are not compressed to less than this part of their size; zeros are.
_MAX_RATIO: Final = 8
#: Prefixes of the parameters that verdicts and reasons need.
IMAGE_PARTS: Final = ("vision/", "visual_projection/", "image_head/")

#: Seconds within which a running training has deleted a checkpoint that it has begun to delete.
_DELETION_TIMEOUT: Final = 2.0


@dataclass(frozen=True)
class TrainedModel:
    """A trained detector, read into memory.

    Attributes:
      name: of its folder.
      model: its settings.
      parameters: path -> array, at least those of IMAGE_PARTS.
      calibration: None if the validation split had one class only; probabilities are then uncalibrated.
      explainer: its bank of sentences, None if it was trained without the alignment branch.
      step: of the checkpoint.
      geometry: face geometry of its training pictures.
      learned_from_masks: whether patches were trained on forgery masks; otherwise its maps mean nothing.
    """

    name: str
    model: ModelConfig
    parameters: Mapping[str, Any]
    calibration: Calibration | None
    explainer: Explainer | None
    step: int
    geometry: Trained = field(default_factory=Trained)
    learned_from_masks: bool = False

    def hash(self) -> str:
        """SHA-256 of all that predictions depend on: image parameters and architecture, preprocessing,
        calibration, bank.
        """
        digest = hashlib.sha256()
        for path in sorted(p for p in self.parameters if p.startswith(IMAGE_PARTS)):
            value = np.ascontiguousarray(self.parameters[path])
            digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
            digest.update(value.data)
        preprocessing: list[Any] = [*self.model.image_mean, *self.model.image_std]
        if self.model.resize != UNRECORDED_RESIZE:  # hashes of older models stay
            preprocessing.append(self.model.resize)
        digest.update(json.dumps(preprocessing).encode())
        if unusual := self._unusual():
            digest.update(json.dumps(unusual, sort_keys=True).encode())
        if self.calibration is not None:
            digest.update(self.calibration.to_json().encode())
        if self.explainer is not None:
            digest.update(self.explainer.to_bytes())
        return digest.hexdigest()

    def _unusual(self) -> dict[str, Any]:
        """What the image branch's arrays do not show of its settings, where it differs from a CLIP's usual.

        The usual adds nothing to the hash, as in the versions whose hash left all of it out.
        """
        vision, compute = self.model.clip.vision, self.model.compute
        values = {
            "activation": vision.activation, "layernorm_eps": vision.layernorm_eps,
            "heads": vision.heads, "dtype": compute.dtype,
        }  # fmt: skip
        usual = {
            "activation": "quick_gelu", "layernorm_eps": 1e-5,
            "heads": max(vision.width // 64, 2), "dtype": "float32",
        }  # fmt: skip
        if compute.lora_rank:
            values["lora_alpha"], usual["lora_alpha"] = compute.lora_alpha, 16.0
        return {name: value for name, value in values.items() if value != usual[name]}


def open_trained(
    source: str | Path,
    step: str = "best",
    *,
    checkpoints: Path | None = None,
    abstract: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> TrainedModel:
    """Reads a detector from a folder, or from a hub id that is downloaded first.

    Args:
      source: a workdir, an export, or a hub id such as `someone/detector` or `someone/detector@v1`.
      step: which checkpoint of a workdir, `best` or `latest`.
      checkpoints: the folder of a workdir's checkpoints, if it is not in the workdir.
      abstract: shape and sharding of every parameter, to read all of them to devices; by default those of
        IMAGE_PARTS are read to the host.

    Raises:
      UserError: `source` is not a detector, is damaged or of another architecture, has values that are not
        numbers, or a link leads out of it.
    """
    folder = Path(source)
    if not folder.exists():
        folder = _from_hub(str(source))
    check_trained(folder, checkpoints, str(source))
    if exported.is_export(folder):
        exported.check_files(folder)
    model, masks = _read_model(folder)
    wanted = _on_one_device(model) if abstract is None else abstract
    prefixes = IMAGE_PARTS if abstract is None else ("",)
    parameters: Mapping[str, Any]
    if exported.is_export(folder):
        at_step = exported.read_manifest(folder)["step"]
        check_size(folder / exported.PARAMETERS, wanted, prefixes)
        parameters = exported.load_parameters(folder, wanted, prefixes)
    else:
        parameters, at_step = _from_checkpoint(folder, checkpoints, step, wanted, prefixes)
    if abstract is None:
        parameters = {k: np.asarray(v) for k, v in parameters.items()}
        for path, value in parameters.items():
            if not np.isfinite(value).all():
                raise UserError(
                    f"{source}: the parameter {path} holds values that are not numbers; copy the model again, "
                    "or train it anew"
                )
    calibration, explainer = read_calibration(folder), read_explainer(folder)
    fitted = _fitted_step(folder)
    if fitted not in (None, at_step) and (calibration or explainer):
        sys.stderr.write(
            f"note: {source}: {CALIBRATION} and {EXPLANATION} are of step {fitted}, and this is step "
            f"{at_step}, so they are not used: copy the whole folder again, or let launch.train end\n"
        )
        calibration = explainer = None
    width = model.clip.embed_dim
    if explainer is not None and explainer.embeddings.shape[1] != width:
        raise UserError(
            f"{folder / EXPLANATION}: its sentences have {explainer.embeddings.shape[1]} values, and "
            f"the model's embeddings {width}: it is of another model; copy the folder again"
        )
    return TrainedModel(
        trained_name(folder), model, parameters, calibration, explainer, at_step,
        geometry.read(folder), masks,
    )  # fmt: skip


def _fitted_step(folder: Path) -> int | None:
    """The step that a folder's calibration and bank were fitted on; None where that is not known."""
    path = folder / SUMMARY
    try:
        step = read_json(path)["best_step"] if path.exists() else None
    except (UserError, LookupError, TypeError):
        return None
    return step if type(step) is int else None


def check_trained(folder: Path, checkpoints: Path | None = None, source: str = "") -> None:
    """Checks that a folder is a trained workdir or an export, without reading its weights.

    Args:
      folder: the workdir or export.
      checkpoints: the folder of a workdir's checkpoints, if it is not in the workdir.
      source: the user's name for the folder, if it differs.

    Raises:
      UserError: the folder is neither, has no checkpoint yet, lacks a file, or a link leads out of it.
    """
    if folder.is_dir():
        check_contained(folder)
    if exported.is_export(folder):
        exported.read_manifest(folder)
        return
    checkpoints = checkpoints or folder / CHECKPOINTS
    if not ((folder / CONFIG).is_file() and checkpoints.is_dir()):
        raise UserError(
            f"{source or folder} is not a trained workdir or an export; give the --workdir of launch.train, "
            "or the --out of launch.export"
        )
    if not has_checkpoint(checkpoints):
        raise UserError(_no_checkpoint(folder))
    if isinstance(checkpoints, Path):
        _bytes_below(checkpoints)


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder of checkpoints has any."""
    return folder.is_dir() and bool(_steps(folder))


def trained_name(folder: Path) -> str:
    """A model's name: that of its workdir, also after an export to a folder of another name."""
    name = Path(os.path.abspath(folder)).name
    if exported.is_export(folder):
        name = printable(str(exported.read_manifest(folder).get("name", name)))[:_MAX_NAME]
    return name


def _from_hub(source: str) -> Path:
    """Downloads an export from the Hugging Face hub, without its files for other programs."""
    if hub.parse(source) is None:
        raise UserError(
            f"{source}: there is no such folder; give the --workdir of launch.train, the --out of "
            "launch.export, or a hub id such as someone/detector"
        )
    others = [f"{name}*" if name.endswith("/") else name for name in exported.FOR_OTHERS]
    return hub.download(source, ignore=others)


def _from_checkpoint(
    workdir: Path,
    folder: Path | None,
    step: str,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    prefixes: tuple[str, ...],
) -> tuple[Mapping[str, Any], int]:
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.storage import DamagedCheckpoint

    folder = folder or workdir / CHECKPOINTS
    while True:
        steps = _steps(folder)
        try:
            with Checkpoints(folder, read_only=True) as checkpoints:
                number = checkpoints.best if step == "best" else checkpoints.latest
                if number is None:
                    raise UserError(_no_checkpoint(workdir))
                if isinstance(checkpoints.folder, Path):
                    check_size(checkpoints.folder / str(number), wanted, prefixes)
                return checkpoints.restore_parameters(wanted, number, prefixes), number
        except DamagedCheckpoint:
            # A run that goes on deletes its older checkpoints, file by file.
            deadline = time.monotonic() + _DELETION_TIMEOUT
            while _steps(folder) == steps:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _steps(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.isdigit()}


def check_size(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], prefixes: tuple[str, ...] = ("",)
) -> None:
    """Checks that the files of parameters are not far smaller than the parameters: zeros that are compressed.

    Args:
      folder: their files.
      wanted: shape of every parameter, by its path.
      prefixes: of the paths of those that are read.

    Raises:
      UserError: they are far smaller, or a file that describes them is larger than such a file can be.
    """
    total = _bytes_below(folder)
    declared = sum(
        math.prod(shape.shape) * shape.dtype.itemsize
        for name, shape in wanted.items()
        if name.startswith(prefixes)
    )
    if declared > _MAX_RATIO * total:
        raise UserError(
            f"{folder}: its files hold {total:,} bytes, but the config describes parameters of {declared:,}; "
            "copy the folder again"
        )


def _bytes_below(folder: Path) -> int:
    """The size of all files in a folder of checkpoints, of which those that Orbax reads whole are small."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a run is active
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                if status.st_size > MAX_TEXT and path.parent.name != "d":  # the arrays' bytes
                    raise UserError(
                        f"{path}: larger than such a file can be; copy the folder again"
                    )
                total += status.st_size
    return total


def _no_checkpoint(workdir: Path) -> str:
    return f"{workdir} has no checkpoint yet; let launch.train reach its first"


def _on_one_device(model: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Every parameter's shape, sharded to one device."""
    import jax

    from jax_vlffd.model import graph_and_shapes

    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        path: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
        for path, shape in graph_and_shapes(model)[1].items()
    }


def read_calibration(folder: Path) -> Calibration | None:
    """Reads the calibration of a folder, None if it has none."""
    path = folder / CALIBRATION
    if not path.exists():
        return None
    return Calibration.from_json(read_text(path, MAX_CONFIG), str(path))


def read_explainer(folder: Path) -> Explainer | None:
    """Reads the bank of sentences of a folder, None if it has none."""
    path = folder / EXPLANATION
    return Explainer.load(path) if path.exists() else None


def _read_model(workdir: Path) -> tuple[ModelConfig, bool]:
    """Reads the model's settings from a config, and whether it learned from forgery masks."""
    path = workdir / CONFIG
    content = read_json(path)
    try:
        values: dict[str, Any] = content["config"]
        described = {"resize": UNRECORDED_RESIZE, **values["model"]}
        model, loss = model_config(described, values["compute"]), values["loss"]
        model = on_any_device(model)
        image, local = float(loss["image"]), float(loss.get("local", 0))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError,
    ) as error:  # fmt: skip
        raise UserError(f"{path}: not a run's config ({error}); give a trained workdir") from error
    if not image > 0:
        raise UserError(
            f"{path}: loss.image is 0, so the head that gives verdicts was never trained; train with it above 0"
        )
    return model, local > 0
