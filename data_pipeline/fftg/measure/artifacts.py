"""Scores of the five forgery types in a region, measured on the fake against the real.

The paper (section 3.1) names the measure of each type; the formulas are ours, designed so that each responds
to one cause and not to the other four:

- `color`: distance of the mean colors in CIE Lab, with the change of the chroma's spread; on organs, less
  the part that movement explains.
- `blur`: Laplacian response on edges, real over fake, in octaves. Edges only: removed grain leaves
  them sharp, a blur does not. Each image at its own edges: a warp moves them.
- `structure`: loss of the structure term of SSIM (Wang et al. 2004) on a low-passed band, as far
  as moved edges explain it (Lucas and Kanade 1981): a change of tone, a seam or another person's organ
  lowers it too, but not by a displacement. A loss of nearly everything counts without explanation.
- `texture`: GLCM contrast (Haralick et al. 1973) of the high-pass band, fake over real, in octaves, either
  sign. The part that a blur explains is subtracted.
- `boundary`: gradient of the fake minus the real's along a third of the edge of the mask, minus the same
  inside (the blending boundary of Face X-ray, Li et al. 2020, as a number), in gray levels per pixel. If
  there is one, the other types but structure are measured away from it.

Skin (`face`) is measured where it changed.
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
from jax_vlffd.vocabulary import REGIONS, TYPES

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Map = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Lengths, as fractions of the face's size.
_FINE: Final = 0.005  # low-pass before the Laplacian and the search for a seam
_COARSE: Final = 0.012  # low-pass before the search for edges; high-pass of grain
_SEAM_REACH: Final = 0.03  # maximum distance of a seam from the mask's edge
_MAX_GAP: Final = 0.05  # gaps of the mask up to this are closed
#: Sizes of the face, in pixels, at which movement is measured; sigma of the band's high-pass and
#: the window with a common displacement, in pixels of these sizes.
_MOVEMENT_SIZES: Final = (100.0, 40.0)
_MOVEMENT_HIGH_PASS: Final = 3.0
_MOVEMENT_WINDOW: Final = 9
#: Fractions of a region's pixels: on edges, for `blur`; minimum away from a seam to measure other
#: types on, and the same in pixels. Fraction of the mask's edge that a seam must cover, and quantile of the
#: same measure inside that it is compared with.
_EDGE_SHARE: Final = 0.4
_MIN_CORE: Final = 0.15
_MIN_PIXELS: Final = 50
_SEAM_SHARE: Final = 0.33
_CORE_SHARE: Final = 0.25
#: OpenCV's 8-bit Lab in units of CIE Lab.
_LAB_UNITS: Final = np.array([100.0 / 255.0, 1.0, 1.0])
#: Added to responses, so that two flat patches do not differ by octaves.
_LAPLACIAN_FLOOR: Final = 0.3
_CONTRAST_FLOOR: Final = 2.3
_SLOPE_FLOOR: Final = 0.05
#: Mask values, in gray levels, above which a pixel counts as changed for the mask's edge.
_CHANGED_LEVEL: Final = 1.5
#: Fractions of a difference that displacement explains by chance and in replaced organs, whose edges lie
#: near the old ones; loss of SSIM above which it counts fully: another shape, not a change of tone or light.
_NO_SHARE: Final = 0.2
_CHANCE_SHARE: Final = 0.36
_LARGE_LOSS: Final = 0.92
#: Side effects of one type on the score of another: octaves of texture lost per octave of blur, added per
#: unit of structure and added by a seam; structure per unit of color; color, as a share, where displacement
#: explains all of the change, and added by a seam; boundary (gray levels per pixel) per unit of color in a
#: face of one pixel, and per unit of structure, up to a limit.
_BLUR_AS_TEXTURE: Final = 3.5
_MOVEMENT_AS_TEXTURE: Final = 0.15
_SEAM_AS_TEXTURE: Final = 2.0
_TONE_AS_STRUCTURE: Final = 0.004
_MOVEMENT_AS_TONE: Final = 0.65
_SEAM_AS_TONE: Final = 0.8
_TONE_AS_BOUNDARY: Final = 45.0
_MOVEMENT_AS_BOUNDARY: Final = 24.0
_MAX_MOVEMENT: Final = 0.45


class Movement(NamedTuple):
    """The images on one band at one scale; float32 [h', w'] each, smaller than the pair.

    Attributes:
      real: the band of the real.
      fake: the band of the fake.
      change: squared change, averaged over windows.
      explained: the part of it that one displacement per window explains.
    """

    real: Floats
    fake: Floats
    change: Floats
    explained: Floats


class Planes(NamedTuple):
    """Pixel maps that all regions of a pair share, computed once over the box of the face.

    Attributes:
      labels: uint8 [h, w], 0 outside the face, 1 + index in REGIONS.
      images: both images, uint8 [h, w, 3].
      edges: gradients of the low-passed luma of both, float32 [h, w].
      laplacian: absolute responses of both, float32 [h, w].
      grain: high-pass bands of both, rounded to gray levels, float32 [h, w].
      seam: by how much the fake's gradient exceeds the real's, maximum within reach; float32 [h, w].
      depth: distance to the edge of the filled mask, positive inside, negative outside.
      reach: maximum distance of a seam from that edge, in pixels.
      size: of the face, in pixels.
      movements: the bands at two scales, fine first.
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
    movements: tuple[Movement, Movement]


