"""Fits the annotator's thresholds on planted forgeries, whose region and type are known.

All of it is ours. Forgeries of the five types (`data_pipeline.synthetic.forgeries`) are planted over real
faces, the scores of every type are measured where each was planted, and each type's threshold is set
between what it scores on its own forgeries and on the others'. Re-encoded real faces say how large
the mask gets without any forgery.
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

from data_pipeline.core.video import VideoError, open_frames
from data_pipeline.faces.detection import FaceDetector, face_box
from data_pipeline.faces.regions import face_size, region_maps
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.fftg.images import read_image
from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.measure.thresholds import Settings
from data_pipeline.synthetic import forgeries
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, TYPES

Image = NDArray[np.uint8]
Points = NDArray[np.float32]

#: Files that are taken for pictures, and faces that are too small to judge a plant on, in pixels.
_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_MIN_FACE: Final = 60.0
#: Sizes of a face, in pixels, that pictures are reduced to in turn; None leaves them.
_SIZES: Final = (None, None, 90.0)
#: A plant is stored as it is, or as JPEG of a quality from this range.
_QUALITY: Final = (75, 96)
_STORED: Final = 0.5
#: Frames of a video that are encoded again, and every which of them is measured.
_FRAMES: Final = 100
_EVERY: Final = 4
_CRF: Final = 40


@dataclass(frozen=True)
class Portrait:
    """A real face: uint8 [H, W, 3] and landmarks [68, 2] on it."""

    image: Image
    landmarks: Points


@dataclass(frozen=True)
class Plant:
    """A forgery that was planted.

    Attributes:
      portrait: the real face.
      fake: uint8 [H, W, 3].
      region: where, a name of REGIONS.
      types: what, one or two names of TYPES.
    """

    portrait: Portrait
    fake: Image
    region: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What the annotator said of a plant.

    Attributes:
      plant: the truth.
      found: forged region -> its types.
      scores: of every type in the planted region; empty where that was not called forged.
    """

    plant: Plant
    found: dict[str, tuple[str, ...]]
    scores: dict[str, float]


def portraits(folders: Sequence[Path], face_detector: FaceDetector) -> list[Portrait]:
    """Every face of the pictures in `folders` and below, each cut out with its surroundings.

    Raises:
      UserError: there is none.
    """
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
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
                cut = np.ascontiguousarray(image[top:bottom, left:right])
                found.append(Portrait(cut, face.landmarks - corner))
    if not found:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(f"no faces of {_MIN_FACE:.0f} px or more in {names}")
    return found


def plant_all(
    faces: Sequence[Portrait], count: int, seed: int, together: int = 1
) -> Iterator[Plant]:
    """Plants `count` forgeries, types in turn, over random faces, regions and strengths.

    Args:
      faces: what to plant on.
      count: how many.
      seed: of all that is random.
      together: how many types are planted in one region.
    """
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        face = _resized(faces[int(rng.integers(len(faces)))], _SIZES[made % len(_SIZES)])
        maps = region_maps(face.landmarks, *face.image.shape[:2])
        region = str(rng.choice(REGIONS))
        others = [kind for kind in TYPES if kind != TYPES[made % len(TYPES)]]
        types = (TYPES[made % len(TYPES)], *rng.choice(others, together - 1, replace=False))
        if maps[region].sum() < 100:  # out of the picture
            continue
        fake = face.image
        for kind in sorted(types, key=_PLANTING.index):
            fake = forgeries.plant(fake, maps[region], kind, float(rng.uniform()), rng)
        if rng.random() > _STORED:
            fake = forgeries.jpeg(fake, int(rng.integers(*_QUALITY)))
        made += 1
        yield Plant(face, fake, region, tuple(str(kind) for kind in types))


#: Two types in one region are planted in an order in which the second does not undo the first.
_PLANTING: Final = ("structure", "blur", "color", "texture", "boundary")


def judge(plants: Iterable[Plant], settings: Settings) -> list[Outcome]:
    """Annotates plants as pairs with their real faces."""
    outcomes = []
    for plant in plants:
        face = plant.portrait
        findings, _ = annotate_pair(face.image, plant.fake, face.landmarks, settings)
        found = {name: finding.types for name, finding in findings.items() if finding.forged}
        evidence = findings[plant.region].evidence
        outcomes.append(
            Outcome(plant, found, {kind: figures["score"] for kind, figures in evidence.items()})
        )
    return outcomes


