"""Canvas, light, background and camera of the drawn faces.

Shapes come in face units and go through a frame's projection. Only the box that a shape covers is
touched, so that a picture of a hundred shapes takes a few milliseconds. All of it is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_pipeline.synthetic.anatomy import FaceFrame, Points, muted, project, surface

SUPERSAMPLING = 2
_SHIFT = 4  # OpenCV draws in sixteenths of a pixel


class Light:
    """One lamp at (x to the right, y down, 1 in front), and the light that is everywhere."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.x = float(np.clip(rng.normal(0, 0.55), -1.1, 1.1))
        self.y = rng.uniform(-0.9, 0.1)
        self.ambient = rng.uniform(0.45, 0.8)


class Canvas:
    """Float RGB pixels [S, S, 3] in 0..255, painted in face units as seen in a frame."""

    def __init__(self, side: int, frame: FaceFrame) -> None:
        self.side = side
        self.frame = frame
        self.unit = frame.scale * side  # pixels in a face unit
        self.pixels = np.zeros((side, side, 3), np.float32)
        self.clip: NDArray[np.uint8] | None = None
        """Coverage that limits what is painted, uint8 [S, S]."""

    def to_pixels(self, points: ArrayLike) -> Points:
        """Projects points [K, 2] on the face, or [K, 3] anywhere, to pixels [K, 2]."""
        array = np.asarray(points, np.float64)
        if array.shape[1] == 2:
            array = surface(array)
        return project(array, self.frame) * self.side - 0.5

    def mask(self, *polygons: ArrayLike) -> NDArray[np.uint8]:
        """Draws the coverage of the union of polygons, uint8 [S, S]."""
        mask = np.zeros((self.side, self.side), np.uint8)
        for polygon in polygons:
            cv2.fillPoly(mask, [_fixed(self.to_pixels(polygon))], 255, cv2.LINE_AA, _SHIFT)
        return mask

    def fill(
        self, points: ArrayLike, color: ArrayLike, opacity: float = 1.0, soft: float = 0.0
    ) -> None:
        """Paints a polygon; `soft` is the blur of its edge in face units."""
        self._paint([self.to_pixels(points)], color, opacity, soft, None)

    def dots(self, centers: Points, radius: float, color: ArrayLike, opacity: float) -> None:
        """Paints discs [K, 2] of one size on the face."""
        paths = [self.to_pixels(radius * RING + center) for center in centers]
        self._paint(paths, color, opacity, 0.0, None)

    def lines(
        self,
        paths: Sequence[ArrayLike] | NDArray[np.float64],
        color: ArrayLike,
        width: float,
        opacity: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """Paints open lines; `width` and `soft` are in face units."""
        self._paint([self.to_pixels(path) for path in paths], color, opacity, soft, width)

    def add(self, texture: NDArray[np.float32]) -> None:
        """Adds gray levels [S, S, 3] inside the clip."""
        if self.clip is not None:
            texture = texture * (self.clip[..., None] * np.float32(1 / 255))
        self.pixels += texture

    def shade(self, light: Light, body: NDArray[np.uint8]) -> None:
        """Multiplies what a coverage [S, S] holds by the light that falls on an ellipsoid head."""
        x, y = _grid(self.side)
        frame = self.frame
        u, v = (x - frame.center[0]) / frame.scale, (y - frame.center[1]) / frame.scale
        cos, sin = np.float32(np.cos(frame.roll)), np.float32(np.sin(frame.roll))
        nx = np.clip((u * cos + v * sin) / 1.12, -1, 1)
        ny = np.clip((v * cos - u * sin - 0.05) / 1.75, -1, 1)
        nz = np.sqrt(np.maximum(0.06, 1 - nx * nx - ny * ny))
        lamp = np.asarray((light.x, light.y, 1.0), np.float32)
        lamp /= np.linalg.norm(lamp)
        falling = np.maximum(0, nx * lamp[0] + ny * lamp[1] + nz * lamp[2])
        shading = light.ambient + (1.08 - light.ambient) * falling
        self.pixels *= (1 + (shading - 1) * (body * np.float32(1 / 255)))[..., None]

    def _paint(
        self,
        paths: Sequence[Points],
        color: ArrayLike,
        opacity: float,
        soft: float,
        width: float | None,
    ) -> None:
        blur, pen = soft * self.unit, (width or 0.0) * self.unit
        every = np.concatenate(paths)
        margin = 3 * blur + pen + 2
        left, top = (max(0, int(c - margin)) for c in every.min(axis=0))
        right, bottom = (min(self.side, int(c + margin) + 2) for c in every.max(axis=0))
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        polygons = [_fixed(path - (left, top)) for path in paths]
        if width is None:
            cv2.fillPoly(mask, polygons, 255, cv2.LINE_AA, _SHIFT)
        else:  # a line thinner than a pixel is a fainter line of one pixel
            opacity *= min(1.0, pen)
            cv2.polylines(mask, polygons, False, 255, max(1, round(pen)), cv2.LINE_AA, _SHIFT)
        if blur > 0.3:
            mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), blur), np.uint8)
        weight = mask * np.float32(opacity / 255)
        if self.clip is not None:
            weight *= self.clip[top:bottom, left:right] * np.float32(1 / 255)
        pixels = self.pixels[top:bottom, left:right]
        pixels += weight[..., None] * (np.asarray(color, np.float32) - pixels)


#: The unit circle as a polygon, [14, 2].
RING = np.column_stack([f(np.linspace(0, 2 * np.pi, 14, endpoint=False)) for f in (np.cos, np.sin)])


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _grid(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    steps = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    y, x = np.broadcast_arrays(steps[:, None], steps)
    return x, y


def smooth_noise(side: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws smooth noise [side, side] of about unit spread with about `cells` features across."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def paint_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fills the canvas: a gradient, some unevenness, a few shapes, out of focus."""
    side = canvas.side
    x, y = _grid(side)
    first, second = (muted(rng, 15, 235).astype(np.float32) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (x - 0.5) * np.float32(np.cos(angle)) + (y - 0.5) * np.float32(np.sin(angle)) + 0.5
    canvas.pixels[:] = first + ramp[..., None] * (0.7 * (second - first))
    canvas.pixels += smooth_noise(side, 7, rng)[..., None] * np.float32(rng.uniform(0, 12))
    for _ in range(rng.integers(0, 5)):
        color = tuple(float(c) for c in muted(rng, 20, 230))
        corner, extent = rng.uniform(-0.2, 1, 2) * side, rng.uniform(0.1, 0.6, 2) * side
        if rng.random() < 0.3:
            center = (int(corner[0]), int(corner[1]))
            cv2.circle(canvas.pixels, center, int(extent[0] / 2), color, -1)
        else:
            square = np.asarray([(0, 0), (1, 0), (1, 1), (0, 1)])
            box = corner + square * extent + rng.normal(0, 0.04 * side, (4, 2))
            cv2.fillPoly(canvas.pixels, [np.round(box).astype(np.int32)], color)
    cv2.GaussianBlur(canvas.pixels, (0, 0), rng.uniform(0.2, 2.5) * side / 128, dst=canvas.pixels)


def photograph(canvas: Canvas, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Takes the picture, uint8 [size, size, 3]: the final size, tint, contrast, lens blur, noise."""
    picture = np.asarray(cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA))
    tint = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.85, 1.15)
    contrast = rng.uniform(0.85, 1.1)
    picture = picture * (tint * contrast).astype(np.float32) + np.float32(127 * (1 - contrast))
    lens = rng.uniform(0.0, 0.55) * np.sqrt(size / 64)
    if lens > 0.2:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), lens))
    for channels, levels in ((1, (0.5, 2.5)), (3, (0.2, 0.8))):  # of the light, then of each color
        grain = rng.standard_normal((size, size, channels), np.float32)
        picture = picture + grain * np.float32(rng.uniform(*levels))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