def planes(pair: Comparison, regions: Sequence[int]) -> Planes:
    """Computes the maps for scoring some regions (indices in REGIONS)."""
    reach = max(1, round(_SEAM_REACH * pair.size))
    selected = np.zeros(256, np.uint8)
    selected[[1 + region for region in regions]] = 1
    box = box_of(cv2.LUT(pair.labels, selected) > 0, _margin(reach))
    changed = _changed(pair)[box]
    outer = cv2.distanceTransform(1 - changed, cv2.DIST_L2, 3)
    depth = cv2.distanceTransform(changed, cv2.DIST_L2, 3) - outer
    images = [np.ascontiguousarray(image[box]) for image in (pair.real, pair.fake)]
    luma = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in images]
    fine = [_smooth(gray, max(0.5, _FINE * pair.size)) for gray in luma]
    coarse = [_smooth(gray, max(0.8, _COARSE * pair.size)) for gray in luma]
    # A seam is steeper than the real at its position; a blur differs too, but is never steeper.
    before, after = (_steepest(image, max(0.5, _FINE * pair.size)) for image in images)
    steeper = np.maximum(np.subtract(after, before, out=after), 0.0, out=after)
    laplacian = [np.abs(cv2.Laplacian(smooth, cv2.CV_32F)) for smooth in fine]
    # The rounded gray levels are the levels of the co-occurrence matrix.
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
        movements=(
            _movement(coarse[0], coarse[1], _MOVEMENT_SIZES[0] / pair.size),
            _movement(coarse[0], coarse[1], _MOVEMENT_SIZES[1] / pair.size),
        ),
    )


def scores(shared: Planes, region: int, seam: float) -> dict[str, float]:
    """The score of every type in one region; 0 is none of it.

    Args:
      shared: `planes(pair)`.
      region: index in REGIONS.
      seam: threshold of `boundary`; above it `color`, `blur` and `texture` are measured away from the seam,
        and `texture`, which a seam would raise, is 0 if too few pixels remain.

    Returns:
      {type: score} in the order of TYPES, in the units of `AnnotatorSettings`.
    """
    # Only pixels within reach of the region count: the maps are cropped to its box.
    box = box_of(shared.labels == 1 + region, _margin(shared.reach))
    part = _cropped(shared, box)
    inside = part.labels == 1 + region
    # Skin seldom changes as a whole: what did not change would hide what did.
    changed = inside & (part.depth > 0)
    changed_skin = REGIONS[region] == "face" and np.count_nonzero(changed) > _MIN_PIXELS
    where = changed if changed_skin else inside
    moved = _structure(shared, box, inside)
    tone = _color(part, flat(where))
    structure = max(0.0, moved.score - _TONE_AS_STRUCTURE * tone)
    # A change of tone has a gradient where it fades out, smaller over more pixels; a hard seam is
    # steeper. Moved edges are steep where the real is flat.
    spurious = _TONE_AS_BOUNDARY * tone / part.size + _MOVEMENT_AS_BOUNDARY * min(
        structure, _MAX_MOVEMENT
    )
    boundary = max(0.0, _boundary(part, inside) - spurious)
    seam_effect = 0.0
    if boundary > seam:
        area = np.count_nonzero(inside)
        core = inside & (part.depth > 2 * part.reach)
        if np.count_nonzero(core) <= max(_MIN_PIXELS, _MIN_CORE * area):
            core = inside & (np.abs(part.depth) > 2 * part.reach)
        seam_effect = np.inf
        if np.count_nonzero(core) > _MIN_CORE * area:
            where, seam_effect = core, _SEAM_AS_TEXTURE
            tone = max(0.0, _color(part, flat(where)) - _SEAM_AS_TONE)
    pixels = thinned(flat(where))
    # A part that moved shows other things at the same place: its mean color is another one too.
    color = tone * (1.0 - _MOVEMENT_AS_TONE * moved.share)
    blur = _blur(part, pixels)
    grain = _texture(part, where, blur)
    texture = max(0.0, grain - _MOVEMENT_AS_TEXTURE * structure - seam_effect)
    values = (color, blur, structure, texture, boundary)
    return dict(zip(TYPES, values, strict=True))


def _cropped(shared: Planes, box: tuple[slice, slice]) -> Planes:
    """The planes within a box; `movements` has another scale and stays uncropped."""

    def both(maps: tuple[Any, Any]) -> tuple[Any, Any]:
        return maps[0][box], maps[1][box]

    return shared._replace(
        labels=shared.labels[box],
        images=both(shared.images),
        edges=both(shared.edges),
        laplacian=both(shared.laplacian),
        grain=both(shared.grain),
        seam=shared.seam[box],
        depth=shared.depth[box],
    )


def _color(part: Planes, pixels: Indices) -> float:
    moments = []
    for image in part.images:
        # The conversion to Lab is slow: only the region's pixels, gathered as 4-byte words.
        words = cv2.cvtColor(cv2.blur(image, (3, 3)), cv2.COLOR_RGB2RGBA).view(np.uint32)
        colors = words.ravel()[pixels].view(np.uint8).reshape(1, -1, 4)
        moments.append(cv2.meanStdDev(cv2.cvtColor(colors, cv2.COLOR_RGB2LAB)))
    mean = (moments[1][0] - moments[0][0]).ravel() * _LAB_UNITS
    spread = (moments[1][1] - moments[0][1]).ravel()[1:]
    return float(np.sqrt((mean**2).sum() + (spread**2).sum()))


def _blur(part: Planes, pixels: Indices) -> float:
    response = []
    for edges, laplacian in zip(part.edges, part.laplacian, strict=True):
        gradients = edges.ravel()[pixels]
        on_edge = gradients >= quantile(gradients, 1.0 - _EDGE_SHARE)
        response.append(float(laplacian.ravel()[pixels][on_edge].mean()) + _LAPLACIAN_FLOOR)
    return float(np.log2(response[0] / response[1]))


class _Moved(NamedTuple):
    """The score of `structure` before side effects, and the share of the change that displacement explains."""

    score: float
    share: float


def _structure(shared: Planes, box: tuple[slice, slice], where: Map) -> _Moved:
    """The larger score of two scales: loss as far as movement explains it, plus any large loss."""
    mask = np.zeros(shared.labels.shape, bool)
    mask[box] = where
    scores, shares = [], []
    for movement in shared.movements:
        loss, share = _structure_loss(movement, mask)
        explained = max(0.0, share - _CHANCE_SHARE) / (1.0 - _CHANCE_SHARE)
        scores.append(np.sqrt(loss) * explained + max(0.0, loss - _LARGE_LOSS))
        shares.append(max(0.0, share - _NO_SHARE) / (1.0 - _NO_SHARE))
    return _Moved(float(max(scores)), shares[0])


def _structure_loss(movement: Movement, where: Map) -> tuple[float, float]:
    """The loss of SSIM's structure term on a band, 0 to 2, and the fraction of it that movement explains."""
    size = (movement.real.shape[1], movement.real.shape[0])
    nearest = cv2.resize(as_bytes(where), size, interpolation=cv2.INTER_NEAREST)
    pixels = flat(nearest.view(np.bool_))
    a, b, change, explained = (plane.ravel()[pixels] for plane in movement)
    energy = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    loss = 1.0 - float(np.dot(a, b)) / max(energy, 1e-6)
    return max(loss, 0.0), float(explained.sum()) / max(float(change.sum()), 1e-6)


def _movement(real: Floats, fake: Floats, scale: float) -> Movement:
    """The bands of two low-passed images reduced by `scale`, and the change that displacement explains."""
    size = (max(1, round(real.shape[1] * scale)), max(1, round(real.shape[0] * scale)))
    bands = []
    for smooth in (real, fake):
        small = smooth
        if scale < 1.0:
            # The low-pass is enough for the first scale, not for a smaller one.
            smoother = cv2.blur(smooth, (3, 3)) if scale < 0.3 else smooth
            reduced = cv2.resize(smoother, size, interpolation=cv2.INTER_LINEAR)
            small = reduced.astype(np.float32, copy=False)
        bands.append(small - _smooth(small, _MOVEMENT_HIGH_PASS))
    a, b = bands
    mean, change = a + b, b - a
    mean *= 0.5
    x = cv2.Sobel(mean, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(mean, cv2.CV_32F, 0, 1, scale=0.125)
    # Three products per image are blurred faster than one by one.
    products = (x * x, y * y, x * y), (x * change, y * change, change * change)
    window = (_MOVEMENT_WINDOW, _MOVEMENT_WINDOW)
    (xx, yy, xy), (xt, yt, tt) = (
        channels(cv2.blur(cv2.merge(three), window)) for three in products
    )
    xx += _SLOPE_FLOOR
    yy += _SLOPE_FLOOR
    explained = yy * xt * xt - 2 * xy * xt * yt + xx * yt * yt
    explained /= xx * yy - xy * xy
    return Movement(a, b, tt.astype(np.float32, copy=False), explained)


def _texture(part: Planes, where: Map, blur: float) -> float:
    pairs = _neighbors(where)
    contrast = [_glcm_contrast(grain, pairs) + _CONTRAST_FLOOR for grain in part.grain]
    change = float(np.log2(contrast[1] / contrast[0]))
    return change if change >= 0.0 else max(0.0, -change - _BLUR_AS_TEXTURE * max(blur, 0.0))


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
    return max(
        0.0, quantile(seam[edge], 1.0 - _SEAM_SHARE) - quantile(seam[thinned(core)], _CORE_SHARE)
    )


def _neighbors(where: Map) -> list[tuple[Indices, Indices]]:
    """Flat indices of the horizontal and of the vertical pairs of neighbors inside a map."""
    row = thinned(flat(where[:, :-1] & where[:, 1:]))
    row = row + row // (where.shape[1] - 1)  # the map of pairs in a row is one column short
    column = thinned(flat(where[:-1] & where[1:]))
    return [(row, row + 1), (column, column + where.shape[1])]


def _glcm_contrast(levels: Floats, pairs: list[tuple[Indices, Indices]]) -> float:
    """Contrast of the gray-level co-occurrence matrix of `levels` at distance 1, over pairs of pixels.

    The contrast, the sum of p(i, j) (i - j)^2, is the mean squared difference of the pairs that the
    matrix counts, so the matrix itself need not be built.
    """
    steps = [levels.ravel()[second] - levels.ravel()[first] for first, second in pairs]
    total = sum(float(np.dot(step, step)) for step in steps)
    return total / max(sum(map(len, steps)), 1)


def _changed(pair: Comparison) -> NDArray[np.uint8]:
    """The mask as a filled area, 0 or 1: gaps and holes closed, small components removed."""
    binary = as_bytes(pair.mask > _CHANGED_LEVEL / 255.0)
    side = 2 * max(1, round(_MAX_GAP * pair.size / 2)) + 1
    joined = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [contour for contour in contours if cv2.contourArea(contour) > 0.004 * pair.size**2]
    filled = np.zeros_like(binary)
    cv2.drawContours(filled, large, -1, 1, cv2.FILLED)
    return filled


def _margin(reach: int) -> int:
    """Width, in pixels, of the surroundings that the scores of a region use."""
    return 3 * reach + 2


def _smooth(image: Floats, sigma: float) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)


def _gradient(image: NDArray[Any]) -> Floats:
    x = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=0.125)
    return cv2.magnitude(x, y).astype(np.float32, copy=False)


def _steepest(image: Image, sigma: float) -> Floats:
    """The maximum gradient of the channels: a seam between colors may not show in the luma."""
    return maximum([_gradient(part) for part in channels(cv2.GaussianBlur(image, (0, 0), sigma))])