def fit_types(plants: Sequence[Plant], settings: Settings) -> Settings:
    """The settings with each type's threshold fitted on plants.

    `boundary` comes first, as the others are measured away from a seam. A threshold is the middle,
    in logarithm, of the stretch on which F1 is within a hundredth of its best. That of `boundary` is
    the stretch's lower end: the seams that are planted are lines, and the tone that steps at the
    edge of a patch is a weaker seam.
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
    plants: Sequence[Plant], settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores [N, 5] of plants whose region is seen as forged, and the index of each one's type."""
    rows, truth = [], []
    for outcome in judge(plants, settings):
        if outcome.scores:
            rows.append([outcome.scores[kind] for kind in TYPES])
            truth.append(TYPES.index(outcome.plant.types[0]))
    return np.array(rows), np.array(truth)


def _good_thresholds(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[float, float]:
    """The ends of the stretch on which F1 is within a hundredth of its best."""
    grid = np.geomspace(1e-3, 30.0, 400)
    hits = np.array([(scores[positive] > level).sum() for level in grid])
    alarms = np.array([(scores[~positive] > level).sum() for level in grid])
    f1 = 2 * hits / (hits + alarms + positive.sum())
    good = grid[f1 >= f1.max() - 0.01]
    return float(good[0]), float(good[-1])


def figures(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each type over all regions, and their means under `macro`.

    A type counts as found in a region when the region is called forged and the type is among its
    types; whatever is found in a region where nothing was planted is a false alarm.
    """
    from sklearn.metrics import precision_recall_fscore_support

    cells = [(outcome, region) for outcome in outcomes for region in REGIONS]
    planted = [[r == o.plant.region and k in o.plant.types for k in TYPES] for o, r in cells]
    named = [[k in o.found.get(r, ()) for k in TYPES] for o, r in cells]
    found = precision_recall_fscore_support(planted, named, average=None, zero_division=0.0)[:3]
    names = ("precision", "recall", "f1")
    columns = zip(
        (*TYPES, "macro"), (*zip(*found, strict=True), np.mean(found, axis=1)), strict=True
    )
    return {kind: dict(zip(names, map(float, values), strict=True)) for kind, values in columns}


def confusion(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """For each planted type, the share of plants in whose region each type was found.

    `forged` is the share of regions called forged, `elsewhere` of plants that made another region
    be called forged.
    """
    table = {}
    for kind in TYPES:
        mine = [outcome for outcome in outcomes if kind in outcome.plant.types]
        rows = {
            other: [other in outcome.found.get(outcome.plant.region, ()) for outcome in mine]
            for other in TYPES
        }
        rows["forged"] = [outcome.plant.region in outcome.found for outcome in mine]
        rows["elsewhere"] = [bool(set(outcome.found) - {outcome.plant.region}) for outcome in mine]
        table[kind] = {name: float(np.mean(row)) if row else 0.0 for name, row in rows.items()}
    return table


def reencoded(faces: Sequence[Portrait]) -> Iterator[tuple[str, Portrait, Image]]:
    """Each face again after what happens to pictures without any forgery, with the name of it."""
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
    """Frames of a real video with the same frames from an H.264 encoding of it.

    Raises:
      UserError: the video cannot be read.
    """
    try:
        reader = open_frames(video)
    except VideoError as error:
        raise UserError(f"{video}: no video that can be read ({error})") from error
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
    for before, after in list(zip(frames, again, strict=True))[::_EVERY]:
        for face in face_detector.detect(np.ascontiguousarray(before))[:1]:
            yield f"H.264 crf {_CRF}", Portrait(before, face.landmarks), after


@dataclass(frozen=True)
class Quiet:
    """A region of a pair without forgery.

    Attributes:
      name: how the pair was stored.
      noise: root of `a * b` of the pair's noise.
      score: mean of the mask in the region, in gray levels.
      forged: whether it was called forged.
    """

    name: str
    noise: float
    score: float
    forged: bool


def measure_noise(
    pairs: Iterator[tuple[str, Portrait, Image]], settings: Settings
) -> list[list[Quiet]]:
    """The regions of pairs without forgery, four a pair."""
    measured = []
    for name, face, image in pairs:
        findings, pair = annotate_pair(face.image, image, face.landmarks, settings)
        level = float(np.sqrt(pair.noise[0] * pair.noise[1]))
        measured.append([Quiet(name, level, 255 * f.score, f.forged) for f in findings.values()])
    return measured


def _resized(face: Portrait, size: float | None) -> Portrait:
    scale = 1.0 if size is None else size / face_size(face.landmarks)
    if scale >= 1.0:
        return face
    to = (round(face.image.shape[1] * scale), round(face.image.shape[0] * scale))
    image = cv2.resize(face.image, to, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return Portrait(image, (face.landmarks * scale).astype(np.float32))
