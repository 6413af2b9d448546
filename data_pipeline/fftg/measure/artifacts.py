"""The five forgery types of a region, each a number measured on the fake against the real.

The paper (section 3.1) names what each type is measured by; the formulas are ours, built so that each
answers to one cause and stays still under the other four:

- `color`: distance of the mean colors in CIE Lab, with the change of the chroma's spread.
- `blur`: Laplacian response on edges, real over fake, in octaves. Edges only: grain that was taken
  away leaves them sharp, a blur does not. Each image at its own edges: a warp moves them.
- `structure`: what the structure term of SSIM (Wang et al. 2004) loses on a low-passed band, as far
  as moved edges explain it (Lucas and Kanade 1981): a change of tone or a seam lowers it too, but
  no displacement explains those.
- `texture`: GLCM contrast (Haralick et al. 1973) of the high-pass band off the edges, fake over
  real, in octaves, either way. What a blur explains of it is taken off.
- `boundary`: gradient of the fake over the real's along the edge of the mask, less the same inside
  (the blending boundary of Face X-ray, Li et al. 2020, as a number), in gray levels a pixel. Where
  there is one, the other types are measured away from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure.difference_mask import Comparison
from data_pipeline.fftg.measure.pixels import (
    as_bytes,
    box_of,
    channels,
    flat,
    grown,
    maximum,
    quantile,
    thinned,
)
from jax_vlffd.vocabulary import TYPES

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Map = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Scales, as shares of the face's size.
_FINE: Final = 0.005  # low-pass under the Laplacian, and under which a seam is sought
_COARSE: Final = 0.012  # low-pass under which edges are sought, high-pass of grain
_SEAM: Final = 0.03  # how far from the mask's edge a seam may lie
_JOIN: Final = 0.05  # gaps of the mask that are closed
#: Sizes of the face, in pixels, at which movement is sought, and there the high-pass of the band and
#: the window over which edges move together, in pixels.
_MOVING_SIZES: Final = (100.0, 40.0)
_MOVING_HIGH_PASS: Final = 3.0
_MOVING_WINDOW: Final = 9
#: Shares of a region's pixels: those on edges, for `blur`; those off edges, for `texture`; the least
#: that must be left away from a seam to measure anything on; along which a seam must run.
_EDGES: Final = 0.4
_PLAIN: Final = 0.5
_LEFT: Final = 0.15
_ALONG: Final = 0.5
#: OpenCV's 8-bit Lab in units of CIE Lab.
_LAB_UNITS: Final = np.array([100.0 / 255.0, 1.0, 1.0])
#: Responses that count as none, so that two flat patches do not differ by octaves.
_LAPLACIAN_FLOOR: Final = 0.3
_CONTRAST_FLOOR: Final = 2.0
_SLOPE_FLOOR: Final = 0.05
#: Mask values, in gray levels, that count as changed where the mask's edge is sought.
_CHANGED: Final = 1.5
#: Share of a difference that displacement explains by chance, and loss of SSIM that counts whole.
_CHANCE: Final = 0.2
_LARGE_LOSS: Final = 0.22
#: What one cause feigns of another type. Octaves of texture that an octave of blur takes away, that a
#: unit of structure adds, and that is left of a seam; structure for a unit of color; gray levels a
#: pixel of boundary for a unit of color in a face of one pixel, and for a unit of structure, which
#: counts up to a limit.
_BLUR_TAKES: Final = 3.0
_MOVED_GRAINS: Final = 1.5
_SEAM_FEIGNS: Final = 1.0
_TONE_FEIGNS: Final = 0.004
_TONE_SLOPES: Final = 50.0
_MOVED_SLOPES: Final = 30.0
_MAX_MOVED: Final = 0.3


class Movement(NamedTuple):
    """Two images on one band at one scale; float32 [h', w'] each, smaller than the pair.

    Attributes:
      real: the band of the real.
      fake: the band of the fake.
      change: squared change, averaged over windows.
      explained: what of it one displacement a window explains.
    """

    real: Floats
    fake: Floats
    change: Floats
    explained: Floats


class Planes(NamedTuple):
    """What all regions of a pair share, computed once over the box of the face.

    Attributes:
      labels: uint8 [h, w], 0 outside the face, 1 + index in REGIONS.
      images: both images, uint8 [h, w, 3].
      edges: gradients of the low-passed luma of both, float32 [h, w].
      laplacian: absolute responses of both, float32 [h, w].
      grain: high-pass bands of both in whole gray levels, float32 [h, w].
      seam: by how much the fake's gradient exceeds the real's, the largest within reach.
      depth: distance to the edge of the filled mask, positive inside, negative outside.
      reach: how far from that edge a seam may lie, in pixels.
      size: of the face, in pixels.
      moving: the bands at two scales, fine first.
    """

    labels: NDArray[np.uint8]
    images: tuple[Image, Image]
    edges: tuple[Floats, Floats]
    laplacian: tuple[Floats, Floats]
    grain: tuple[Floats, Floats]
    seam: Floats
    depth: Floats
    reach: int
    size: float
    moving: tuple[Movement, Movement]


def planes(pair: Comparison, regions: Sequence[int]) -> Planes:
    """Computes what the types of some regions (indices in REGIONS) share."""
    reach = max(1, round(_SEAM * pair.size))
    wanted = np.zeros(256, np.uint8)
    wanted[[1 + region for region in regions]] = 1
    box = box_of(cv2.LUT(pair.labels, wanted) > 0, _margin(reach))
    changed = _changed(pair)[box]
    outer = cv2.distanceTransform(1 - changed, cv2.DIST_L2, 3)
    depth = cv2.distanceTransform(changed, cv2.DIST_L2, 3) - outer
    images = [np.ascontiguousarray(image[box]) for image in (pair.real, pair.fake)]
    luma = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in images]
    fine = [_smooth(gray, max(0.5, _FINE * pair.size)) for gray in luma]
    coarse = [_smooth(gray, max(0.8, _COARSE * pair.size)) for gray in luma]
    # A seam is steeper than what was there; a blur leaves a difference too, but never a steeper one.
    steep = [_steepest(image, max(0.5, _FINE * pair.size)) for image in images]
    steeper = np.maximum(np.subtract(steep[1], steep[0], out=steep[1]), 0.0, out=steep[1])
    laplacian = [_absolute(cv2.Laplacian(smooth, cv2.CV_32F)) for smooth in fine]
    # Whole gray levels of the high-pass band are the levels of the co-occurrence matrix.
    bands = [np.subtract(gray, smooth, out=gray) for gray, smooth in zip(luma, coarse, strict=True)]
    grain = [np.rint(band, out=band) for band in bands]
    return Planes(
        labels=pair.labels[box],
        images=(images[0], images[1]),
        edges=(_gradient(coarse[0]), _gradient(coarse[1])),
        laplacian=(laplacian[0], laplacian[1]),
        grain=(grain[0], grain[1]),
        seam=grown(steeper, reach).astype(np.float32, copy=False),
        depth=depth.astype(np.float32, copy=False),
        reach=reach,
        size=pair.size,
        moving=(
            _movement(coarse[0], coarse[1], _MOVING_SIZES[0] / pair.size),
            _movement(coarse[0], coarse[1], _MOVING_SIZES[1] / pair.size),
        ),
    )


def scores(shared: Planes, region: int, seam: float) -> dict[str, float]:
    """The score of every type in one region; larger is more of it, 0 is none.

    Args:
      shared: `planes(pair)`.
      region: index in REGIONS.
      seam: threshold of `boundary`; above it the other types are measured away from the seam, and
        `structure` and `texture`, which it would feign, are 0 where too little is left.
    """
    # All that follows is within reach of the region: only its box must be read.
    box = box_of(shared.labels == 1 + region, _margin(shared.reach))
    part = _part(shared, box)
    inside = part.labels == 1 + region
    chosen = flat(inside)
    color = _color(part, chosen)
    structure = _structure(shared, box, inside, color)
    # A change of tone slopes where it fades out, less so over more pixels; a hard seam is steeper.
    # Moved edges are steep where nothing was.
    feigned = _TONE_SLOPES * color / part.size + _MOVED_SLOPES * min(structure, _MAX_MOVED)
    boundary = max(0.0, _boundary(part, inside) - feigned)
    where, seam_feigns = inside, 0.0
    if boundary > seam:
        away = inside & (np.abs(part.depth) > 2 * part.reach)
        seam_feigns = _SEAM_FEIGNS
        if np.count_nonzero(away) > _LEFT * len(chosen):
            where, chosen = away, flat(away)
            color = _color(part, chosen)
            structure = _structure(shared, box, where, color)
        else:
            structure, seam_feigns = 0.0, np.inf
    chosen = thinned(chosen)
    blur = _blur(part, chosen)
    grain = _texture(part, where, chosen, blur)
    texture = max(0.0, grain - _MOVED_GRAINS * structure - seam_feigns)
    values = (color, blur, structure, texture, boundary)
    return dict(zip(TYPES, values, strict=True))


def _part(shared: Planes, box: tuple[slice, slice]) -> Planes:
    """The planes within a box; the movement is kept whole."""

    def both(pictures: tuple[Any, Any]) -> tuple[Any, Any]:
        return pictures[0][box], pictures[1][box]

    return shared._replace(
        labels=shared.labels[box],
        images=both(shared.images),
        edges=both(shared.edges),
        laplacian=both(shared.laplacian),
        grain=both(shared.grain),
        seam=shared.seam[box],
        depth=shared.depth[box],
    )


def _color(part: Planes, chosen: Indices) -> float:
    moments = []
    for image in part.images:
        # Lab takes longest: of the pixels that count alone, taken out as words of four bytes.
        words = cv2.cvtColor(cv2.blur(image, (3, 3)), cv2.COLOR_RGB2RGBA).view(np.uint32)
        pixels = words.ravel()[chosen].view(np.uint8).reshape(1, -1, 4)
        moments.append(cv2.meanStdDev(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)))
    mean = (moments[1][0] - moments[0][0]).ravel() * _LAB_UNITS
    spread = (moments[1][1] - moments[0][1]).ravel()[1:]
    return float(np.sqrt((mean**2).sum() + (spread**2).sum()))


def _blur(part: Planes, chosen: Indices) -> float:
    response = []
    for edges, laplacian in zip(part.edges, part.laplacian, strict=True):
        steep = edges.ravel()[chosen]
        keep = steep >= quantile(steep, 1.0 - _EDGES)
        response.append(float(laplacian.ravel()[chosen][keep].mean()) + _LAPLACIAN_FLOOR)
    return float(np.log2(response[0] / response[1]))


def _structure(shared: Planes, box: tuple[slice, slice], where: Map, tone: float) -> float:
    """The larger of what two scales say, with any large loss, less what a change of tone feigns."""
    whole = np.zeros(shared.labels.shape, bool)
    whole[box] = where
    loss, moved = _moved(shared.moving[0], whole)
    fine = np.sqrt(loss) * moved + max(0.0, loss - _LARGE_LOSS)
    loss, moved = _moved(shared.moving[1], whole)
    return max(0.0, float(max(fine, np.sqrt(loss) * moved)) - _TONE_FEIGNS * tone)


def _moved(moving: Movement, where: Map) -> tuple[float, float]:
    """The loss of SSIM's structure term on a band, 0 to 2, and the share that movement explains."""
    size = (moving.real.shape[1], moving.real.shape[0])
    nearest = cv2.resize(as_bytes(where), size, interpolation=cv2.INTER_NEAREST)
    chosen = flat(nearest.view(np.bool_))
    a, b, change, explained = (plane.ravel()[chosen] for plane in moving)
    energy = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    loss = 1.0 - float(np.dot(a, b)) / max(energy, 1e-6)
    share = float(explained.sum()) / max(float(change.sum()), 1e-6)
    return max(loss, 0.0), max(0.0, share - _CHANCE) / (1.0 - _CHANCE)


