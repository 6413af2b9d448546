"""Forgeries of a known kind planted in a known region of any aligned face.

Five kinds are the forgery types of the vocabulary, each built to move its own statistic and leave
the others as they are; six more are for the question 'does it hold on kinds never trained on'.
A planted forgery is the ground truth for calibrating the annotator and the material of the demo.
All of it is ours; the five types are those of the paper (section 3.1).

Lengths follow the picture: what is 1 pixel wide at 64 pixels is 2 wide at 256, because pictures of
higher resolution are seldom sharp to the single pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.faces.alignment import similarity
from data_pipeline.faces.landmarks import Points
from jax_vlffd import vocabulary

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
#: A forged picture [H, W, 3], of values about 0 to 255 in any dtype.
Forged = NDArray[Any]

#: Kinds that are held out of training, with the types of the vocabulary that describe them best.
UNSEEN_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "splice": ("structure",),
    "mosaic": ("blur",),
    "ghost": ("structure",),
    "recompress": ("texture",),
    "sharpen": ("texture",),
    "flip": ("structure",),
}


def types_of(kind: str) -> tuple[str, ...]:
    """Returns the vocabulary's types of a kind: itself, or the nearest ones of an unseen kind."""
    return (kind,) if kind in vocabulary.TYPES else UNSEEN_KINDS[kind]


def plant(
    image: Image,
    region_map: NDArray[np.generic],
    kind: str,
    strength: float,
    rng: np.random.Generator,
    donor: Image | None = None,
) -> Image:
    """Forges one region of an image in one way.

    Args:
      image: RGB uint8 [H, W, 3]; left as it is.
      region_map: [H, W], bool or weights in [0, 1]; the region is where it exceeds 0.5. Every
        changed pixel lies in it.
      kind: one of `vocabulary.TYPES` or `UNSEEN_KINDS`.
      strength: 0 (just visible to someone looking closely) to 1 (plain).
      rng: decides directions, modes and noise.
      donor: RGB uint8 [H, W, 3], another face, already aligned to this one; for `splice` alone.

    Returns:
      The forged image, uint8 [H, W, 3]. An empty region gives the image back unchanged.

    Raises:
      ValueError: a wrong shape, an unknown kind, a strength out of range, or `splice` without a donor.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if region_map.shape != image.shape[:2]:
        raise ValueError(f"region map {region_map.shape} does not fit image {image.shape[:2]}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength {strength} is not in [0, 1]")
    region: Mask = np.asarray(region_map, np.float32) > 0.5
    if not region.any():
        return image.copy()
    if kind == "splice":
        if donor is None or donor.shape != image.shape:
            raise ValueError("splice needs a donor image of the same shape")
        forged = donor
    elif kind in _FORGERS:
        forged = _FORGERS[kind](image, region, strength, rng)
    else:
        raise ValueError(f"unknown kind {kind!r}; known: {[*_FORGERS, 'splice']}")
    weight = region.astype(np.float32) if kind in _HARD_EDGED else _soft_edge(region)
    weight = np.where(region, weight, np.float32(0))[..., None]
    mixed = image + weight * (forged.astype(np.float32) - image)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _fineness(image: Image | Mask) -> float:
    """Gives the growth of pixel-sized things with resolution: 1 at 64 pixels, 2 at 256."""
    return float(np.sqrt(min(image.shape[:2]) / 64))


def _depth(region: Mask) -> Floats:
    """Distance of each pixel of a region to the outside of it, in pixels; 0 outside."""
    return np.asarray(cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def _smoothstep(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return (x * x * (3 - 2 * x)).astype(np.float32)


def _soft_edge(region: Mask) -> Floats:
    """Weights that rise from 0 at the region's edge to 1 inside, over 4% of the picture at most."""
    depth = _depth(region)
    return _smoothstep(depth / max(1.0, min(0.04 * min(region.shape), 0.6 * float(depth.max()))))


def _components(region: Mask) -> list[Mask]:
    """Splits a region into its connected parts (each eye by itself), less the crumbs."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return [labels == 1 + i for i in range(count - 1) if areas[i] >= 0.1 * areas.max()]


def _color(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Moves the region's mean in CIE Lab and widen or narrow its spread, mostly in the chroma."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    mean = lab[region].mean(axis=0)
    direction = rng.standard_normal(3) * (0.5, 1.0, 1.0)
    direction[0] = abs(direction[0]) * (1 if mean[0] < 50 else -1)  # away from black and from white
    shift = direction / np.linalg.norm(direction) * (8 + 22 * strength)
    spread = 1 + np.asarray((0.08, 0.4, 0.4)) * strength * rng.uniform(-1, 1, 3)
    lab = (mean + (lab - mean) * spread + shift).astype(np.float32)
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.float32) * 255


def _blur(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Takes the fine detail away by a Gaussian."""
    sigma = (0.7 + 1.3 * strength) * rng.uniform(0.9, 1.1) * _fineness(image)
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma), np.float32)


