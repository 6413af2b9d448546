"""The detector: pictures to verdicts with probabilities, regions, types and reasons.

    from jax_vlffd import Detector
    from data_pipeline.faces import FaceCropper

    detector = Detector.from_pretrained("runs/demo/three_branches", faces=FaceCropper())
    for face in detector(image):
        print(face.verdict, face.probability, [reason.text for reason in face.reasons])

Without `faces`, each picture is taken for one face crop, like those of a packed set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float32, UInt8

from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explanation import ENTRIES, Reason
from jax_vlffd.geometry import UNKNOWN
from jax_vlffd.inference.trained import TrainedModel, open_trained
from jax_vlffd.model import ImageBranch, bind, flat_parameters
from jax_vlffd.preprocessing import FaceGeometry, as_rgb, square_view

#: In place of a verdict, where no face could be classified.
NO_FACE: Final = "no_face"
FACE_TOO_SMALL: Final = "face_too_small"

Box = tuple[float, float, float, float]


class Crop(Protocol):
    """A face cut out of a picture.

    image: RGB, None where the face is too small. box: left, top, right, bottom in the picture's pixels.
    geometry: the face's size and position in the crop; None, or no such attribute, where it is not measured.
    Likewise `cut_off`, whether the face reaches beyond its picture, and `inside`, bool [H, W], the pixels of
    the crop that the picture covers.
    """

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"] | None: ...  # noqa: D102
    @property
    def box(self) -> Box | None: ...  # noqa: D102
    @property
    def geometry(self) -> FaceGeometry | None: ...  # noqa: D102


class FaceCropping(Protocol):
    """Detects faces and crops them as the training's were; `data_pipeline.faces.FaceCropper` is one.

    If it has a method `fitted(placement, judge)`, that is called to obtain one that crops as in this model's
    training; see `data_pipeline.faces.FaceCropper.fitted`.
    """

    def crops(self, image: UInt8[np.ndarray, "H W 3"]) -> Sequence[Crop]:
        """The faces of an RGB image, largest first."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The prediction for one face.

    Attributes:
      verdict: 'real', 'fake' or 'uncertain'; 'no_face' or 'face_too_small' where there is nothing to classify,
        and then every other field but the box is None or empty.
      probability: calibrated probability of being fake, 0 to 1.
      logit: log-odds of being fake before calibration.
      regions: probability that a region is forged, by region; None for a model without a bank of sentences,
        and a value is None for a region that validation could not calibrate.
      types: the same by region and type.
      reasons: sentences, those that agree with the verdict first.
      box: left, top, right, bottom in the picture's pixels; None for a picture that is a crop.
      geometry: 'as_trained' or 'outside': whether size and position of the face in its crop are those of the
        training's faces; 'unknown' where one of the two was not measured; None where there is nothing to
        classify.
      cut_off: whether the face reaches beyond its picture; None where it is not known.
      classifier_map: the classifier's margin of fake over real for each patch; NaN beyond the picture.
      reason_maps: for each reason, each patch's similarity to its sentences; NaN beyond the picture.
    """

    verdict: str
    probability: float | None = None
    logit: float | None = None
    regions: Mapping[str, float | None] | None = None
    types: Mapping[str, Mapping[str, float | None]] | None = None
    reasons: tuple[Reason, ...] = ()
    box: Box | None = None
    geometry: str | None = None
    cut_off: bool | None = None
    classifier_map: Float32[np.ndarray, "G G"] | None = field(
        default=None, repr=False, compare=False
    )
    reason_maps: tuple[Float32[np.ndarray, "G G"], ...] = field(
        default=(), repr=False, compare=False
    )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the maps."""
        return {
            "verdict": self.verdict,
            "probability": self.probability,
            "logit": self.logit,
            "regions": None if self.regions is None else dict(self.regions),
            "types": None if self.types is None else {k: dict(v) for k, v in self.types.items()},
            "reasons": [asdict(reason) for reason in self.reasons],
            "box": None if self.box is None else list(self.box),
            "geometry": self.geometry,
            "cut_off": self.cut_off,
        }


class Detector:
    """A trained detector.

    Attributes:
      trained: the model that predicts.
      faces: the face detector, which crops as in the training; or None.
      calibration: the model's; without one, probabilities are the raw ones and the threshold is 0.5.

    Args:
      trained: as `open_trained` reads it.
      faces: detects and crops the faces of a picture; None takes every picture for a face crop.
      batch_size: crops that go through the model together at most.
    """

    def __init__(
        self, trained: TrainedModel, faces: FaceCropping | None = None, batch_size: int = 32
    ):
        if batch_size < 1:
            raise UserError(f"the batch size is {batch_size}: it must be at least 1")
        self.trained = trained
        fitted = getattr(faces, "fitted", None)
        known = trained.geometry
        self.faces: FaceCropping | None = (
            fitted(known.placement(), known.judge) if fitted else faces
        )
        self._batch_size = batch_size
        shapes = nnx.eval_shape(lambda: ImageBranch(trained.model, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(shapes)
        names = flat_parameters(state)
        self._parameters = {name: jnp.asarray(trained.parameters[name]) for name in names}
        explainer = trained.explainer
        width = trained.model.clip.embed_dim
        self._directions = jnp.asarray(
            np.zeros((len(ENTRIES), width)) if explainer is None else explainer.directions,
            jnp.float32,
        )
        self.calibration = trained.calibration or Calibration()
        self._score = jax.jit(
            lambda values, images, directions: bind(graph, values)(images, directions)
        )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, faces: FaceCropping | None = None, batch_size: int = 32
    ) -> Detector:
        """Opens a trained workdir, an exported folder, or one on the Hugging Face hub.

        Args:
          source: the folder, or a hub id such as `someone/detector`.
          faces: detects and crops faces, as `data_pipeline.faces.FaceCropper()`; None takes every picture
            for a face crop.
          batch_size: crops that go through the model together at most.

        Raises:
          UserError: `source` is not a detector, is damaged, or has another architecture.
        """
        return cls(open_trained(source), faces, batch_size)

    def __call__(self, image: Any) -> list[Prediction]:
        """Predictions for every face of a picture, the largest first; at least one prediction.

        Args:
          image: uint8 [H, W, 3], RGB, or a PIL image.

        Raises:
          UserError: `image` is of another type, shape or dtype.
        """
        picture = as_rgb(image)
        if self.faces is None:
            return self.predict([picture])
        crops = self.faces.crops(picture)
        if not crops:
            return [Prediction(NO_FACE)]
        predictions = iter(self.predict([crop.image for crop in crops if crop.image is not None]))
        return [self.placed(next(predictions) if c.image is not None else None, c) for c in crops]

    def placed(self, prediction: Prediction | None, crop: Crop) -> Prediction:
        """A prediction with its crop's box and geometry; `face_too_small` where it is None."""
        cut_off = getattr(crop, "cut_off", None)
        if prediction is None:
            return Prediction(FACE_TOO_SMALL, box=crop.box, cut_off=cut_off)
        judged = self.trained.geometry.judge(getattr(crop, "geometry", None))
        placed = replace(prediction, box=crop.box, geometry=judged, cut_off=cut_off)
        inside = getattr(crop, "inside", None)
        if inside is None or prediction.classifier_map is None:
            return placed
        return replace(
            placed,
            classifier_map=_within(prediction.classifier_map, inside),
            reason_maps=tuple(_within(values, inside) for values in prediction.reason_maps),
        )

    def predict(self, crops: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Prediction]:
        """Predictions for RGB face crops of any size, computed in batches."""
        size, resize = self.trained.model.clip.vision.image_size, self.trained.model.resize
        predictions: list[Prediction] = []
        for start in range(0, len(crops), self._batch_size):
            batch = crops[start : start + self._batch_size]
            views = [square_view(crop, size, resize=resize) for crop in batch]
            predictions += self._predictions(np.stack(views))
        return predictions

    def _predictions(self, views: UInt8[np.ndarray, "B H W 3"]) -> Iterator[Prediction]:
        # Batches are padded to a power of two, so that few programs are compiled.
        padded = min(1 << (len(views) - 1).bit_length(), self._batch_size)
        fill = np.zeros((padded - len(views), *views.shape[1:]), np.uint8)
        scores = self._score(self._parameters, np.concatenate([views, fill]), self._directions)
        logits, embeddings, margins, similarities = map(np.asarray, scores)
        grid = self.trained.model.clip.vision.grid
        for row in range(len(views)):
            logit = float(logits[row, 1]) - float(logits[row, 0])
            if not (math.isfinite(logit) and np.isfinite(embeddings[row]).all()):
                raise UserError(
                    f"{self.trained.name}: the model's numbers overflow, so it has no verdict (logit {logit}); "
                    "its parameters are damaged: copy the model again, or train it anew"
                )
            probability = float(self.calibration.probability(logit))
            verdict = self.calibration.verdict(probability)
            classifier = margins[row].reshape(grid, grid)
            explainer = self.trained.explainer
            if explainer is None:
                yield Prediction(
                    verdict, probability, logit, geometry=UNKNOWN, classifier_map=classifier
                )
                continue
            explanation = explainer.explain(embeddings[row], verdict)
            maps = tuple(
                explainer.patch_map(similarities[row], entries).reshape(grid, grid)
                for entries in explanation.entries
            )
            yield Prediction(
                verdict, probability, logit, explanation.regions, explanation.types,
                explanation.reasons, geometry=UNKNOWN, classifier_map=classifier, reason_maps=maps,
            )  # fmt: skip


def _within(
    values: Float32[np.ndarray, "G G"], inside: Bool[np.ndarray, "H W"]
) -> Float32[np.ndarray, "G G"]:
    """A map with NaN in the patches of which most lies beyond the picture."""
    shown = square_view(inside[..., None].astype(np.uint8) * 255, 8 * len(values))
    covered = shown.reshape(len(values), 8, len(values), 8).mean(axis=(1, 3))
    return np.where(covered < 128, np.float32(np.nan), values)
