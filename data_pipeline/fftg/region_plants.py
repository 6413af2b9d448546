"""Edits of known regions planted over real faces, to measure how well forged regions are identified.

The method is ours. The areas that are edited come from the landmarks alone and not from the annotator's
outlines. Edits have soft borders; a pair is then disturbed as pictures are: turned, scaled, shifted,
changed in tone, and stored again on one side or on both.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.faces.regions import face_outline, face_size
from data_pipeline.fftg.calibration import Portrait
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.measure.thresholds import AnnotatorSettings
from data_pipeline.synthetic.forgeries import align_donor, jpeg
from jax_vlffd.vocabulary import REGIONS

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: How an edited area changes. On skin, `paste` is another person's skin.
EDITS: Final = ("paste", "recolor", "warp", "blur")
#: What is done to the pair besides.
NUISANCES: Final = (
    "none", "rotation", "scale", "shift", "tone", "JPEG of the fake", "JPEG of both", "H.264 of the fake",
    "H.264 of both", "resize", "resize of both", "together",
)  # fmt: skip
#: An edit counts as visible if the stored pair differs in the inner half of the edited area by this mean of
#: gray levels (largest channel), and by this multiple of what it would differ by without the edit; others are
#: not planted.
VISIBLE: Final = 6.0
OVER_STORING: Final = 1.5
#: Attempts to plant one visible edit.
_ATTEMPTS: Final = 20


@dataclass(frozen=True)
class RegionPlant:
    """A pair with known forged regions.

    Attributes:
      real: uint8 [H, W, 3].
      fake: uint8 [H, W, 3].
      landmarks: float32 [68, 2] on the real.
      regions: the names of the edited regions; empty for a pair without an edit.
      edit: a name of EDITS, or `none`.
      nuisance: a name of NUISANCES.
    """

    real: Image
    fake: Image
    landmarks: Floats
    regions: frozenset[str]
    edit: str
    nuisance: str


def plant_regions(
    faces: Sequence[Portrait], count: int, seed: int, edited: bool = True
) -> Iterator[RegionPlant]:
    """Edits one or two regions of random faces, kinds and nuisances in turn.

    Args:
      faces: two at least, as organs are pasted from one to another.
      count: number of pairs.
      seed: of all random choices.
      edited: False leaves the regions as they are.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        nuisance = NUISANCES[number % len(NUISANCES)]
        edit = EDITS[number // len(NUISANCES) % len(EDITS)] if edited else "none"
        for _ in range(_ATTEMPTS):
            index, other = (int(i) for i in rng.choice(len(faces), 2, replace=False))
            face = faces[index]
            fake: Image | None = face.image
            names = sorted(
                str(name) for name in rng.choice(REGIONS, int(rng.integers(1, 3)), replace=False)
            )
            for name in names if edited else ():
                if fake is not None:
                    fake = _edited(fake, face, faces[other], name, edit, rng)
            stored_as = int(rng.integers(1 << 31))
            if fake is None or (edited and not _visible(face, fake, names, nuisance, stored_as)):
                continue
            real, fake = _disturbed(face.image, fake, nuisance, np.random.default_rng(stored_as))
            regions = frozenset(names if edited else ())
            yield RegionPlant(real, fake, face.landmarks, regions, edit, nuisance)
            break


def _area(points: Floats, name: str, shape: tuple[int, ...]) -> Floats:
    """The area that an edit of a region replaces, float32 [H, W], 0 or 1."""
    area = np.zeros(shape[:2], np.float32)

    def fill(outline: Floats, value: float, grow: float = 1.0) -> None:
        middle = outline.mean(axis=0)
        hull = cv2.convexHull((middle + grow * (outline - middle)).astype(np.float32))
        cv2.fillConvexPoly(area, np.round(hull).astype(np.int32), value)

    organs = {
        "mouth": [points[48:60]],
        "nose": [np.concatenate([points[29:31], points[31:36]])],
        "eyes": [points[36:42], points[42:48]],
    }
    if name != "face":
        for outline in organs[name]:
            fill(outline, 1.0, 1.2)
        return area
    fill(face_outline(points), 1.0, 0.92)
    # The skin that is edited keeps a distance from the organs.
    brows = [
        np.concatenate([points[17:22], points[36:42]]),
        np.concatenate([points[22:27], points[42:48]]),
    ]
    for outline in (points[48:60], points[27:36], *brows):
        fill(outline, 0.0, 1.6)
    return area


def _edited(
    image: Image, face: Portrait, donor: Portrait, name: str, edit: str, rng: np.random.Generator
) -> Image | None:
    """The image with one region edited, or None where the change is not visible."""
    points = face.landmarks
    size = face_size(points)
    area = _area(points, name, image.shape)
    if area.sum() < 60:
        return None
    soft = cv2.GaussianBlur(area, (0, 0), size * rng.uniform(0.01, 0.025))
    picture = image.astype(np.float32)
    strength = rng.uniform(0.2, 1.0)
    if edit == "paste":
        given = np.asarray(
            cv2.copyMakeBorder(donor.image, 0, 300, 0, 300, cv2.BORDER_REFLECT_101), np.uint8
        )
        given = align_donor(given, donor.landmarks, points)[: image.shape[0], : image.shape[1]]
        if given.shape != image.shape:
            return None
        changed = given.astype(np.float32)
        inner = area > 0.5
        changed += (1 - strength) * (picture[inner].mean(axis=0) - changed[inner].mean(axis=0))
    elif edit == "recolor":
        direction = rng.standard_normal(3)
        changed = picture + (10 + 30 * strength) * (direction / np.abs(direction).max())
    elif edit == "warp":
        y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        reach = size * (0.02 + 0.06 * strength)
        dx, dy = np.float32(reach * np.cos(angle)), np.float32(reach * np.sin(angle))
        moved_x, moved_y = x + soft * dx, y + soft * dy
        border = cv2.BORDER_REFLECT
        changed = np.asarray(
            cv2.remap(picture, moved_x, moved_y, cv2.INTER_CUBIC, borderMode=border),
            np.float32,
        )
    else:
        sigma = size * (0.01 + 0.03 * strength)
        changed = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
    result = np.clip(np.rint(picture + soft[..., None] * (changed - picture)), 0, 255)
    return np.asarray(result, np.uint8)


def _visible(
    face: Portrait, fake: Image, names: Sequence[str], nuisance: str, stored_as: int
) -> bool:
    """Whether each edit can be seen once it is stored; see VISIBLE."""
    unedited, pair = (
        _stored(face.image, picture, nuisance, np.random.default_rng(stored_as))
        for picture in (face.image, fake)
    )
    for name in names:
        area = (_area(face.landmarks, name, fake.shape) > 0.5).astype(np.uint8)
        depth = cv2.distanceTransform(area, cv2.DIST_L2, 5)
        inner = depth > np.median(depth[depth > 0])
        storing, change = (
            float(cv2.absdiff(*images).max(axis=2)[inner].mean()) for images in (unedited, pair)
        )
        if change < max(VISIBLE, OVER_STORING * storing):
            return False
    return True


def _disturbed(
    real: Image, fake: Image, nuisance: str, rng: np.random.Generator
) -> tuple[Image, Image]:
    """The pair after one nuisance or several, within the limits that the annotator undoes."""
    real, fake = _stored(real, fake, nuisance, rng)
    every = nuisance == "together"
    height, width = fake.shape[:2]
    if every or nuisance in ("rotation", "scale", "shift"):
        angle = rng.uniform(-3, 3) if every or nuisance == "rotation" else 0.0
        scale = rng.uniform(0.96, 1.04) if every or nuisance == "scale" else 1.0
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        if every or nuisance == "shift":
            matrix = matrix + np.array([[0, 0, rng.uniform(-5, 5)], [0, 0, rng.uniform(-5, 5)]])
        fake = cv2.warpAffine(
            fake, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.uint8)
    if every or nuisance == "tone":
        gain, gamma = rng.uniform(0.92, 1.08), rng.uniform(0.9, 1.1)
        levels = 255 * gain * (np.arange(256) / 255) ** gamma
        fake = cv2.LUT(fake, np.clip(np.rint(levels), 0, 255).astype(np.uint8)).astype(np.uint8)
    return real, fake


def _stored(
    real: Image, fake: Image, nuisance: str, rng: np.random.Generator
) -> tuple[Image, Image]:
    """The pair as it is read after one side or both were stored."""
    qualities, factors = rng.integers(30, 96, 2), rng.integers(28, 41, 2)
    both = nuisance.endswith("both") or nuisance == "together"
    if nuisance.startswith("JPEG") or nuisance == "together":
        fake = jpeg(fake, int(qualities[0]))
        real = jpeg(real, int(qualities[1])) if both else real
    elif nuisance.startswith("H.264"):
        fake = _h264(fake, int(factors[0]))
        real = _h264(real, int(factors[1])) if both else real
    elif nuisance.startswith("resize"):
        fake = _halved(fake)
        real = _halved(real) if both else real
    return real, fake


def _halved(image: Image) -> Image:
    """Reduced to half the size, and enlarged again."""
    height, width = image.shape[:2]
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def _h264(image: Image, factor: int) -> Image:
    """Stored as a frame of H.264 with a constant rate factor."""
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(factor)})
        stream.height, stream.width = even.shape[:2]
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return np.ascontiguousarray(frame[:height, :width], np.uint8)