def _movement(real: Floats, fake: Floats, scale: float) -> Movement:
    """The bands of two low-passed images reduced by `scale`, and how far displacement explains it."""
    size = (max(1, round(real.shape[1] * scale)), max(1, round(real.shape[0] * scale)))
    bands = []
    for smooth in (real, fake):
        small = smooth
        if scale < 1.0:
            # What is low-passed enough for the first scale is not for a smaller one.
            wide = cv2.blur(smooth, (3, 3)) if scale < 0.3 else smooth
            reduced = cv2.resize(wide, size, interpolation=cv2.INTER_LINEAR)
            small = reduced.astype(np.float32, copy=False)
        bands.append(small - _smooth(small, _MOVING_HIGH_PASS))
    a, b = bands
    middle, change = a + b, b - a
    middle *= 0.5
    x = cv2.Sobel(middle, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(middle, cv2.CV_32F, 0, 1, scale=0.125)
    # Three to an image, which is faster than one by one.
    squares = (x * x, y * y, x * y), (x * change, y * change, change * change)
    (xx, yy, xy), (xt, yt, tt) = (
        channels(cv2.blur(cv2.merge(three), (_MOVING_WINDOW, _MOVING_WINDOW))) for three in squares
    )
    xx += _SLOPE_FLOOR
    yy += _SLOPE_FLOOR
    explained = yy * xt * xt - 2 * xy * xt * yt + xx * yt * yt
    explained /= xx * yy - xy * xy
    return Movement(a, b, tt.astype(np.float32, copy=False), explained)


def _texture(part: Planes, where: Map, chosen: Indices, blur: float) -> float:
    edges = np.maximum(*part.edges)
    pairs = _neighbors(where & (edges <= quantile(edges.ravel()[chosen], _PLAIN)))
    contrast = [_contrast(grain, pairs) + _CONTRAST_FLOOR for grain in part.grain]
    change = float(np.log2(contrast[1] / contrast[0]))
    return change if change >= 0.0 else max(0.0, -change - _BLUR_TAKES * max(blur, 0.0))


def _boundary(part: Planes, inside: Map) -> float:
    distance = np.abs(part.depth)
    near = grown(as_bytes(inside), part.reach) > 0
    edge = flat(near & (part.depth > 0) & (part.depth <= 1.5))
    if len(edge) < 8:
        return 0.0
    core = flat(inside & (distance > 2.5 * part.reach))
    if len(core) < 8:
        core = flat(inside & (distance >= 0.7 * float(distance[inside].max())))
    seam = part.seam.ravel()
    return max(0.0, quantile(seam[edge], 1.0 - _ALONG) - quantile(seam[thinned(core)], 0.5))


def glcm_contrast(levels: NDArray[np.float32], where: Map) -> float:
    """Contrast of the gray-level co-occurrence matrix at distance 1, over two directions.

    The contrast, the sum of p(i, j) (i - j)^2, is the mean squared difference of the pairs that the
    matrix counts, so the matrix itself need not be built. Only pairs inside `where` count.

    Args:
      levels: whole numbers as float32 [h, w].
      where: bool [h, w].
    """
    return _contrast(levels, _neighbors(where))


def _neighbors(where: Map) -> list[tuple[Indices, Indices]]:
    """Pairs of neighbors inside a map, in a row and in a column: flat indices of both of each."""
    row = thinned(flat(where[:, :-1] & where[:, 1:]))
    row = row + row // (where.shape[1] - 1)  # the map of pairs in a row is one column short
    column = thinned(flat(where[:-1] & where[1:]))
    return [(row, row + 1), (column, column + where.shape[1])]


def _contrast(levels: Floats, pairs: list[tuple[Indices, Indices]]) -> float:
    steps = [levels.ravel()[second] - levels.ravel()[first] for first, second in pairs]
    total = sum(float(np.dot(step, step)) for step in steps)
    return total / max(sum(map(len, steps)), 1)


def _changed(pair: Comparison) -> NDArray[np.uint8]:
    """The mask as a filled area, 0 or 1: small gaps joined, holes closed, crumbs dropped."""
    binary = as_bytes(pair.mask > _CHANGED / 255.0)
    side = 2 * max(1, round(_JOIN * pair.size / 2)) + 1
    joined = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [contour for contour in contours if cv2.contourArea(contour) > 0.004 * pair.size**2]
    filled = np.zeros_like(binary)
    cv2.drawContours(filled, large, -1, 1, cv2.FILLED)
    return filled


def _margin(reach: int) -> int:
    """Pixels around a region that its scores look at."""
    return 3 * reach + 2


def _smooth(image: Floats, sigma: float) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)


def _absolute(image: Any) -> Floats:
    return np.abs(image, out=image)  # type: ignore[no-any-return]


def _gradient(image: NDArray[Any]) -> Floats:
    x = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=0.125)
    return cv2.magnitude(x, y).astype(np.float32, copy=False)


def _steepest(image: Image, sigma: float) -> Floats:
    """The gradient of the channel that is steepest: a seam between colors may show in no luma."""
    return maximum([_gradient(part) for part in channels(cv2.GaussianBlur(image, (0, 0), sigma))])
