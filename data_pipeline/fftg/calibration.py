"""Fits the annotator's thresholds on planted forgeries, whose region and type are known.

The method is ours. Forgeries of the five types (`data_pipeline.synthetic.forgeries`) are planted over real
faces, the scores of every type are measured in the planted region, and each type's threshold separates
its scores on its own forgeries from those on the others'. Re-encoded real faces show how large the
mask gets without a forgery.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.frame_numbers import files_below
from data_pipeline.core.video import VideoError, open_frames
from data_pipeline.faces.detection import FaceDetector, face_box
from data_pipeline.faces.regions import face_size, region_maps
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.fftg.images import read_image
from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.measure.thresholds import AnnotatorSettings
from data_pipeline.fftg.measure.type_thresholds import multiples
from data_pipeline.synthetic import forgeries
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, TYPES

Image = NDArray[np.uint8]
Points = NDArray[np.float32]

#: Suffixes of image files, and the minimum size of a face to plant on, in pixels.
_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_MIN_FACE: Final = 60.0
#: Sizes of a face, in pixels, that images are reduced to in turn; None leaves them.
_SIZES: Final = (None, None, 90.0)
#: Range of the quality of plants stored as JPEG, and the fraction of plants that are not.
_QUALITY: Final = (75, 96)
_UNCOMPRESSED: Final = 0.5
#: Frames of a video that are encoded again, and the step between those that are measured.
_FRAMES: Final = 100
_FRAME_STEP: Final = 4
_CRF: Final = 40
#: The order of planting two types in one region: the second must not undo the first.
_PLANTING_ORDER: Final = ("structure", "blur", "color", "texture", "boundary")


@dataclass(frozen=True)
class Portrait:
    """A real face: uint8 [H, W, 3] and landmarks [68, 2] on it."""

    image: Image
    landmarks: Points


@dataclass(frozen=True)
class Plant:
    """A planted forgery.

    Attributes:
      portrait: the real face.
      fake: uint8 [H, W, 3].
      region: a name of REGIONS.
      types: one or two names of TYPES.
    """

    portrait: Portrait
    fake: Image
    region: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class PlantResult:
    """The annotation of a plant.

    Attributes:
      plant: the ground truth.
      predicted: region called forged -> its types.
      scores: of every type in the planted region; empty if that was not called forged.
    """

    plant: Plant
    predicted: dict[str, tuple[str, ...]]
    scores: dict[str, float]


def portraits(folders: Sequence[Path], face_detector: FaceDetector) -> list[Portrait]:
    """Every face of the images in `folders` and below, cropped with its surroundings.

    Raises:
      UserError: there are no faces.
    """
    faces = []
    for folder in folders:
        for path in sorted(files_below(folder)):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            try:
                image, _ = read_image(path)
            except PairError:
                continue
            for face in face_detector.detect(image):
                if face_size(face.landmarks) < _MIN_FACE:
                    continue
                height, width = image.shape[:2]
                left, top, right, bottom = face_box(face, height, width, margin=0.4)
                corner = np.array([left, top], np.float32)
                crop = np.ascontiguousarray(image[top:bottom, left:right])
                faces.append(Portrait(crop, face.landmarks - corner))
    if not faces:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(f"no faces of {_MIN_FACE:.0f} px or more in {names}")
    return faces


def plant_all(
    faces: Sequence[Portrait], count: int, seed: int, together: int = 1
) -> Iterator[Plant]:
    """Plants `count` forgeries, types in turn, over random faces, regions and strengths.

    Args:
      faces: the faces to plant on.
      count: number of plants.
      seed: of all random choices.
      together: number of types planted in one region.
    """
    rng = np.random.default_rng(seed)
    planted = 0
    while planted < count:
        face = _resized(faces[int(rng.integers(len(faces)))], _SIZES[planted % len(_SIZES)])
        maps = region_maps(face.landmarks, *face.image.shape[:2])
        region = str(rng.choice(REGIONS))
        others = [kind for kind in TYPES if kind != TYPES[planted % len(TYPES)]]
        types = (TYPES[planted % len(TYPES)], *rng.choice(others, together - 1, replace=False))
        if maps[region].sum() < 100:  # outside the image
            continue
        fake = face.image
        for kind in sorted(types, key=_PLANTING_ORDER.index):
            fake = forgeries.plant(fake, maps[region], kind, float(rng.uniform()), rng)
        if rng.random() > _UNCOMPRESSED:
            fake = forgeries.jpeg(fake, int(rng.integers(*_QUALITY)))
        planted += 1
        yield Plant(face, fake, region, tuple(str(kind) for kind in types))


def annotate_plants(plants: Iterable[Plant], settings: AnnotatorSettings) -> list[PlantResult]:
    """Annotates plants as pairs with their real faces."""
    outcomes = []
    for plant in plants:
        face = plant.portrait
        findings, _ = annotate_pair(face.image, plant.fake, face.landmarks, settings)
        predicted = {name: finding.types for name, finding in findings.items() if finding.forged}
        evidence = findings[plant.region].evidence
        outcomes.append(
            PlantResult(
                plant, predicted, {kind: figures["score"] for kind, figures in evidence.items()}
            )
        )
    return outcomes


def fit_types(plants: Sequence[Plant], settings: AnnotatorSettings) -> AnnotatorSettings:
    """The settings with each type's threshold fitted on plants.

    `boundary` comes first, as the others are measured away from a seam. A threshold is the geometric
    mean of the interval on which F1 is within 0.01 of its best. That of `boundary` is the lower end of
    the interval: planted seams are lines, and a step of tone at the edge of a patch is weaker.
    """
    for kinds in (("boundary",), tuple(kind for kind in TYPES if kind != "boundary")):
        scores, truth = _scores(plants, settings)
        for kind in kinds:
            column = TYPES.index(kind)
            low, high = _good_thresholds(scores[:, column], truth == column)
            best = float(f"{low if kind == 'boundary' else np.sqrt(low * high):.2g}")
            settings = replace(settings, **{kind: best})
    return settings


def _scores(
    plants: Sequence[Plant], settings: AnnotatorSettings
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores [N, 5] of plants whose region is called forged, and the index of each plant's type.

    Scores are divided by the multiples of the settings that a region's thresholds are.
    """
    rows, truth = [], []
    for outcome in annotate_plants(plants, settings):
        if outcome.scores:
            factors = multiples(outcome.plant.region)
            rows.append([outcome.scores[kind] / factors[kind] for kind in TYPES])
            truth.append(TYPES.index(outcome.plant.types[0]))
    return np.array(rows), np.array(truth)