@dataclass(frozen=True)
class RegionAnswer:
    """The regions of a plant that are edited, and those called forged.

    Attributes:
      regions: see RegionPlant.
      edit: see RegionPlant.
      nuisance: see RegionPlant.
      predicted: the regions called forged; None where the pair was refused.
    """

    regions: frozenset[str]
    edit: str
    nuisance: str
    predicted: frozenset[str] | None


def answers(plants: Iterable[RegionPlant], settings: AnnotatorSettings) -> list[RegionAnswer]:
    """Annotates plants."""
    results = []
    for plant in plants:
        predicted = None
        try:
            findings, _ = annotate_pair(plant.real, plant.fake, plant.landmarks, settings)
            predicted = frozenset(name for name, finding in findings.items() if finding.forged)
        except PairError:
            pass
        results.append(RegionAnswer(plant.regions, plant.edit, plant.nuisance, predicted))
    return results


def region_figures(results: Sequence[RegionAnswer]) -> dict[str, float]:
    """Micro F1 over regions, and the fraction of pairs with all four regions right.

    A refused pair has no region called forged, and is wrong.
    """
    pairs = [(result.regions, result.predicted or frozenset()) for result in results]
    hits = sum(len(truth & named) for truth, named in pairs)
    total = sum(len(truth) + len(named) for truth, named in pairs)
    right = sum(result.predicted == result.regions for result in results)
    return {"f1": 2 * hits / total if total else 1.0, "all_right": right / max(len(results), 1)}
