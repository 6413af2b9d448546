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
  (the blending boundary of Face X-ray, Li et al. 2020, as a number), in grey levels a pixel. Where
  there is one, the other types are measured away from it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.mask import Comparison
from jax_vlffd.vocabulary import TYPES

Floats = NDArray[np.float32]
Map = NDArray[np.bool_]

#: Scales, as shares of the face's size.
_EDGE_SCALE: Final = 0.012  # low-pass under which edges are sought
_BLUR_SCALE: Final = 0.005  # low-pass under the Laplacian
_BAND: Final = (0.012, 0.03)  # low- and high-pass of the band of `structure`
_WINDOW: Final = 0.08  # over which edges move together
_COARSER: Final = 2.5  # the same once more at this multiple, for larger movements
_SEAM_SCALE: Final = 0.004  # low-pass under which a seam is sought
_GRAIN_SCALE: Final = 0.016  # high-pass of `texture`
_SEAM: Final = 0.03  # how far from the mask's edge a seam may lie
_JOIN: Final = 0.05  # gaps of the mask that are closed
#: Shares of a region's pixels: those on edges, for `blur`; those off edges, for `texture`; the least
#: that must be left away from a seam to measure anything on; along which a seam must run.
_EDGES: Final = 0.4
_PLAIN: Final = 0.5
_LEFT: Final = 0.15
_ALONG: Final = 0.6
#: OpenCV's 8-bit Lab in units of CIE Lab.
_LAB_UNITS: Final = np.array([100.0 / 255.0, 1.0, 1.0], np.float32)
#: Responses that count as none, so that two flat patches do not differ by octaves.
_LAPLACIAN_FLOOR: Final = 0.3
_CONTRAST_FLOOR: Final = 2.0
_SLOPE_FLOOR: Final = 0.05
#: Mask values, in grey levels, that count as changed where the mask's edge is sought.
_CHANGED: Final = 1.5
#: Share of a difference that displacement explains by chance, and loss of SSIM that counts whole.
_CHANCE: Final = 0.2
_LARGE_LOSS: Final = 0.28
#: Octaves of texture that one octave of blur takes away; structure that a unit of color feigns;
#: and grey levels a pixel by which a unit of color slopes where it fades out.
_BLUR_TAKES: Final = 2.0
_TONE_FEIGNS: Final = 0.004
_TONE_SLOPES: Final = 0.15


class Planes(NamedTuple):
    """What all regions of a pair share, computed once; float32 [h, w] each.

    Attributes:
      real: luma of the real.
      fake: luma of the fake.
      real_edges: gradient of the low-passed real.
      fake_edges: gradient of the low-passed fake.
      seam: by how much the fake's gradient exceeds the real's, the largest within reach.
      depth: distance to the edge of the filled mask, positive inside, negative outside.
    """

    real: Floats
    fake: Floats
    real_edges: Floats
    fake_edges: Floats
    seam: Floats
    depth: Floats


