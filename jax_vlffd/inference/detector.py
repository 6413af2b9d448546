"""A trained detector as a function of pictures: verdicts with probabilities, regions, types and reasons.

    from jax_vlffd import Detector
    from data_pipeline.faces import FaceCropper

    detector = Detector.from_pretrained("runs/demo/three_branches", faces=FaceCropper())
    for face in detector(image):
        print(face.verdict, face.probability, [reason.text for reason in face.reasons])

Without `faces` a picture is one face crop, as a packed set holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_vlffd.clip.config import Compute
from jax_vlffd.clip.layers import Array, Linear
from jax_vlffd.clip.towers import ImageTower
from jax_vlffd.config import ModelConfig
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explanation import ENTRIES, Reason
from jax_vlffd.geometry import UNKNOWN
from jax_vlffd.inference.trained import TrainedModel, open_trained
from jax_vlffd.model import bind, flat_parameters, normalize, unit
from jax_vlffd.preprocessing import FaceGeometry, as_rgb, square_view

#: Verdicts that say why there is none.
NO_FACE: Final = "no_face"
FACE_TOO_SMALL: Final = "face_too_small"

Box = tuple[float, float, float, float]


class Crop(Protocol):
    """A face cut out of a picture.

    image: uint8 [H, W, 3], None where the face is too small. box: left, top, right, bottom in the
    picture's pixels. geometry: how the face lies in the crop; None, or not there, where it is not measured.
    """

    @property
    def image(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def box(self) -> Box | None: ...  # noqa: D102
    @property
    def geometry(self) -> FaceGeometry | None: ...  # noqa: D102


class Faces(Protocol):
    """Finds faces and crops them as the training's were; `data_pipeline.faces.FaceCropper` is one.

    One that has a method `fitted(placement)` is asked by it to crop as the detector was trained.
    """

    def crops(self, image: np.ndarray) -> Sequence[Crop]:
        """The faces of uint8 [H, W, 3], RGB, largest first."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What is said of one face.

    Attributes:
      verdict: 'real', 'fake' or 'uncertain'; 'no_face' or 'face_too_small' where there is nothing to judge,
        and then all that follows but the box is None or empty.
      probability: calibrated, of being fake.
      logit: log-odds of being fake before calibration.
      regions: probability that a region is forged, by region; None for a model without a bank of sentences,
        and in it for a region that validation could not calibrate.
      types: the same by region and type.
      reasons: sentences, those that agree with the verdict first.
      box: left, top, right, bottom in the picture's pixels; None for a picture that is a crop.
      geometry: 'as_trained' or 'outside': whether the face lies in its crop as faces of the training lay in
        theirs; 'unknown' where one of the two was not measured; None where there is nothing to judge.
      classifier_map: float32 [G, G]: for each patch, how far the classifier's head finds it fake.
      reason_maps: for each reason the same by similarity to its sentences.
    """

    verdict: str
    probability: float | None = None
    logit: float | None = None
    regions: Mapping[str, float | None] | None = None
    types: Mapping[str, Mapping[str, float | None]] | None = None
    reasons: tuple[Reason, ...] = ()
    box: Box | None = None
    geometry: str | None = None
    classifier_map: np.ndarray | None = field(default=None, repr=False, compare=False)
    reason_maps: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)

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
        }


class ImageBranch(nnx.Module):
    """The part of the model that a verdict needs, its parameters called as in `model.VLFFD`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        vision, exact = config.clip.vision, Compute()
        self.vision = ImageTower(vision, rngs=rngs, compute=config.compute)
        self.visual_projection = Linear(
            vision.width, config.clip.embed_dim, rngs=rngs, bias=False, compute=exact
        )
        self.image_head = Linear(vision.width, 2, rngs=rngs, compute=exact)
        self.mean, self.std = tuple(config.image_mean), tuple(config.image_std)

    def __call__(self, images: Array, directions: Array) -> Look:
        """Looks at uint8 images [B, H, W, 3], with the directions [K, E] of a bank's entries."""
        features = self.vision(normalize(images, self.mean, self.std))
        pooled = features.pooled.astype(jnp.float32)
        patches = features.tokens[:, 1:].astype(jnp.float32)
        heads = self.image_head(patches)
        return Look(
            self.image_head(pooled),
            unit(self.visual_projection(pooled)),
            heads[..., 1] - heads[..., 0],
            unit(self.visual_projection(patches)) @ directions.T,
        )


class Look(NamedTuple):
    """What the image branch gives, fp32: logits [B, 2], embedding [B, E], for each patch the classifier's
    margin [B, N - 1] and the similarity to each entry [B, N - 1, K].
    """

    logits: Array
    embedding: Array
    margins: Array
    similarities: Array