def _structure(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Deforms each part of the region by a smooth warp that vanishes at its edge, without folds."""
    height, width = region.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    map_x, map_y = x.copy(), y.copy()
    for part in _components(region):
        depth = _depth(part)
        reach = float(depth.max())
        radius = np.sqrt(part.sum() / np.pi)
        u, v = (x - x[part].mean()) / radius, (y - y[part].mean()) / radius
        sign = rng.choice((-1.0, 1.0))
        warp = rng.choice(("radial", "swirl", "shear"))
        du, dv = {"radial": (u, v), "swirl": (-v, u), "shear": (v, u)}[str(warp)]
        push = sign * (0.35 + 0.65 * strength) * reach * _smoothstep(depth / reach)
        du, dv = push * np.clip(du, -1, 1), push * np.clip(dv, -1, 1)
        while _folds(x + du, y + dv):
            du, dv = 0.85 * du, 0.85 * dv
        map_x += du
        map_y += dv
    return cv2.remap(image, map_x, map_y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)


def _folds(map_x: Floats, map_y: Floats) -> bool:
    """Whether a map squeezes some place to a tenth of its area, or turns it inside out."""
    x_down, x_right = np.diff(map_x, axis=0)[:, :-1], np.diff(map_x, axis=1)[:-1]
    y_down, y_right = np.diff(map_y, axis=0)[:, :-1], np.diff(map_y, axis=1)[:-1]
    return bool((x_right * y_down - x_down * y_right).min() < 0.1)


def _texture(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Adds band-limited grain, or takes away what grain there is; edges and tone stay."""
    fineness = _fineness(image)
    picture: Forged = image.astype(np.float32)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # The median over the region, so that edges do not pass for grain.
    grain = np.median(np.abs(luma - cv2.medianBlur(luma, 3))[region])
    if grain > 3 and rng.random() < 0.4:
        reach = 2 * round(2 * fineness) + 1
        for _ in range(2):
            picture = cv2.bilateralFilter(picture, reach, 25 + 25 * strength, 1.5 * fineness)
        return picture
    noise = rng.standard_normal(region.shape).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(noise, (0, 0), scale * fineness) for scale in (0.45, 1.2))
    band = fine - coarse
    band *= (7 + 17 * strength) / band.std()
    return picture + band[..., None]


def _boundary(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Leaves a hard polygonal seam along the outer edge, and hardly changes what is inside."""
    line = max(1, round(_fineness(image)))
    outline = np.zeros(region.shape, np.uint8)
    inside = np.zeros(region.shape, np.uint8)
    for part in _components(region):
        shrunk = (_depth(part) > line).astype(np.uint8)
        inner = shrunk if shrunk.any() else part.astype(np.uint8)
        contours, _ = cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        contour = max(contours, key=len)
        polygon = cv2.approxPolyDP(contour, 0.015 * cv2.arcLength(contour, True), True)
        cv2.fillPoly(inside, [polygon], 1)
        cv2.polylines(outline, [polygon], True, 1, line)
    sign = rng.choice((-1.0, 1.0))
    picture = image.astype(np.float32)
    mean = picture[region].mean(axis=0)
    gain = 1 + 0.05 * strength * rng.uniform(-1, 1)
    patch = np.where(inside[..., None] > 0, mean + (picture - mean) * gain + 3 * sign, picture)
    return patch + (16 + 44 * strength) * sign * outline[..., None]


def _mosaic(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Pixelate: down by a factor and up again without interpolation."""
    height, width = region.shape
    block = (3 + 3 * strength) * _fineness(image)
    size = (max(1, round(width / block)), max(1, round(height / block)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _ghost(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Doubles the image: the mean of the picture and of itself a little aside."""
    angle = rng.uniform(0, 2 * np.pi)
    reach = (0.05 + 0.05 * strength) * min(region.shape)
    shift = np.asarray([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]])
    moved = cv2.warpAffine(image, shift, region.shape[::-1], borderMode=cv2.BORDER_REFLECT_101)
    return (image.astype(np.float32) + moved) / 2


def _recompress(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Puts the region through a much stronger JPEG than the rest."""
    return jpeg(image, round(12 - 9 * strength))


def _sharpen(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Sharpens by an unsharp mask far beyond taste."""
    picture = image.astype(np.float32)
    low = cv2.GaussianBlur(picture, (0, 0), 1.0 * _fineness(image))
    return picture + (1.5 + 2.5 * strength) * (picture - low)


def _flip(image: Image, region: Mask, strength: float, rng: np.random.Generator) -> Forged:
    """Turns each part of the region upside down; below strength 1 the original shines through."""
    picture = image.astype(np.float32)
    turned = picture.copy()
    for part in _components(region):
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        turned[box] = picture[box][::-1]
    return picture + (0.6 + 0.4 * strength) * (turned - picture)


_Forger = Callable[[Image, Mask, float, np.random.Generator], Forged]
_FORGERS: Final[dict[str, _Forger]] = {
    "color": _color,
    "blur": _blur,
    "structure": _structure,
    "texture": _texture,
    "boundary": _boundary,
    "mosaic": _mosaic,
    "ghost": _ghost,
    "recompress": _recompress,
    "sharpen": _sharpen,
    "flip": _flip,
}


#: Kinds that are not faded in at the region's edge: they vanish there by themselves, or are to be seen there.
_HARD_EDGED: Final = ("structure", "boundary")


def jpeg(image: Image, quality: int) -> Image:
    """Returns an RGB image, uint8 [H, W, 3], as it is after JPEG (4:2:0) of a quality of 1 to 100."""
    coded = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


def encode_jpeg(image: Image, quality: int) -> bytes:
    """Returns an RGB image, uint8 [H, W, 3], as the bytes of a JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def align_donor(donor: Image, donor_points: Points, points: Points) -> Image:
    """Moves another face onto this one by the similarity that fits the points best.

    Args:
      donor: RGB uint8 [H, W, 3].
      donor_points: [K, 2] (x, y) in the donor.
      points: [K, 2] the same points in the face that is to be forged.

    Returns:
      The donor, uint8 [H, W, 3], in the place of the other face.
    """
    matrix = similarity(donor_points.astype(np.float64), points.astype(np.float64))
    size = (donor.shape[1], donor.shape[0])
    moved = cv2.warpAffine(
        donor, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return moved.astype(np.uint8)
