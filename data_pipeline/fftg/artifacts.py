"""The five forgery types of a region, each a number measured on the fake against the real.

The paper (section 3.1) names what each type is measured by; the formulas are ours, built so that
each answers to one cause and stays still under the other four:

- `color`: distance of the mean colors in CIE Lab, with the change of the chroma's spread.
- `blur`: Laplacian response on edges, real over fake, in octaves. Edges only: grain that was taken
away
  leaves them sharp, a blur does not. Each image at its own edges: a warp moves them.
- `structure`: 1 - the structure term of SSIM (Wang et al. 2004), on a low-passed band, where
neither a
  blur, nor grain, nor a change of tone alters the pattern, and a warp does.
- `texture`: GLCM contrast (Haralick et al. 1973) of the high-pass band off the edges, fake over
real, in
  octaves, either way. What a blur explains of it is taken off.
- `boundary`: gradient of the difference along the edge of the mask over that inside (the blending
  boundary of Face X-ray, Li et al. 2020, as a number), in grey levels a pixel.
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
_LOW: Final = 0.012
_WIDE: Final = 0.05
_FINE: Final = 0.008
_BAND: Final = 0.03
_JOIN: Final = 0.05
#: Grey levels that count as no response at all, so that two flat patches do not differ by octaves.
_LAPLACIAN_FLOOR: Final = 1.0
_CONTRAST_FLOOR: Final = 2.0
#: Mask values, in grey levels, that count as changed where the mask's edge is sought.
_CHANGED: Final = 1.5


class Planes(NamedTuple):
    """What all regions of a pair share, computed once; float32 [h, w] each but `seam`.

    `real` and `fake` are luma, `seam` is the gradient of the difference, largest within reach;
    `changed` is the filled mask, `depth` the distance into it.
    """

    real: Floats
    fake: Floats
    real_edges: Floats
    fake_edges: Floats
    seam: Floats
    changed: Map
    depth: Floats


def planes(pair: Comparison) -> Planes:
    """Computes what the types of all regions share."""
    real = cv2.cvtColor(pair.real, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fake = cv2.cvtColor(pair.fake, cv2.COLOR_RGB2GRAY).astype(np.float32)
    changed = _changed(pair)
    depth = cv2.distanceTransform(changed.astype(np.uint8), cv2.DIST_L2, 3)
    steep = _gradient(cv2.GaussianBlur(fake - real, (0, 0), 0.8))
    reach = 2 * max(1, round(_BAND * pair.size)) + 1
    seam = cv2.dilate(steep, np.ones((reach, reach), np.uint8))
    scale = max(0.8, _LOW * pair.size)
    return Planes(
        real,
        fake,
        _gradient(cv2.GaussianBlur(real, (0, 0), scale)),
        _gradient(cv2.GaussianBlur(fake, (0, 0), scale)),
        seam.astype(np.float32),
        changed,
        depth.astype(np.float32),
    )


def scores(pair: Comparison, shared: Planes, region: int) -> dict[str, float]:
    """The score of every type in one region; larger is more of it, 0 is none.

    Args:
      pair: the compared pair.
      shared: `planes(pair)`.
      region: index in REGIONS.
    """
    inside = pair.labels == 1 + region
    blur = _blur(shared, inside)
    found = {
        "color": _color(pair, inside),
        "blur": blur,
        "structure": _structure(pair, shared, inside),
        "texture": _texture(pair, shared, inside, blur),
        "boundary": _boundary(pair, shared, inside),
    }
    return {kind: found[kind] for kind in TYPES}


def _color(pair: Comparison, inside: Map) -> float:
    box = _box(inside)
    where = inside[box]
    moments = []
    for image in (pair.real, pair.fake):
        lab = cv2.cvtColor(cv2.blur(image[box], (3, 3)), cv2.COLOR_RGB2LAB)[where].astype(
            np.float32
        )
        lab[:, 0] *= 100.0 / 255.0
        moments.append((lab.mean(axis=0), lab[:, 1:].std(axis=0)))
    mean = moments[1][0] - moments[0][0]
    spread = moments[1][1] - moments[0][1]
    return float(np.sqrt((mean**2).sum() + (spread**2).sum()))


def _blur(shared: Planes, inside: Map) -> float:
    box = _box(inside)
    where = inside[box]
    response = []
    for gray, edges in ((shared.real, shared.real_edges), (shared.fake, shared.fake_edges)):
        steep = edges[box][where]
        keep = steep >= np.quantile(steep, 0.8)
        laplacian = np.abs(cv2.Laplacian(gray[box], cv2.CV_32F)[where][keep])
        response.append(float(laplacian.mean()) + _LAPLACIAN_FLOOR)
    return float(np.log2(response[0] / response[1]))


def _structure(pair: Comparison, shared: Planes, inside: Map) -> float:
    box = _box(inside, 8)
    where = inside[box]
    low, wide = max(0.8, _LOW * pair.size), _WIDE * pair.size
    bands = []
    for gray in (shared.real, shared.fake):
        smooth = cv2.GaussianBlur(gray[box], (0, 0), low)
        bands.append((smooth - cv2.GaussianBlur(smooth, (0, 0), wide))[where])
    a, b = bands
    return float(1.0 - (a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


def _texture(pair: Comparison, shared: Planes, inside: Map, blur: float) -> float:
    box = _box(inside, 4)
    edges = np.maximum(shared.real_edges, shared.fake_edges)[box]
    where = inside[box]
    plain = where & (edges <= np.quantile(edges[where], 0.6))
    contrast = [
        glcm_contrast(_high(gray[box], pair.size), plain) + _CONTRAST_FLOOR
        for gray in (shared.real, shared.fake)
    ]
    change = float(np.log2(contrast[1] / contrast[0]))
    if change >= 0.0:
        return change
    return max(0.0, -change - 2.0 * max(blur, 0.0))


def _boundary(pair: Comparison, shared: Planes, inside: Map) -> float:
    reach = max(1, round(_BAND * pair.size))
    near = (
        cv2.dilate(inside.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    )
    edge = near & (shared.depth > 0) & (shared.depth <= 1.5)
    core = inside & (shared.depth > 2.5 * reach)
    if edge.sum() < 8:
        return 0.0
    if core.sum() < 8:
        core = inside & (shared.depth >= 0.7 * shared.depth[inside].max())
    along = float(np.quantile(shared.seam[edge], 0.4))
    within = float(np.quantile(shared.seam[core], 0.5)) if core.any() else 0.0
    return max(0.0, along - within)


def glcm_contrast(levels: NDArray[np.float32], where: Map) -> float:
    """Contrast of the grey-level co-occurrence matrix of `levels` at distance 1, over two
    directions.

    The contrast, the sum of p(i, j) (i - j)^2, is the mean squared difference of the pairs that the
    matrix counts, so the matrix itself need not be built. Only pairs with both pixels in `where`
    count.
    """
    total, count = 0.0, 0
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        both = where[first] & where[second]
        step = (levels[first] - levels[second])[both]
        total += float((step * step).sum())
        count += len(step)
    return total / max(count, 1)


def _high(gray: Floats, size: float) -> Floats:
    """The high-pass band, rounded to whole grey levels (the levels of the co-occurrence matrix)."""
    low = cv2.GaussianBlur(gray, (0, 0), max(1.0, 2 * _FINE * size))
    return np.rint(gray - low)


def _changed(pair: Comparison) -> Map:
    """The mask as a filled area: joined over small gaps, holes closed, crumbs dropped."""
    binary = (pair.mask > _CHANGED / 255.0).astype(np.uint8)
    reach = 2 * max(1, round(_JOIN * pair.size / 2)) + 1
    joined = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [c for c in contours if cv2.contourArea(c) > 0.004 * pair.size**2]
    filled = np.zeros_like(joined)
    cv2.drawContours(filled, large, -1, 1, cv2.FILLED)
    return filled > 0


def _gradient(gray: Floats) -> Floats:
    x = cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(gray, cv2.CV_32F, 0, 1, scale=0.125)
    return cv2.magnitude(x, y).astype(np.float32)


def _box(inside: Map, margin: int = 0) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )
