"""Drawn faces: varied people in varied light, for a demo that needs no photograph.

A face is painted back to front on a canvas of twice the size, shaded as an ellipsoid under one lamp, and
taken by a camera with blur, tint and noise. `drawn_geometry` says where things lie. All of it is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_pipeline.drawn_geometry import (
    Frame,
    Identity,
    Points,
    curve,
    draw_frame,
    draw_identity,
    landmarks_of,
    project,
    surface,
)

__all__ = ["Identity", "draw_face", "draw_identity"]

_SUPERSAMPLING = 2
_SHIFT = 4  # OpenCV draws in sixteenths of a pixel


def draw_face(
    identity: Identity, rng: np.random.Generator, size: int = 64
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A picture of a person in a pose, a light and a place that `rng` decides.

    Args:
      identity: who; see `draw_identity`.
      rng: everything else. Equal generators give equal pictures.
      size: side in pixels, 32 or more.

    Returns:
      The picture, RGB uint8 [size, size, 3], and its landmarks (x, y) in pixels, float32 [68, 2].
    """
    frame = draw_frame(rng)
    canvas = _Canvas(size * _SUPERSAMPLING, frame)
    marks = np.random.default_rng(identity.marks)
    _background(canvas, rng)
    landmarks = landmarks_of(identity, frame)
    light = _Light(rng)
    _hair_behind(canvas, identity)
    _neck_and_cloth(canvas, identity)
    head = _head_outline(landmarks)
    _ears(canvas, identity)
    canvas.fill(head, identity.skin)
    _skin_marks(canvas, identity, landmarks, head, marks)
    _nose(canvas, identity, landmarks, light)
    _mouth(canvas, identity, frame, landmarks)
    _eyes(canvas, identity, frame, landmarks)
    canvas.shade(light)
    _hair_in_front(canvas, identity, light, marks)
    _glasses(canvas, identity, landmarks)
    picture = _photograph(canvas.pixels, size, rng)
    points = (project(landmarks, frame) * size - 0.5).astype(np.float32)
    return picture, np.clip(points, 0, size - 1)


class _Light:
    """One lamp: where it is, how hard it is."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.x = float(np.clip(rng.normal(0, 0.55), -1.1, 1.1))
        self.y = rng.uniform(-0.9, 0.1)
        self.ambient = rng.uniform(0.45, 0.8)


class _Canvas:
    """Float pixels [S, S, 3] in 0..255, painted in face units through a frame's projection."""

    def __init__(self, side: int, frame: Frame) -> None:
        self.side = side
        self.frame = frame
        self.unit = frame.scale * side  # pixels in a face unit
        self.pixels = np.zeros((side, side, 3), np.float32)
        self.clip: NDArray[np.uint8] | None = None

    def place(self, points: ArrayLike) -> Points:
        """Points [K, 2] on the face, or [K, 3] anywhere, in pixels [K, 2]."""
        array = np.asarray(points, np.float64)
        if array.shape[1] == 2:
            array = surface(array)
        return project(array, self.frame) * self.side - 0.5

    def mask(self, points: ArrayLike) -> NDArray[np.uint8]:
        """A polygon as coverage, uint8 [S, S]."""
        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [_fixed(self.place(points))], 255, cv2.LINE_AA, _SHIFT)
        return mask

    def fill(
        self, points: ArrayLike, color: ArrayLike, opacity: float = 1.0, soft: float = 0.0
    ) -> None:
        """Paints a polygon; `soft` is the blur of its edge in face units."""
        self._blend([self.place(points)], color, opacity, soft, None)

    def lines(
        self,
        paths: Sequence[ArrayLike],
        color: ArrayLike,
        width: float,
        opacity: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """Paints open lines, `width` and `soft` in face units."""
        self._blend([self.place(p) for p in paths], color, opacity, soft, width)

    def shade(self, light: _Light) -> None:
        """Multiplies the head by the light that falls on it."""
        x, y, z = _normals(self.side, self.frame)
        lamp = np.asarray((light.x, light.y, 1.0))
        lamp /= np.linalg.norm(lamp)
        falling = np.maximum(0, x * lamp[0] + y * lamp[1] + z * lamp[2])
        shading = light.ambient + (1.08 - light.ambient) * falling
        self.pixels *= shading[..., None]

    def _blend(
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
        low = np.maximum(np.floor(every.min(axis=0) - margin).astype(int), 0)
        high = np.minimum(np.ceil(every.max(axis=0) + margin).astype(int) + 1, self.side)
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        polygons = [_fixed(p - low) for p in paths]
        if width is None:
            cv2.fillPoly(mask, polygons, 255, cv2.LINE_AA, _SHIFT)
        else:  # a line thinner than a pixel is a fainter line of one pixel
            opacity *= min(1.0, pen)
            cv2.polylines(mask, polygons, False, 255, max(1, round(pen)), cv2.LINE_AA, _SHIFT)
        if blur > 0.3:
            mask = cv2.GaussianBlur(mask, (0, 0), blur)
        box = np.s_[low[1] : high[1], low[0] : high[0]]
        weight = mask.astype(np.float32) * (opacity / 255)
        if self.clip is not None:
            weight *= self.clip[box] * np.float32(1 / 255)
        pixels = self.pixels[box]
        pixels += weight[..., None] * (np.asarray(color, np.float32) - pixels)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _grid(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(steps, steps)
    return x, y


def _normals(side: int, frame: Frame) -> tuple[NDArray[np.float32], ...]:
    """The normals of an ellipsoid head over the canvas, three maps [S, S]."""
    x, y = _grid(side)
    u, v = (x - frame.center[0]) / frame.scale, (y - frame.center[1]) / frame.scale
    cos, sin = np.float32(np.cos(frame.roll)), np.float32(np.sin(frame.roll))
    u, v = u * cos + v * sin, v * cos - u * sin
    nx, ny = np.clip(u / 1.12, -1, 1), np.clip((v - 0.05) / 1.75, -1, 1)
    nz = np.sqrt(np.maximum(0.06, 1 - nx * nx - ny * ny))
    return nx, ny, nz


def _noise(side: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise [side, side] of unit spread with about `cells` features across."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _background(canvas: _Canvas, rng: np.random.Generator) -> None:
    x, y = _grid(canvas.side)
    first, second = rng.uniform(15, 240, 3), rng.uniform(15, 240, 3)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5
    canvas.pixels[:] = first + ramp[..., None].astype(np.float32) * (0.7 * (second - first))
    canvas.pixels += (rng.uniform(0, 12) * _noise(canvas.side, 7, rng))[..., None]
    side = canvas.side
    for _ in range(rng.integers(0, 5)):
        color = tuple(float(c) for c in rng.uniform(20, 235, 3))
        corner, extent = rng.uniform(-0.2, 1, 2) * side, rng.uniform(0.1, 0.6, 2) * side
        box = np.asarray(
            [corner, corner + (extent[0], 0), corner + extent, corner + (0, extent[1])]
        )
        if rng.random() < 0.3:
            cv2.circle(canvas.pixels, _pixel(corner), int(extent[0] / 2), color, -1)
        else:
            box += rng.normal(0, 0.04 * side, (4, 2))
            cv2.fillPoly(canvas.pixels, [np.round(box).astype(np.int32)], color)
    out_of_focus = rng.uniform(0.2, 2.5) * side / 128
    cv2.GaussianBlur(canvas.pixels, (0, 0), out_of_focus, dst=canvas.pixels)


def _pixel(point: Points) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _arc(width: float, top: float, base: float, low: float = 0.0, count: int = 15) -> Points:
    """An arch over the head from left to right, [count, 3]: its feet at (+-width, base + low)."""
    t = np.linspace(0, np.pi, count)
    y = base - (base - top) * np.sin(t) ** 0.9
    y[[0, -1]] += low
    return np.column_stack((-width * np.cos(t), y, np.full(count, 0.05)))


def _head_outline(landmarks: Points) -> Points:
    crown = _arc(0.99, -1.28, -0.2)[::-1][1:-1]
    return np.concatenate((curve(landmarks[:17], steps=3), curve(crown, steps=3)))


def _hair_behind(canvas: _Canvas, identity: Identity) -> None:
    dark = identity.hair * 0.6
    if identity.hair_style == "long":
        arc = _arc(1.28, -1.5, 0.3)
        arc[:, 2] = -0.4
        feet = np.asarray([(1.3, 2.2, -0.4), (-1.3, 2.2, -0.4)])
        canvas.fill(np.concatenate((arc, feet)), dark)
    elif identity.hair_style == "curly":
        for x, y, _ in _arc(1.2, -1.4, 0.1, count=13):
            circle = np.linspace(0, 2 * np.pi, 10)
            bump = np.column_stack((x + 0.3 * np.cos(circle), y + 0.3 * np.sin(circle)))
            canvas.fill(np.column_stack((bump, np.full(10, -0.2))), dark)


def _neck_and_cloth(canvas: _Canvas, identity: Identity) -> None:
    neck = [(-0.55, 0.6), (0.55, 0.6), (0.6, 1.7), (0.75, 2.6), (-0.75, 2.6), (-0.6, 1.7)]
    behind = np.column_stack((np.asarray(neck), np.full(6, -0.1)))
    canvas.fill(behind, identity.skin * 0.86)
    shadow = [(-0.5, 0.8, 0), (0.5, 0.8, 0), (0.5, 1.5, 0), (0, 1.62, 0), (-0.5, 1.5, 0)]
    canvas.fill(shadow, identity.skin * 0.5, 0.7, 0.08)
    shirt = [(-2.6, 2.0), (-0.7, 1.66), (-0.25, 1.95), (0.25, 1.95), (0.7, 1.66), (2.6, 2.0),
             (2.6, 3.2), (-2.6, 3.2)]  # fmt: skip
    canvas.fill(np.column_stack((np.asarray(shirt), np.full(8, -0.1))), identity.cloth)


def _ears(canvas: _Canvas, identity: Identity) -> None:
    circle = np.linspace(0, 2 * np.pi, 14)
    for side in (-1, 1):
        x = side * (1.0 + 0.13 * np.cos(circle))
        y = 0.12 + 0.26 * np.sin(circle)
        canvas.fill(np.column_stack((x, y, np.full(14, -0.1))), identity.skin * 0.93)
        inner = np.column_stack(
            (side * (1.03 + 0.05 * np.cos(circle)), 0.12 + 0.15 * np.sin(circle))
        )
        canvas.fill(np.column_stack((inner, np.full(14, -0.1))), identity.skin * 0.7, 0.7, 0.02)


def _skin_marks(
    canvas: _Canvas, identity: Identity, landmarks: Points, head: Points, marks: np.random.Generator
) -> None:
    """Blotches, blush, freckles, lines of age, beard: all inside the outline of the head."""
    skin = identity.skin
    canvas.clip = canvas.mask(head)
    inside = canvas.clip.astype(np.float32)[..., None] / 255
    blotches = _noise(canvas.side, 9, marks)[..., None] * np.asarray((2.0, 3.5, 3.0), np.float32)
    pores = _noise(canvas.side, canvas.side // 2, marks)[..., None] * (2 + 5 * identity.age)
    canvas.pixels += inside * (blotches + pores.astype(np.float32))
    circle = np.linspace(0, 2 * np.pi, 12)
    red = skin * (0.98, 0.74, 0.72)
    for side in (-1, 1):
        cheek = np.column_stack((side * 0.56 + 0.26 * np.cos(circle), 0.48 + 0.2 * np.sin(circle)))
        canvas.fill(cheek, red, identity.blush, 0.12)
        socket = landmarks[36:42] if side < 0 else landmarks[42:48]
        middle = socket[:, :2].mean(axis=0) + (0, -0.04)
        hollow = middle + np.column_stack((0.26 * np.cos(circle), 0.17 * np.sin(circle)))
        canvas.fill(hollow, skin * (0.68, 0.58, 0.56), 0.45, 0.06)
    if identity.freckles:
        for _ in range(int(50 * identity.freckles)):
            at = np.asarray((marks.normal(0, 0.42), marks.normal(0.32, 0.2)))
            size = marks.uniform(0.010, 0.022)
            spot = at + size * np.column_stack((np.cos(circle), np.sin(circle)))
            canvas.fill(spot, skin * (0.72, 0.58, 0.5), 0.7)
    if identity.age > 0.3:
        _wrinkles(canvas, identity, landmarks, marks)
    _beard(canvas, identity, landmarks, marks)
    canvas.clip = None


def _wrinkles(
    canvas: _Canvas, identity: Identity, landmarks: Points, marks: np.random.Generator
) -> None:
    depth = 0.9 * (identity.age - 0.15)
    x = np.linspace(-0.5, 0.5, 7)
    lines = [
        np.column_stack((x * marks.uniform(0.7, 1.1), y + 0.05 * x**2 + marks.normal(0, 0.012, 7)))
        for y in (-0.62, -0.74, -0.86)
    ]
    for side, corner, wing in ((-1, 48, 31), (1, 54, 35)):
        start, end = landmarks[wing, :2], landmarks[corner, :2]
        fold = [
            start + (side * 0.05, -0.05),
            (start + end) / 2 + (side * 0.13, -0.02),
            end + (side * 0.1, 0.06),
        ]
        lines.append(curve(np.asarray(fold)))
        outer = landmarks[36 if side < 0 else 45, :2]
        lines += [np.asarray((outer + (side * 0.05, dy), outer + (side * 0.16, 2 * dy))) for dy in (-0.03, 0.03)]  # fmt: skip
    canvas.lines(lines, identity.skin * (0.55, 0.45, 0.42), 0.025, min(0.75, depth), 0.012)


def _beard(
    canvas: _Canvas, identity: Identity, landmarks: Points, marks: np.random.Generator
) -> None:
    color = identity.hair * 0.85
    if identity.beard:
        jaw = landmarks[3:14, :2]
        top = landmarks[[54, 55, 57, 59, 48], :2] + np.asarray((0, 0.06))
        patch = np.concatenate((jaw, (landmarks[54, :2] + (0.2, -0.1))[None], top, (landmarks[48, :2] + (-0.2, -0.1))[None]))  # fmt: skip
        canvas.fill(patch, color, identity.beard, 0.05)
        places = np.column_stack((marks.uniform(-0.8, 0.8, 60), marks.uniform(0.85, 1.4, 60)))
        hairs = [np.asarray((p, p + (marks.normal(0, 0.02), 0.07))) for p in places]
        canvas.lines(hairs, color * 0.6, 0.02, 0.5 * identity.beard)
    if identity.moustache:
        lip, nose = landmarks[48:55, :2], landmarks[33, :2]
        arch = np.concatenate(
            (lip * (1.05, 1) - (0, 0.02), [nose + (0.18, 0.08), nose + (-0.18, 0.08)])
        )
        canvas.fill(arch, color, identity.moustache, 0.025)


def _nose(canvas: _Canvas, identity: Identity, landmarks: Points, light: _Light) -> None:
    dark, bright = identity.skin * (0.62, 0.52, 0.48), np.minimum(255, identity.skin * 1.15 + 14)
    ridge, base = landmarks[27:31], landmarks[31:36]
    away = 1.0 if light.x < 0 else -1.0  # the side in shadow
    wing = base[4 if away > 0 else 0]
    side = np.asarray([ridge[0], ridge[2], ridge[3], base[2], wing, wing + (0.02 * away, -0.12, 0), ridge[1] + (0.09 * away, 0, 0)])  # fmt: skip
    canvas.fill(side, dark, 0.35 + 0.2 * abs(light.x), 0.035)
    canvas.lines([ridge[[0, 1, 2, 3]]], bright, 0.07, 0.5, 0.03)
    bulb = np.linspace(0, 2 * np.pi, 10)
    tip = ridge[3] + np.column_stack((0.07 * np.cos(bulb), 0.05 * np.sin(bulb), 0 * bulb))
    canvas.fill(tip, bright, 0.45, 0.03)
    under = np.concatenate((base, base[::-1] + (0, 0.07, -0.05)))
    canvas.fill(under, dark, 0.5, 0.03)
    wings = [curve(np.asarray([b + (s * 0.0, -0.15, 0), b + (s * 0.05, -0.06, 0), b + (s * 0.01, 0.02, 0)])) for b, s in ((base[0], -1), (base[4], 1))]  # fmt: skip
    canvas.lines(wings, dark, 0.035, 0.75, 0.01)
    for index in (1, 3):
        hole = np.linspace(0, 2 * np.pi, 9)
        nostril = base[index] + np.column_stack(
            (0.048 * np.cos(hole), 0.026 * np.sin(hole), 0 * hole)
        )
        canvas.fill(nostril + (0, 0.0, 0), identity.skin * (0.3, 0.2, 0.18), 0.9, 0.008)


def _mouth(canvas: _Canvas, identity: Identity, frame: Frame, landmarks: Points) -> None:
    lips = identity.lips
    outer, inner = landmarks[48:60], landmarks[60:68]
    upper = np.concatenate((curve(outer[:7]), curve(inner[[4, 3, 2, 1, 0]])))
    lower = np.concatenate((curve(outer[[6, 7, 8, 9, 10, 11, 0]]), curve(inner[[0, 7, 6, 5, 4]])))
    shadow = outer[[7, 8, 9, 10, 11]] + (0, 0.08, 0)
    canvas.lines([shadow], identity.skin * 0.55, 0.06, 0.4, 0.04)
    if frame.mouth_open > 0.012:
        canvas.fill(inner, (52, 18, 20))
        teeth = np.concatenate(
            (inner[1:4], inner[[3, 2, 1]] + (0, min(0.08, 0.55 * frame.mouth_open), 0))
        )
        canvas.fill(teeth, (232, 226, 214), 0.95)
    canvas.fill(upper, lips * 0.86, 1.0, 0.008)
    canvas.fill(lower, lips, 1.0, 0.008)
    middle = outer[[8, 9, 10]] * 0.55 + inner[[5, 6, 7]] * 0.45
    canvas.lines([middle], np.minimum(255, lips * 1.25 + 22), 0.045, 0.55, 0.018)
    canvas.lines([curve(inner[[0, 1, 2, 3, 4]])], lips * (0.45, 0.35, 0.38), 0.035, 0.95)
    corners = [outer[i] + ((-0.03, -0.02, 0), (0.03, 0.02, 0)) for i in (0, 6)]
    canvas.lines(corners, identity.skin * 0.5, 0.04, 0.5, 0.015)


def _eyes(canvas: _Canvas, identity: Identity, frame: Frame, landmarks: Points) -> None:
    circle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.column_stack((np.cos(circle), np.sin(circle)))
    lash = identity.skin * 0.12 + 8
    for first in (36, 42):
        eye = landmarks[first : first + 6]
        outline = curve(eye, closed=True, steps=4)
        canvas.fill(outline, (236, 232, 228))
        canvas.clip = canvas.mask(outline)
        at = eye[:, :2].mean(axis=0) + np.asarray(frame.gaze) * (0.22, 0.1) + (0, -0.012)
        canvas.fill(at + 0.098 * ring, identity.iris * 0.55)
        canvas.fill(at + 0.082 * ring, identity.iris)
        canvas.fill(at + 0.042 * ring, (10, 8, 8))
        canvas.lines([eye[:4] + (0, 0.02, 0)], (40, 30, 30), 0.06, 0.45, 0.02)
        canvas.fill(at + (-0.03, -0.03) + 0.018 * ring, (255, 255, 255), 0.9)
        canvas.clip = None
        canvas.lines([curve(eye[:4])], lash, 0.042)
        canvas.lines([curve(eye[[3, 4, 5, 0]])], identity.skin * 0.45, 0.022, 0.6)
        crease = curve(eye[:4] * (1, 1, 1) + np.asarray((0, -0.07, 0)))
        canvas.lines([crease], identity.skin * (0.55, 0.45, 0.42), 0.025, 0.6, 0.012)
    thick = identity.brow_thick
    taper = thick * np.asarray((0.35, 0.8, 1.0, 1.1, 1.0))
    for brow, weights in ((landmarks[17:22], taper), (landmarks[22:27], taper[::-1])):
        up = np.column_stack((np.zeros(5), weights / 2, np.zeros(5)))
        shape = np.concatenate((curve(brow - up, steps=3), curve((brow + up)[::-1], steps=3)))
        canvas.fill(shape, identity.hair * 0.7, 0.88, 0.012)


def _hairline(style: str, marks: np.random.Generator) -> Points:
    """The front edge of the hair from right to left, [K, 2]."""
    u = np.linspace(1, -1, 11)
    if style == "fringe":
        y = -0.50 + marks.normal(0, 0.05, 11) + 0.15 * np.abs(u) ** 4
    elif style == "side":
        y = -0.78 + 0.28 * (u * marks.choice((-1, 1))) + 0.05 * np.abs(u)
    elif style == "receding":
        y = -1.02 + 0.10 * np.cos(3 * np.pi * u / 2) - 0.05
    else:
        y = -0.90 + 0.22 * u**2 + marks.normal(0, 0.015, 11)
    edge = np.column_stack((0.90 * u, y + 0.28 * np.abs(u) ** 6))
    return np.concatenate(([(0.99, 0.0)], edge, [(-0.99, 0.0)]))


def _hair_in_front(
    canvas: _Canvas, identity: Identity, light: _Light, marks: np.random.Generator
) -> None:
    style = identity.hair_style
    if style == "bald":
        return
    volume = {"curly": 0.2, "long": 0.16, "beanie": 0.1, "receding": 0.03}.get(style, 0.09)
    base = identity.cloth[::-1] if style == "beanie" else identity.hair
    crown = _arc(1.04 + 0.6 * volume, -1.30 - volume, -0.1)
    line = np.linspace(1, -1, 11)
    if style == "beanie":
        edge = np.column_stack((0.99 * line, -0.66 + 0.1 * line**2))
    else:
        edge = _hairline(style, marks)
    front = surface(edge)
    cap = np.concatenate((curve(crown, steps=3), curve(front, steps=3)))
    color = base * (light.ambient + 0.25)
    canvas.fill(cap, color, 1.0, 0.012)
    canvas.clip = canvas.mask(cap)
    side = light.x * 0.5
    shine = [
        (side - 0.5, -1.2, 0.3),
        (side, -1.32, 0.3),
        (side + 0.5, -1.2, 0.3),
        (side, -1.05, 0.4),
    ]
    canvas.fill(shine, np.minimum(255, base * 1.35 + 22), 0.5, 0.12)
    if style == "beanie":
        ribs = [np.asarray([(x, -1.5, 0.3), (x, -0.5, 0.5)]) for x in np.linspace(-1, 1, 15)]
        canvas.lines(ribs, color * 0.7, 0.04, 0.5)
    else:
        _strands(canvas, color, style, marks)
    canvas.clip = None
    if style == "long":
        for flip in (-1, 1):
            lock = [
                (1.0, -0.6),
                (0.9, -0.2),
                (1.0, 0.5),
                (0.95, 1.6),
                (1.3, 1.9),
                (1.32, 0.3),
                (1.2, -0.7),
            ]
            points = np.column_stack((np.asarray(lock) * (flip, 1), np.full(7, 0.0)))
            canvas.fill(curve(points, closed=True, steps=3), color * 0.92)


def _strands(
    canvas: _Canvas, color: NDArray[np.float64], style: str, marks: np.random.Generator
) -> None:
    curl = 0.12 if style == "curly" else 0.02
    for tone, count in ((0.6, 24), (1.35, 14)):
        paths = []
        for x in marks.uniform(-1.1, 1.1, count):
            wave = marks.normal(0, curl, 4)
            path = np.column_stack(
                (x * np.asarray((0.4, 0.8, 1.0, 1.05)) + wave, (-1.5, -1.15, -0.8, -0.4))
            )
            paths.append(curve(np.column_stack((path, np.full(4, 0.25))), steps=3))
        canvas.lines(paths, np.minimum(255, color * tone), 0.02, 0.5)


def _glasses(canvas: _Canvas, identity: Identity, landmarks: Points) -> None:
    if not identity.glasses:
        return
    circle = np.linspace(0, 2 * np.pi, 25)
    power = 1.0 if identity.glasses == "round" else 0.45
    rim_x = np.sign(np.cos(circle)) * np.abs(np.cos(circle)) ** power * 0.3
    rim_y = np.sign(np.sin(circle)) * np.abs(np.sin(circle)) ** power * 0.23
    paths = []
    for first in (36, 42):
        middle = landmarks[first : first + 6].mean(axis=0) + (0, 0.03, 0.08)
        paths.append(middle + np.column_stack((rim_x, rim_y, 0 * circle)))
    left, right = (path.mean(axis=0) for path in paths)
    paths.append(np.asarray([left + (0.3, -0.04, 0), right + (-0.3, -0.04, 0)]))
    for side, middle in ((-1, left), (1, right)):
        paths.append(np.asarray([middle + (side * 0.3, -0.05, 0), (side * 1.06, -0.08, -0.1)]))
    canvas.lines(paths, identity.glasses_color, 0.045, 0.95)


def _photograph(
    pixels: NDArray[np.float32], size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The camera: tint, exposure, lens blur, down to the final size, noise of the sensor."""
    tint = rng.uniform(0.92, 1.08, 3) * rng.uniform(0.85, 1.15)
    picture = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    picture = 127 + (picture * tint - 127) * rng.uniform(0.85, 1.1)
    picture = picture.astype(np.float32)
    lens = rng.uniform(0.0, 0.55) * np.sqrt(size / 64)
    if lens > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), lens)
    grain = rng.standard_normal((size, size, 1)) * rng.uniform(0.5, 4.0)
    colored = rng.standard_normal((size, size, 3)) * rng.uniform(0.2, 1.2)
    return np.clip(np.rint(picture + grain + colored), 0, 255).astype(np.uint8)
