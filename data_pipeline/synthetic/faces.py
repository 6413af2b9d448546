"""Drawn faces: varied people in varied light, for a demo that needs no photograph.

A face is painted back to front on a canvas of twice the size, shaded as an ellipsoid under one
lamp, and taken by a camera with blur, tint and noise. `anatomy` says where things lie, `rendering`
how they are painted. All of it is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_pipeline.synthetic.anatomy import (
    FaceFrame,
    Identity,
    Points,
    curve,
    draw_frame,
    draw_identity,
    landmarks_of,
    project,
    surface,
)
from data_pipeline.synthetic.rendering import (
    RING,
    SUPERSAMPLING,
    Canvas,
    Light,
    paint_background,
    photograph,
    smooth_noise,
)

__all__ = ["Identity", "draw_face", "draw_identity"]


def draw_face(
    identity: Identity, rng: np.random.Generator, size: int = 64
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draws a person in a pose, a light and a place that `rng` decides.

    Args:
      identity: who; see `draw_identity`.
      rng: everything else. Equal generators give equal pictures.
      size: side in pixels, 32 or more.

    Returns:
      The picture, RGB uint8 [size, size, 3], and its landmarks (x, y) in pixels, float32 [68, 2],
      in the order of iBUG 300-W and inside the picture.
    """
    frame, light = draw_frame(rng), Light(rng)
    landmarks = landmarks_of(identity, frame)
    canvas = Canvas(size * SUPERSAMPLING, frame)
    marks = np.random.default_rng(identity.marks)
    paint_background(canvas, rng)
    _hair_behind(canvas, identity)
    head = np.concatenate((curve(landmarks[:17], steps=3), _crown()))
    neck_and_ears = _neck_and_ears(canvas, identity)
    canvas.fill(head, identity.skin)
    canvas.clip = canvas.mask(head)
    _skin(canvas, identity, landmarks, marks)
    _beard(canvas, identity, landmarks, marks)
    canvas.clip = None
    _nose(canvas, identity, landmarks, light)
    _mouth(canvas, identity, frame, landmarks)
    _eyes(canvas, identity, frame, landmarks)
    canvas.shade(light, canvas.mask(head, *neck_and_ears))
    _hair(canvas, identity, light, marks)
    _glasses(canvas, identity, landmarks)
    points = project(landmarks, frame) * size - 0.5
    return photograph(canvas, size, rng), np.clip(points, 0, size - 1).astype(np.float32)


def _flat(points: object, depth: float) -> Points:
    """Points [K, 2] of something that is not on the face, all at one depth: [K, 3]."""
    array = np.asarray(points, np.float64)
    return np.column_stack((array, np.full(len(array), depth)))


def _disc(x: float, y: float, width: float, height: float) -> Points:
    return np.add(RING * (width, height), (x, y))


def _arch(width: float, top: float, feet: float) -> Points:
    """Draws an arch over the head from left to right, [15, 2]: its feet at (+-width, feet)."""
    t = np.linspace(0, np.pi, 15)
    return np.column_stack((-width * np.cos(t), feet - (feet - top) * np.sin(t) ** 0.9))


def _crown() -> Points:
    return curve(_flat(_arch(0.99, -1.28, -0.2)[-2:0:-1], 0.05), steps=3)


def _hair_behind(canvas: Canvas, identity: Identity) -> None:
    dark = identity.hair * 0.6
    if identity.hair_style == "long":
        outline = np.concatenate((_arch(1.28, -1.5, 0.3), [(1.3, 2.4), (-1.3, 2.4)]))
        canvas.fill(_flat(outline, -0.4), dark)
    elif identity.hair_style == "curly":
        for x, y in _arch(1.2, -1.4, 0.1):
            canvas.fill(_flat(_disc(x, y, 0.3, 0.3), -0.2), dark)


def _neck_and_ears(canvas: Canvas, identity: Identity) -> list[Points]:
    """Paints neck, shirt and ears; gives the outlines of the skin among them."""
    skin = identity.skin
    neck = _flat(
        [(-0.55, 0.6), (0.55, 0.6), (0.6, 1.7), (0.75, 2.6), (-0.75, 2.6), (-0.6, 1.7)], -0.1
    )
    canvas.fill(neck, skin * 0.86)
    shadow = [(-0.5, 0.8), (0.5, 0.8), (0.5, 1.5), (0, 1.62), (-0.5, 1.5)]
    canvas.fill(_flat(shadow, 0.0), skin * 0.5, 0.7, 0.08)
    collar = [(-2.6, 2.0), (-0.7, 1.66), (-0.25, 1.95), (0.25, 1.95), (0.7, 1.66), (2.6, 2.0)]
    canvas.fill(_flat([*collar, (2.6, 3.2), (-2.6, 3.2)], -0.1), identity.cloth)
    ears = [_flat(_disc(side, 0.12, 0.13, 0.26), -0.1) for side in (-1.0, 1.0)]
    for side, ear in zip((-1, 1), ears, strict=True):
        canvas.fill(ear, skin * 0.93)
        canvas.fill(_flat(_disc(side * 1.03, 0.12, 0.05, 0.15), -0.1), skin * 0.7, 0.7, 0.02)
    return [neck, *ears]


def _skin(
    canvas: Canvas, identity: Identity, landmarks: Points, marks: np.random.Generator
) -> None:
    """Blotches, pores, blush, hollows of the eyes, freckles and the lines of age."""
    skin, age = identity.skin, identity.age
    tones = np.asarray((2.0, 3.5, 3.0), np.float32)
    blotches = smooth_noise(canvas.side, 9, marks)[..., None] * tones
    pores = smooth_noise(canvas.side, 80, marks)[..., None] * np.float32(1 + 2.5 * age)
    canvas.add(blotches + pores)
    for side, eye in ((-1, landmarks[36:42]), (1, landmarks[42:48])):
        canvas.fill(
            _disc(side * 0.56, 0.48, 0.26, 0.2), skin * (0.98, 0.74, 0.72), identity.blush, 0.12
        )
        x, y, _ = eye.mean(axis=0)
        canvas.fill(_disc(x, y - 0.04, 0.26, 0.17), skin * (0.68, 0.58, 0.56), 0.45, 0.06)
    count = int(50 * identity.freckles)
    if count:
        places = marks.normal((0, 0.32), (0.42, 0.2), (count, 2))
        canvas.dots(places, 0.016, skin * (0.72, 0.58, 0.5), 0.7)
    if age > 0.3:
        folds = _folds(landmarks, marks)
        opacity = min(0.75, 0.9 * (age - 0.15))
        canvas.lines(folds, skin * (0.55, 0.45, 0.42), 0.025, opacity, 0.012)


def _folds(landmarks: Points, marks: np.random.Generator) -> list[Points]:
    """Draws the lines of the forehead, from the nose to the mouth, and beside the eyes."""
    x = np.linspace(-0.5, 0.5, 7)
    folds = [
        np.column_stack((x * marks.uniform(0.7, 1.1), y + 0.05 * x**2 + marks.normal(0, 0.012, 7)))
        for y in (-0.62, -0.74, -0.86)
    ]
    for side, corner, wing, outer in ((-1, 48, 31, 36), (1, 54, 35, 45)):
        start, end, eye = landmarks[wing, :2], landmarks[corner, :2], landmarks[outer, :2]
        away = np.asarray([(0.05 * side, -0.05), (0.13 * side, -0.02), (0.1 * side, 0.06)])
        folds.append(curve(away + np.stack((start, (start + end) / 2, end))))
        folds += [np.add(eye, [(0.05 * side, dy), (0.16 * side, 2 * dy)]) for dy in (-0.03, 0.03)]
    return folds


def _beard(
    canvas: Canvas, identity: Identity, landmarks: Points, marks: np.random.Generator
) -> None:
    color = identity.hair * 0.85
    flat = landmarks[:, :2]
    if identity.beard:
        below = np.add(flat[[54, 55, 57, 59, 48]], [(0.2, -0.1), *3 * [(0, 0.06)], (-0.2, -0.1)])
        canvas.fill(np.concatenate((flat[3:14], below)), color, identity.beard, 0.05)
        roots = marks.uniform((-0.8, 0.85), (0.8, 1.4), (60, 2))
        tips = roots + np.column_stack((marks.normal(0, 0.02, 60), np.full(60, 0.07)))
        hairs = np.stack((roots, tips), axis=1)
        canvas.lines(hairs, color * 0.6, 0.02, 0.5 * identity.beard)
    if identity.moustache:
        under_nose = np.add(flat[33], [(0.18, 0.08), (-0.18, 0.08)])
        arch = np.concatenate((flat[48:55] - (0, 0.02), under_nose))
        canvas.fill(arch, color, identity.moustache, 0.025)


def _nose(canvas: Canvas, identity: Identity, landmarks: Points, light: Light) -> None:
    skin = identity.skin
    dark, bright = skin * (0.62, 0.52, 0.48), np.minimum(255, skin * 1.15 + 14)
    ridge, base = landmarks[27:31], landmarks[31:36]
    away = 1.0 if light.x < 0 else -1.0  # the side in shadow
    wing = base[4 if away > 0 else 0]
    shadow = np.stack((ridge[0], ridge[2], ridge[3], base[2], wing, wing, ridge[1]))
    shadow[5:, :2] += [(0.02 * away, -0.12), (0.09 * away, 0)]
    canvas.fill(shadow, dark, 0.35 + 0.2 * abs(light.x), 0.035)
    canvas.lines([ridge], bright, 0.07, 0.5, 0.03)
    canvas.fill(ridge[3] + _flat(_disc(0, 0, 0.07, 0.05), 0.0), bright, 0.45, 0.03)
    under = np.concatenate((base, np.add(base[::-1], (0, 0.07, -0.05))))
    canvas.fill(under, dark, 0.5, 0.03)
    for side, end in ((-1, base[0]), (1, base[4])):
        edge = np.add(end, [(0, -0.15, 0), (0.05 * side, -0.06, 0), (0.01 * side, 0.02, 0)])
        canvas.lines([curve(edge)], dark, 0.035, 0.75, 0.01)
    for middle in base[[1, 3]]:
        nostril = middle + _flat(_disc(0, 0, 0.048, 0.026), 0.0)
        canvas.fill(nostril, skin * (0.3, 0.2, 0.18), 0.9, 0.008)


def _mouth(canvas: Canvas, identity: Identity, frame: FaceFrame, landmarks: Points) -> None:
    lips, skin = identity.lips, identity.skin
    outer, inner = landmarks[48:60], landmarks[60:68]
    canvas.lines([np.add(outer[7:12], (0, 0.08, 0))], skin * 0.55, 0.06, 0.4, 0.04)
    if frame.mouth_open > 0.012:
        canvas.fill(inner, (52, 18, 20))
        edge = np.add(inner[[3, 2, 1]], (0, min(0.08, 0.55 * frame.mouth_open), 0))
        canvas.fill(np.concatenate((inner[1:4], edge)), (232, 226, 214), 0.95)
    upper = np.concatenate((curve(outer[:7]), curve(inner[4::-1])))
    lower = np.concatenate((curve(outer[[6, 7, 8, 9, 10, 11, 0]]), curve(inner[[0, 7, 6, 5, 4]])))
    canvas.fill(upper, lips * 0.86, 1.0, 0.008)
    canvas.fill(lower, lips, 1.0, 0.008)
    middle = outer[[8, 9, 10]] * 0.55 + inner[[5, 6, 7]] * 0.45
    canvas.lines([middle], np.minimum(255, lips * 1.25 + 22), 0.045, 0.55, 0.018)
    canvas.lines([curve(inner[:5])], lips * (0.45, 0.35, 0.38), 0.035, 0.95)
    corners = [np.add(end, [(-0.03, -0.02, 0), (0.03, 0.02, 0)]) for end in outer[[0, 6]]]
    canvas.lines(corners, skin * 0.5, 0.04, 0.5, 0.015)


def _eyes(canvas: Canvas, identity: Identity, frame: FaceFrame, landmarks: Points) -> None:
    skin, iris = identity.skin, identity.iris
    for eye in (landmarks[36:42], landmarks[42:48]):
        outline = curve(eye, closed=True, steps=4)
        upper = curve(eye[:4])
        canvas.fill(outline, (236, 232, 228))
        canvas.clip = canvas.mask(outline)
        x, y = eye[:, :2].mean(axis=0) + np.multiply(frame.gaze, (0.22, 0.1)) - (0, 0.012)
        canvas.fill(_disc(x, y, 0.098, 0.098), iris * 0.55)
        canvas.fill(_disc(x, y, 0.082, 0.082), iris)
        canvas.fill(_disc(x, y, 0.042, 0.042), (10, 8, 8))
        canvas.lines([np.add(upper, (0, 0.02, 0))], (40, 30, 30), 0.06, 0.45, 0.02)
        canvas.fill(_disc(x - 0.03, y - 0.03, 0.018, 0.018), (255, 255, 255), 0.9)
        canvas.clip = None
        canvas.lines([upper], skin * 0.12 + 8, 0.042)
        canvas.lines([curve(eye[[3, 4, 5, 0]])], skin * 0.45, 0.022, 0.6)
        crease = np.subtract(upper, (0, 0.07, 0))
        canvas.lines([crease], skin * (0.55, 0.45, 0.42), 0.025, 0.6, 0.012)
    taper = identity.brow_thick * np.asarray((0.35, 0.8, 1.0, 1.1, 1.0)) / 2
    for brow, weights in ((landmarks[17:22], taper), (landmarks[22:27], taper[::-1])):
        up = np.outer(weights, (0, 1, 0))
        shape = np.concatenate((curve(brow - up, steps=3), curve((brow + up)[::-1], steps=3)))
        canvas.fill(shape, identity.hair * 0.6, 0.88, 0.012)


def _hairline(style: str, marks: np.random.Generator) -> Points:
    """Draws the front edge of the hair from right to left, [K, 2]."""
    u = np.linspace(1, -1, 11)
    if style == "beanie":
        return np.column_stack((0.99 * u, -0.66 + 0.1 * u**2))
    if style == "fringe":
        y = -0.50 + marks.normal(0, 0.05, 11) + 0.15 * np.abs(u) ** 4
    elif style == "side":
        y = -0.78 + 0.28 * (u * marks.choice((-1, 1))) + 0.05 * np.abs(u)
    elif style == "receding":
        y = -1.07 + 0.10 * np.cos(1.5 * np.pi * u)
    else:
        y = -0.90 + 0.22 * u**2 + marks.normal(0, 0.015, 11)
    edge = np.column_stack((0.90 * u, y + 0.28 * np.abs(u) ** 6))
    return np.concatenate(([(0.99, 0.0)], edge, [(-0.99, 0.0)]))


def _hair(canvas: Canvas, identity: Identity, light: Light, marks: np.random.Generator) -> None:
    style = identity.hair_style
    if style == "bald":
        return
    volume = {"curly": 0.2, "long": 0.16, "beanie": 0.1, "receding": 0.03}.get(style, 0.09)
    base = identity.cloth[::-1] if style == "beanie" else identity.hair
    color = base * (light.ambient + 0.25)
    crown = _flat(_arch(1.04 + 0.6 * volume, -1.30 - volume, -0.1), 0.05)
    hairline = surface(_hairline(style, marks))
    hairline[:, 2] *= 1 - hairline[:, 0] ** 4  # meets the crown at the temples in any pose
    cap = np.concatenate((curve(crown, steps=3), curve(hairline, steps=3)))
    canvas.fill(cap, color, 1.0, 0.012)
    canvas.clip = canvas.mask(cap)
    x = 0.5 * light.x
    shine = _flat([(x - 0.5, -1.2), (x, -1.32), (x + 0.5, -1.2), (x, -1.05)], 0.3)
    canvas.fill(shine, np.minimum(255, base * 1.35 + 22), 0.5, 0.12)
    if style == "beanie":
        ribs = [[(x, -1.5, 0.3), (x, -0.5, 0.5)] for x in np.linspace(-1, 1, 15)]
        canvas.lines(ribs, color * 0.7, 0.04, 0.5)
    else:
        curl = 0.1 if style == "curly" else 0.02
        for tone, count in ((0.65, 24), (1.25, 14)):
            strands = _strands(count, curl, marks)
            canvas.lines(strands, np.minimum(255, color * tone), 0.02, 0.45)
    canvas.clip = None
    if style == "long":
        lock = np.asarray(
            [(1, -0.6), (0.9, -0.2), (1, 0.5), (0.95, 1.6), (1.3, 1.9), (1.32, 0.3), (1.2, -0.7)]
        )
        for side in (-1, 1):
            points = _flat(lock * (side, 1), 0.0)
            canvas.fill(curve(points, closed=True, steps=3), color * 0.92)


def _strands(count: int, curl: float, marks: np.random.Generator) -> NDArray[np.float64]:
    """Lines of hair from the crown downwards, [count, 4, 3]."""
    strands = np.full((count, 4, 3), 0.25)
    spread = np.outer(marks.uniform(-1.1, 1.1, count), (0.4, 0.8, 1.0, 1.05))
    strands[..., 0] = spread + marks.normal(0, curl, (count, 4))
    strands[..., 1] = (-1.5, -1.15, -0.8, -0.4)
    return strands


def _glasses(canvas: Canvas, identity: Identity, landmarks: Points) -> None:
    if not identity.glasses:
        return
    power = 1.0 if identity.glasses == "round" else 0.45
    rim = np.sign(RING) * np.abs(RING) ** power * (0.3, 0.23)
    closed = np.concatenate((rim, rim[:1]))
    left, right = (landmarks[i : i + 6].mean(axis=0) + np.array((0, 0.03, 0.08)) for i in (36, 42))
    paths = [middle + _flat(closed, 0.0) for middle in (left, right)]
    paths.append(np.stack((np.add(left, (0.3, -0.04, 0)), np.add(right, (-0.3, -0.04, 0)))))
    for side, middle in ((-1, left), (1, right)):
        paths.append(np.stack((np.add(middle, (0.3 * side, -0.05, 0)), (1.06 * side, -0.08, -0.1))))
    canvas.lines(paths, identity.glasses_color, 0.045, 0.95)