def planes(pair: Comparison) -> Planes:
    """Computes what the types of all regions share."""
    real = cv2.cvtColor(pair.real, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fake = cv2.cvtColor(pair.fake, cv2.COLOR_RGB2GRAY).astype(np.float32)
    changed = _changed(pair)
    outer = cv2.distanceTransform(1 - changed, cv2.DIST_L2, 3)
    depth = cv2.distanceTransform(changed, cv2.DIST_L2, 3) - outer
    side = 2 * _reach(pair) + 1
    # A seam is steeper than what was there; a blur leaves a difference too, but never a steeper one.
    fine = max(0.5, _SEAM_SCALE * pair.size)
    steeper = _gradient(_smooth(fake, fine)) - _gradient(_smooth(real, fine))
    seam = cv2.dilate(np.maximum(steeper, 0.0), np.ones((side, side), np.uint8))
    scale = max(0.8, _EDGE_SCALE * pair.size)
    edges = (_gradient(_smooth(real, scale)), _gradient(_smooth(fake, scale)))
    return Planes(real, fake, *edges, seam.astype(np.float32), depth.astype(np.float32))


def scores(pair: Comparison, shared: Planes, region: int, seam: float) -> dict[str, float]:
    """The score of every type in one region; larger is more of it, 0 is none.

    Args:
      pair: the compared pair.
      shared: `planes(pair)`.
      region: index in REGIONS.
      seam: threshold of `boundary`; above it the other types are measured away from the seam, and
        `structure` and `texture`, which it would feign, are 0 where too little is left.
    """
    inside = pair.labels == 1 + region
    boundary = max(0.0, _boundary(pair, shared, inside) - _TONE_SLOPES * _color(pair, inside))
    where, enough = inside, True
    if boundary > seam:
        away = inside & (np.abs(shared.depth) > 2 * _reach(pair))
        enough = bool(away.sum() > _LEFT * inside.sum())
        where = away if enough else inside
    blur, color = _blur(pair, shared, where), _color(pair, where)
    found = {
        "color": color,
        "blur": blur,
        "structure": _structure(pair, shared, where, color) if enough else 0.0,
        "texture": _texture(pair, shared, where, blur) if enough else 0.0,
        "boundary": boundary,
    }
    return {kind: found[kind] for kind in TYPES}


def _color(pair: Comparison, where: Map) -> float:
    box = _box(where)
    chosen = where[box]
    moments = []
    for image in (pair.real, pair.fake):
        lab = cv2.cvtColor(cv2.blur(image[box], (3, 3)), cv2.COLOR_RGB2LAB)[chosen]
        lab = lab.astype(np.float32) * _LAB_UNITS
        moments.append((lab.mean(axis=0), lab[:, 1:].std(axis=0)))
    mean = moments[1][0] - moments[0][0]
    spread = moments[1][1] - moments[0][1]
    return float(np.sqrt((mean**2).sum() + (spread**2).sum()))


def _blur(pair: Comparison, shared: Planes, where: Map) -> float:
    box = _box(where, 4)
    chosen = where[box]
    response = []
    for gray, edges in ((shared.real, shared.real_edges), (shared.fake, shared.fake_edges)):
        steep = edges[box][chosen]
        keep = steep >= np.quantile(steep, 1.0 - _EDGES)
        smooth = _smooth(gray[box], max(0.5, _BLUR_SCALE * pair.size))
        laplacian = np.abs(cv2.Laplacian(smooth, cv2.CV_32F)[chosen][keep])
        response.append(float(laplacian.mean()) + _LAPLACIAN_FLOOR)
    return float(np.log2(response[0] / response[1]))


def _structure(pair: Comparison, shared: Planes, where: Map, tone: float) -> float:
    """The larger of what two scales say, with any large loss, less what a change of tone feigns."""
    loss, moved = _moved(pair, shared, where, 1.0)
    fine = np.sqrt(loss) * moved + max(0.0, loss - _LARGE_LOSS)
    loss, moved = _moved(pair, shared, where, _COARSER)
    return max(0.0, float(max(fine, np.sqrt(loss) * moved)) - _TONE_FEIGNS * tone)


def _moved(pair: Comparison, shared: Planes, where: Map, scale: float) -> tuple[float, float]:
    """The loss of SSIM's structure term on a band, 0 to 2, and the share that movement explains."""
    box = _box(where, round(0.1 * scale * pair.size))
    chosen = where[box]
    low, high = (share * scale * pair.size for share in _BAND)
    bands = []
    for gray in (shared.real[box], shared.fake[box]):
        smooth = _smooth(gray, max(0.8, low))
        bands.append(smooth - _smooth(smooth, high))
    a, b = bands
    energy = np.sqrt((a[chosen] ** 2).sum() * (b[chosen] ** 2).sum())
    loss = 1.0 - float((a[chosen] * b[chosen]).sum() / max(energy, 1e-6))
    middle = (a + b) / 2
    x = cv2.Sobel(middle, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(middle, cv2.CV_32F, 0, 1, scale=0.125)
    change = b - a
    side = max(3, round(_WINDOW * scale * pair.size) | 1)
    xx, yy, xy, xt, yt, tt = (
        cv2.blur(product, (side, side))
        for product in (x * x, y * y, x * y, x * change, y * change, change * change)
    )
    xx, yy = xx + _SLOPE_FLOOR, yy + _SLOPE_FLOOR
    explained = (yy * xt * xt - 2 * xy * xt * yt + xx * yt * yt) / (xx * yy - xy * xy)
    share = float(explained[chosen].sum() / max(float(tt[chosen].sum()), 1e-6))
    return max(loss, 0.0), max(0.0, share - _CHANCE) / (1.0 - _CHANCE)


def _texture(pair: Comparison, shared: Planes, where: Map, blur: float) -> float:
    box = _box(where, 4)
    edges = np.maximum(shared.real_edges, shared.fake_edges)[box]
    plain = where[box] & (edges <= np.quantile(edges[where[box]], _PLAIN))
    scale = max(1.0, _GRAIN_SCALE * pair.size)
    contrast = []
    for gray in (shared.real[box], shared.fake[box]):
        # Whole grey levels of the high-pass band are the levels of the co-occurrence matrix.
        high = np.rint(gray - _smooth(gray, scale))
        contrast.append(glcm_contrast(high, plain) + _CONTRAST_FLOOR)
    change = float(np.log2(contrast[1] / contrast[0]))
    return change if change >= 0.0 else max(0.0, -change - _BLUR_TAKES * max(blur, 0.0))


def _boundary(pair: Comparison, shared: Planes, inside: Map) -> float:
    reach = _reach(pair)
    near = cv2.dilate(inside.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    edge = (near > 0) & (shared.depth > 0) & (shared.depth <= 1.5)
    if edge.sum() < 8:
        return 0.0
    distance = np.abs(shared.depth)
    core = inside & (distance > 2.5 * reach)
    if core.sum() < 8:
        core = inside & (distance >= 0.7 * float(distance[inside].max()))
    along = float(np.quantile(shared.seam[edge], 1.0 - _ALONG))
    return max(0.0, along - float(np.median(shared.seam[core])))


def glcm_contrast(levels: NDArray[np.float32], where: Map) -> float:
    """Contrast of the grey-level co-occurrence matrix at distance 1, over two directions.

    The contrast, the sum of p(i, j) (i - j)^2, is the mean squared difference of the pairs that the
    matrix counts, so the matrix itself need not be built. Only pairs inside `where` count.

    Args:
      levels: whole numbers as float32 [h, w].
      where: bool [h, w].
    """
    total, count = 0.0, 0
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        both = where[first] & where[second]
        step = (levels[first] - levels[second])[both]
        total += float((step * step).sum())
        count += len(step)
    return total / max(count, 1)


def _changed(pair: Comparison) -> NDArray[np.uint8]:
    """The mask as a filled area, 0 or 1: small gaps joined, holes closed, crumbs dropped."""
    binary = (pair.mask > _CHANGED / 255.0).astype(np.uint8)
    side = 2 * max(1, round(_JOIN * pair.size / 2)) + 1
    joined = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [found for found in contours if cv2.contourArea(found) > 0.004 * pair.size**2]
    filled = np.zeros_like(binary)
    cv2.drawContours(filled, large, -1, 1, cv2.FILLED)
    return filled


def _reach(pair: Comparison) -> int:
    return max(1, round(_SEAM * pair.size))


def _smooth(image: Floats, sigma: float) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)


def _gradient(image: Floats) -> Floats:
    x = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=0.125)
    return cv2.magnitude(x, y).astype(np.float32, copy=False)


def _box(where: Map, margin: int = 0) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )
