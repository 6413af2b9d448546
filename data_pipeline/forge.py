"""Forgeries of a known kind planted in a known region of any aligned face.

Five kinds are the forgery types of the vocabulary, each built to move its own statistic and leave the
others as they are; six more are for the question 'does it hold on kinds never trained on'. A planted
forgery is the ground truth for calibrating the annotator and the material of the demo. All of it is ours;
the five types are those of the paper (section 3.1).

Lengths follow the picture: what is 1 pixel wide at 64 pixels is 2 wide at 256, because pictures of higher
resolution are seldom sharp to the single pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from jax_vlffd import vocabulary

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

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
    """The vocabulary's forgery types of a kind: itself, or the nearest honest ones of an unseen kind."""
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
      region_map: [H, W], bool or weights in [0, 1]; the region is where it exceeds 0.5. Every changed
        pixel lies in it.
      kind: one of `vocabulary.TYPES` or `UNSEEN_KINDS`.
      strength: 0 (just visible to someone looking closely) to 1 (plain).
      rng: decides directions, modes and noise.
      donor: RGB uint8 [H, W, 3], another face already aligned to this one; needed by `splice` alone.

    Returns:
      The forged image, uint8 [H, W, 3]. An empty region gives the image back unchanged.

    Raises:
      ValueError: a shape, a kind or a strength that is none, or `splice` without a donor.
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
        forged, weight = donor.astype(np.float32), _soft_edge(region)
    elif kind in _FORGERS:
        forged, weight = _FORGERS[kind](image, region, strength, rng)
    else:
        raise ValueError(f"unknown kind {kind!r}; known: {sorted(_FORGERS) + ['splice']}")
    weight = np.where(region, weight, np.float32(0))[..., None]
    mixed = image + weight * (forged - image)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _fineness(image: Image | Mask) -> float:
    """The growth of pixel-sized things with resolution: 1 at 64 pixels, 2 at 256."""
    return float(np.sqrt(min(image.shape[:2]) / 64))


def _depth(region: Mask) -> Floats:
    """Distance of each pixel of a region to the outside of it, in pixels; 0 outside."""
    return cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5)


def _smoothstep(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return (x * x * (3 - 2 * x)).astype(np.float32)


def _soft_edge(region: Mask) -> Floats:
    """Weights that rise from 0 at the region's edge to 1 inside, over 4% of the picture at most."""
    depth = _depth(region)
    return _smoothstep(depth / max(1.0, min(0.04 * min(region.shape), 0.6 * float(depth.max()))))


def _components(region: Mask, smallest: float = 0.1) -> list[Mask]:
    """The connected parts of a region (each eye by itself), without crumbs below a share of the largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return [labels == 1 + i for i in range(count - 1) if areas[i] >= smallest * areas.max()]


def _color(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Moves the region's mean in CIE Lab and widens or narrows its spread, mostly in the chroma."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    mean = lab[region].mean(axis=0)
    direction = rng.standard_normal(3) * (0.5, 1.0, 1.0)
    direction[0] = abs(direction[0]) * (1 if mean[0] < 50 else -1)  # away from black and from white
    shift = direction / np.linalg.norm(direction) * (8 + 22 * strength)
    spread = 1 + np.asarray((0.08, 0.4, 0.4)) * strength * rng.uniform(-1, 1, 3)
    lab = (mean + (lab - mean) * spread + shift).astype(np.float32)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, _soft_edge(region)


def _blur(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Takes the fine detail away by a Gaussian."""
    sigma = (0.7 + 1.3 * strength) * rng.uniform(0.9, 1.1) * _fineness(image)
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma), _soft_edge(region)


def _structure(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Deforms each part of the region by a smooth warp that vanishes at its edge and never folds."""
    height, width = region.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    map_x, map_y = x.copy(), y.copy()
    for part in _components(region):
        depth = _depth(part)
        reach = float(depth.max())
        # A smoothstep over `reach` has slope 1.5 at most, so below 0.66 the map stays one-to-one.
        push = (0.25 + 0.4 * strength) * reach * _smoothstep(depth / reach)
        radius = np.sqrt(part.sum() / np.pi)
        u, v = (x - x[part].mean()) / radius, (y - y[part].mean()) / radius
        sign = rng.choice((-1.0, 1.0))
        warp = rng.choice(("radial", "swirl", "shear", "shift"))
        if warp == "radial":
            du, dv = sign * u, sign * v
        elif warp == "swirl":
            du, dv = -sign * v, sign * u
        elif warp == "shear":
            du, dv = sign * v, sign * u
        else:
            angle = rng.uniform(0, 2 * np.pi)
            du, dv = np.full_like(u, np.cos(angle)), np.full_like(v, np.sin(angle))
        map_x += push * np.clip(du, -1, 1)
        map_y += push * np.clip(dv, -1, 1)
    warped = cv2.remap(image, map_x, map_y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)
    return warped.astype(np.float32), region.astype(np.float32)


def _texture(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Adds band-limited grain, or takes the grain away where there is some, and keeps edges and tone."""
    fineness = _fineness(image)
    picture = image.astype(np.float32)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grain = np.abs(luma - cv2.medianBlur(luma, 3))[region].mean()
    if grain > 4 and rng.random() < 0.4:
        reach = 2 * int(round(2 * fineness)) + 1
        smooth = picture
        for _ in range(2):
            smooth = cv2.bilateralFilter(smooth, reach, 25 + 25 * strength, 1.5 * fineness)
        return smooth, _soft_edge(region)
    noise = rng.standard_normal(region.shape).astype(np.float32)
    band = cv2.GaussianBlur(noise, (0, 0), 0.45 * fineness) - cv2.GaussianBlur(
        noise, (0, 0), 1.2 * fineness
    )
    band *= (7 + 17 * strength) / band.std()
    return picture + band[..., None], _soft_edge(region)


def _boundary(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Leaves a hard polygonal seam along the region's outer edge, and hardly changes what is inside."""
    line = max(1, round(_fineness(image)))
    outline = np.zeros(region.shape, np.uint8)
    inside = np.zeros(region.shape, np.uint8)
    for part in _components(region):
        shrunk = (_depth(part) > line).astype(np.uint8)
        contours, _ = cv2.findContours(
            shrunk if shrunk.any() else part.astype(np.uint8),
            cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_NONE,
        )
        contour = max(contours, key=len)
        polygon = cv2.approxPolyDP(contour, 0.015 * cv2.arcLength(contour, True), True)
        cv2.fillPoly(inside, [polygon], 1)
        cv2.polylines(outline, [polygon], True, 1, line)
    sign = rng.choice((-1.0, 1.0))
    picture = image.astype(np.float32)
    mean = picture[region].mean(axis=0)
    gain = 1 + 0.05 * strength * rng.uniform(-1, 1)
    patch = np.where(inside[..., None] > 0, mean + (picture - mean) * gain + 3 * sign, picture)
    patch = patch + (16 + 44 * strength) * sign * outline[..., None]
    return patch.astype(np.float32), region.astype(np.float32)


def _mosaic(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Pixelation: down by a factor and up again without interpolation."""
    height, width = region.shape
    block = (2.5 + 2 * strength) * _fineness(image)
    size = (max(1, round(width / block)), max(1, round(height / block)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return coarse.astype(np.float32), _soft_edge(region)


def _ghost(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """A double image: the mean of the picture and of itself a little aside."""
    angle = rng.uniform(0, 2 * np.pi)
    reach = (0.03 + 0.03 * strength) * min(region.shape)
    shift = np.asarray([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]])
    moved = cv2.warpAffine(
        image, shift, (region.shape[1], region.shape[0]), borderMode=cv2.BORDER_REFLECT_101
    )
    return (image.astype(np.float32) + moved) / 2, _soft_edge(region)


def _recompress(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """A region that has been through a much stronger JPEG than the rest."""
    return jpeg(image, round(20 - 14 * strength)).astype(np.float32), _soft_edge(region)


def _sharpen(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Unsharp masking far beyond taste."""
    picture = image.astype(np.float32)
    low = cv2.GaussianBlur(picture, (0, 0), 1.0 * _fineness(image))
    return picture + (1.5 + 2.5 * strength) * (picture - low), _soft_edge(region)


def _flip(
    image: Image, region: Mask, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Each part of the region upside down; a strength below 1 mixes it with the original."""
    picture = image.astype(np.float32)
    turned = picture.copy()
    for part in _components(region):
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        turned[box] = picture[box][::-1]
    return picture + (0.6 + 0.4 * strength) * (turned - picture), _soft_edge(region)


_FORGERS: Final[
    dict[str, Callable[[Image, Mask, float, np.random.Generator], tuple[Floats, Floats]]]
] = {
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


def jpeg(image: Image, quality: int) -> Image:
    """RGB uint8 [H, W, 3] through JPEG (4:2:0) at a quality of 1 to 100 and back."""
    return decode_rgb(encode_jpeg(image, quality))


def encode_jpeg(image: Image, quality: int) -> bytes:
    """RGB uint8 [H, W, 3] as JPEG bytes."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


def decode_rgb(data: bytes) -> Image:
    """JPEG or PNG bytes as RGB uint8 [H, W, 3]."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8)


def align_donor(donor: Image, donor_points: Floats, points: Floats) -> Image:
    """Moves another face onto this one by the similarity that fits the points best.

    Args:
      donor: RGB uint8 [H, W, 3].
      donor_points: [K, 2] (x, y) in the donor.
      points: [K, 2] the same points in the face that is to be forged.

    Returns:
      The donor, uint8 [H, W, 3], in the place of the other face.
    """
    from_mean, to_mean = donor_points.mean(axis=0), points.mean(axis=0)
    # As complex numbers a similarity is one product: least squares in closed form.
    source = (donor_points - from_mean) @ np.asarray([1, 1j])
    target = (points - to_mean) @ np.asarray([1, 1j])
    turn = np.vdot(source, target) / np.vdot(source, source).real
    matrix = np.asarray([[turn.real, -turn.imag], [turn.imag, turn.real]])
    affine = np.column_stack((matrix, to_mean - matrix @ from_mean))
    size = (donor.shape[1], donor.shape[0])
    moved = cv2.warpAffine(
        donor, affine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return moved.astype(np.uint8)