def _good_thresholds(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[float, float]:
    """The ends of the interval of thresholds on which F1 is within 0.01 of its best."""
    grid = np.geomspace(1e-3, 30.0, 400)
    hits = np.array([(scores[positive] > level).sum() for level in grid])
    alarms = np.array([(scores[~positive] > level).sum() for level in grid])
    f1 = 2 * hits / (hits + alarms + positive.sum())
    good = grid[f1 >= f1.max() - 0.01]
    return float(good[0]), float(good[-1])


def figures(outcomes: Sequence[PlantResult]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each type over all regions, and their means under `macro`.

    A type counts as predicted in a region if the region is called forged with that type; every type
    predicted in a region without a plant is a false positive.
    """
    from sklearn.metrics import precision_recall_fscore_support

    cells = [(outcome, region) for outcome in outcomes for region in REGIONS]
    planted = [[r == o.plant.region and k in o.plant.types for k in TYPES] for o, r in cells]
    predicted = [[k in o.predicted.get(r, ()) for k in TYPES] for o, r in cells]
    metrics = precision_recall_fscore_support(planted, predicted, average=None, zero_division=0.0)[
        :3
    ]
    names = ("precision", "recall", "f1")
    columns = zip(
        (*TYPES, "macro"), (*zip(*metrics, strict=True), np.mean(metrics, axis=1)), strict=True
    )
    return {kind: dict(zip(names, map(float, values), strict=True)) for kind, values in columns}


def confusion(outcomes: Sequence[PlantResult]) -> dict[str, dict[str, float]]:
    """For each planted type, the fraction of plants in whose region each type is predicted.

    `forged` is the fraction of planted regions called forged, `elsewhere` of plants with another
    region called forged.
    """
    table = {}
    for kind in TYPES:
        planted = [outcome for outcome in outcomes if kind in outcome.plant.types]
        rows = {
            other: [other in outcome.predicted.get(outcome.plant.region, ()) for outcome in planted]
            for other in TYPES
        }
        rows["forged"] = [outcome.plant.region in outcome.predicted for outcome in planted]
        rows["elsewhere"] = [bool(set(o.predicted) - {o.plant.region}) for o in planted]
        table[kind] = {name: float(np.mean(row)) if row else 0.0 for name, row in rows.items()}
    return table


def reencoded(faces: Sequence[Portrait]) -> Iterator[tuple[str, Portrait, Image]]:
    """Each face with versions changed by common processing without forgery: (name, face, image)."""
    for number, face in enumerate(faces):
        face = _resized(face, _SIZES[number % len(_SIZES)])
        image = face.image
        size = (image.shape[1], image.shape[0])
        half = cv2.resize(image, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
        back = cv2.resize(half, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        yield "identical", face, image
        for quality in (50, 65, 80, 95):
            yield f"JPEG {quality}", face, forgeries.jpeg(image, quality)
        yield "half size and back", face, back
        yield "half size and back, JPEG 60", face, forgeries.jpeg(back, 60)


def encoded_again(
    video: Path, face_detector: FaceDetector
) -> Iterator[tuple[str, Portrait, Image]]:
    """Faces in frames of a real video with the same frames encoded again as H.264: (name, face, image).

    Raises:
      UserError: the video cannot be read.
    """
    try:
        reader = open_frames(video)
    except VideoError as error:
        raise UserError(f"{video}: cannot be read as a video ({error})") from error
    frames: list[Image] = []
    while len(frames) < _FRAMES and (frame := reader.read(len(frames))) is not None:
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        frames.append(frame[:height, :width])
    reader.close()
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(_CRF)})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as container:
        again: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for before, after in list(zip(frames, again, strict=True))[::_FRAME_STEP]:
        for face in face_detector.detect(np.ascontiguousarray(before))[:1]:
            yield f"H.264 crf {_CRF}", Portrait(before, face.landmarks), after


@dataclass(frozen=True)
class UnforgedRegion:
    """A region of a pair without forgery.

    Attributes:
      name: of the processing of the pair.
      noise: `sqrt(a * b)` of the pair's noise.
      score: mean of the mask in the region, in gray levels.
      forged: whether it is called forged.
    """

    name: str
    noise: float
    score: float
    forged: bool


def measure_noise(
    pairs: Iterator[tuple[str, Portrait, Image]], settings: AnnotatorSettings
) -> list[list[UnforgedRegion]]:
    """The regions of pairs without forgery, four per pair."""
    measured = []
    for name, face, image in pairs:
        findings, pair = annotate_pair(face.image, image, face.landmarks, settings)
        level = float(np.sqrt(pair.noise[0] * pair.noise[1]))
        regions = [UnforgedRegion(name, level, 255 * f.score, f.forged) for f in findings.values()]
        measured.append(regions)
    return measured


def _resized(face: Portrait, size: float | None) -> Portrait:
    scale = 1.0 if size is None else size / face_size(face.landmarks)
    if scale >= 1.0:
        return face
    new_size = (round(face.image.shape[1] * scale), round(face.image.shape[0] * scale))
    image = cv2.resize(face.image, new_size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return Portrait(image, (face.landmarks * scale).astype(np.float32))