class Detector:
    """A trained detector.

    Attributes:
      trained: the model that predicts.
      faces: what finds faces, cropping as in the training; or None.
      calibration: the model's; without one, probabilities are the raw ones and the threshold is 0.5.

    Args:
      trained: as `pretrained.open_trained` reads it.
      faces: finds and crops the faces of a picture; None takes every picture for a face crop.
      batch_size: crops that go through the model together at most.
    """

    def __init__(self, trained: TrainedModel, faces: Faces | None = None, batch_size: int = 32):
        if batch_size < 1:
            raise UserError(f"the batch size is {batch_size}: it must be at least 1")
        self.trained = trained
        fitted = getattr(faces, "fitted", None)
        self.faces: Faces | None = fitted(trained.geometry.placement()) if fitted else faces
        self._batch_size = batch_size
        shapes = nnx.eval_shape(lambda: ImageBranch(trained.model, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(shapes)
        names = flat_parameters(state)
        self._parameters = {name: jnp.asarray(trained.parameters[name]) for name in names}
        explainer = trained.explainer
        width = trained.model.clip.embed_dim
        found = np.zeros((len(ENTRIES), width)) if explainer is None else explainer.directions
        self._directions = jnp.asarray(found, jnp.float32)
        self.calibration = trained.calibration or Calibration()
        self._look = jax.jit(lambda values, images, rows: bind(graph, values)(images, rows))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, faces: Faces | None = None, batch_size: int = 32
    ) -> Detector:
        """Opens a trained workdir, an exported folder, or one on the Hugging Face hub.

        Args:
          source: the folder, or a hub id such as `someone/detector`.
          faces: finds and crops faces, as `data_pipeline.faces.FaceCropper()`; None takes every picture
            for a face crop.
          batch_size: crops that go through the model together at most.

        Raises:
          UserError: there is no detector, or it is damaged or of another architecture.
        """
        return cls(open_trained(source), faces, batch_size)

    def __call__(self, image: Any) -> list[Prediction]:
        """Predictions for every face of a picture, the largest first; at least one prediction.

        Args:
          image: uint8 [H, W, 3], RGB, or a PIL image.

        Raises:
          UserError: it is neither.
        """
        picture = as_rgb(image)
        if self.faces is None:
            return self.predict([picture])
        crops = self.faces.crops(picture)
        if not crops:
            return [Prediction(NO_FACE)]
        judged = iter(self.predict([crop.image for crop in crops if crop.image is not None]))
        return [self.placed(next(judged) if c.image is not None else None, c) for c in crops]

    def placed(self, prediction: Prediction | None, crop: Crop) -> Prediction:
        """A prediction with its crop's box and geometry; that the face is too small where there is none."""
        if prediction is None:
            return Prediction(FACE_TOO_SMALL, box=crop.box)
        judged = self.trained.geometry.judge(getattr(crop, "geometry", None))
        return replace(prediction, box=crop.box, geometry=judged)

    def predict(self, crops: Sequence[np.ndarray]) -> list[Prediction]:
        """Predictions for face crops, each uint8 [H, W, 3], RGB, of any size, in batches."""
        size = self.trained.model.clip.vision.image_size
        predictions: list[Prediction] = []
        for start in range(0, len(crops), self._batch_size):
            views = [square_view(crop, size) for crop in crops[start : start + self._batch_size]]
            predictions += self._predictions(np.stack(views))
        return predictions

    def _predictions(self, views: np.ndarray) -> Iterator[Prediction]:
        # A few sizes of batch, so that a few programs are compiled and not one for each count.
        padded = min(1 << (len(views) - 1).bit_length(), self._batch_size)
        fill = np.zeros((padded - len(views), *views.shape[1:]), np.uint8)
        found = self._look(self._parameters, np.concatenate([views, fill]), self._directions)
        logits, embeddings, margins, similarities = (np.asarray(value) for value in found)
        grid = self.trained.model.clip.vision.grid
        for row in range(len(views)):
            logit = float(logits[row, 1]) - float(logits[row, 0])
            probability = float(self.calibration.probability(logit))
            verdict = self.calibration.verdict(probability)
            classifier = margins[row].reshape(grid, grid)
            explainer = self.trained.explainer
            if explainer is None:
                yield Prediction(
                    verdict, probability, logit, geometry=UNKNOWN, classifier_map=classifier
                )
                continue
            said = explainer.explain(embeddings[row], verdict)
            near = similarities[row]
            maps = tuple(explainer.patch_map(near, e).reshape(grid, grid) for e in said.entries)
            yield Prediction(
                verdict, probability, logit, said.regions, said.types, said.reasons, geometry=UNKNOWN,
                classifier_map=classifier, reason_maps=maps,
            )  # fmt: skip
