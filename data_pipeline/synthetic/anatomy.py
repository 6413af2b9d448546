"""Anatomy of a drawn face: an identity's proportions, a frame's pose, 68 landmarks.

The unit is half the width of the face at the cheekbones; x grows to the right of the picture,
y downwards, z towards the viewer, and the origin lies between the eyes. Points lie on an ellipsoid,
so that turning the head moves them as it would on a real one. All of it is ours; the order of the
landmarks is that of iBUG 300-W (dlib's 68 points).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Color = NDArray[np.float64]

HAIR_STYLES: Final = ("short", "side", "fringe", "long", "curly", "receding", "bald", "beanie")

#: From light to dark.
_SKIN: Final = np.asarray(
    [(248, 220, 203), (238, 196, 168), (224, 172, 138), (196, 142, 104), (146, 98, 68), (92, 62, 46)],
    np.float64,
)  # fmt: skip
#: From black to blond, red, gray.
_HAIR: Final = np.asarray(
    [(28, 22, 20), (58, 38, 28), (98, 64, 40), (150, 110, 66), (206, 172, 112), (150, 70, 36),
     (160, 158, 154)], np.float64,
)  # fmt: skip
_IRIS: Final = np.asarray(
    [(62, 38, 22), (96, 64, 34), (84, 104, 62), (84, 122, 156), (112, 128, 136)], np.float64
)


@dataclass(frozen=True)
class Identity:
    """What stays the same from frame to frame. Colors are RGB in 0..255, lengths in face units."""

    skin: Color
    lips: Color
    iris: Color
    hair: Color
    cloth: Color
    hair_style: str
    jaw_width: float
    jaw_square: float
    chin: float
    eye_gap: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_height: float
    brow_arch: float
    brow_thick: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    age: float
    freckles: float
    blush: float
    beard: float
    moustache: float
    glasses: str
    glasses_color: Color
    marks: int
    """Seed of the places of freckles, wrinkles and strands."""


@dataclass(frozen=True)
class FaceFrame:
    """What changes from frame to frame. Angles are in radians, lengths in face units."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    """One face unit in shares of the picture's side."""
    center: tuple[float, float]
    smile: float
    mouth_open: float
    eyes_open: float
    brow_raise: float
    gaze: tuple[float, float]

    @functools.cached_property
    def view(self) -> tuple[Points, Points]:
        """The projection as `points @ matrix + offset`: [3, 2] and [2], in shares of the side."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.asarray([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        nod = np.asarray([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        tilt = np.asarray([[cos, -sin, 0], [sin, cos, 0]])
        matrix = (tilt @ nod @ turn * self.scale).T
        # The head turns about its own middle, which lies behind the face.
        return matrix, self.center - np.asarray((0, 0, 0.4)) @ matrix


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draws a person at random."""
    tone = rng.uniform(0, len(_SKIN) - 1)
    low = int(tone)
    skin = _SKIN[low] + (tone - low) * (_SKIN[min(low + 1, len(_SKIN) - 1)] - _SKIN[low])
    skin = np.clip(skin + rng.normal(0, 5, 3), 30, 252)
    painted = rng.random() < 0.2  # lipstick
    natural = skin * (0.90, 0.66, 0.66) + (8, -2, 2)
    lipstick = np.asarray((rng.uniform(110, 215), rng.uniform(20, 80), rng.uniform(40, 105)))
    age = rng.beta(1.2, 1.8)
    hair = _HAIR[rng.integers(len(_HAIR))]
    if age > 0.65 and rng.random() < 0.6:
        hair = _HAIR[-1]
    elif tone > 2.5 and rng.random() < 0.85:
        hair = _HAIR[rng.integers(2)]
    bearded = rng.random()
    return Identity(
        skin=skin,
        lips=0.5 * natural + 0.5 * lipstick if painted else natural,
        iris=np.clip(_IRIS[rng.integers(len(_IRIS))] + rng.normal(0, 10, 3), 10, 220),
        hair=np.clip(hair * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3), 8, 235),
        cloth=muted(rng, 20, 230),
        hair_style=str(rng.choice(HAIR_STYLES)),
        jaw_width=rng.uniform(0.86, 1.0),
        jaw_square=rng.uniform(0.55, 0.95),
        chin=rng.uniform(1.18, 1.42),
        eye_gap=rng.uniform(0.37, 0.43),
        eye_width=rng.uniform(0.165, 0.205),
        eye_open=rng.uniform(0.075, 0.10),
        eye_tilt=rng.uniform(-0.005, 0.025),
        brow_height=rng.uniform(0.22, 0.26),
        brow_arch=rng.uniform(0.02, 0.05),
        brow_thick=rng.uniform(0.035, 0.065),
        nose_width=rng.uniform(0.17, 0.22),
        nose_length=rng.uniform(0.44, 0.56),
        mouth_width=rng.uniform(0.32, 0.37),
        lip_upper=rng.uniform(0.05, 0.10),
        lip_lower=rng.uniform(0.07, 0.14),
        age=age,
        freckles=rng.uniform(0.3, 1.0) if rng.random() < 0.2 else 0.0,
        blush=rng.uniform(0.0, 0.35),
        beard=0.0 if painted or bearded < 0.7 else rng.uniform(0.3, 0.9),
        moustache=0.0 if painted or bearded < 0.65 else rng.uniform(0.3, 0.9),
        glasses=str(rng.choice(("", "", "", "", "round", "square"))),
        glasses_color=muted(rng, 5, 95),
        marks=int(rng.integers(2**31)),
    )


def muted(rng: np.random.Generator, low: float, high: float) -> Color:
    """Draws an RGB color that is less saturated than three independent channels would be."""
    return rng.uniform(low, high) + rng.uniform(0.2, 0.7) * (rng.uniform(low, high, 3) - low) / 2


def draw_frame(rng: np.random.Generator) -> FaceFrame:
    """Draws a pose and an expression at random, within what an aligned crop keeps."""
    return FaceFrame(
        yaw=float(np.clip(rng.normal(0, 0.10), -0.25, 0.25)),
        pitch=float(np.clip(rng.normal(0, 0.04), -0.10, 0.10)),
        roll=float(np.clip(rng.normal(0, 0.03), -0.08, 0.08)),
        scale=rng.uniform(0.365, 0.39),
        center=(0.5 + rng.uniform(-0.012, 0.012), 0.42 + rng.uniform(-0.012, 0.012)),
        smile=float(np.clip(rng.normal(0.3, 0.25), -0.2, 0.9)),
        mouth_open=float(max(0.0, rng.normal(-0.03, 0.05))),
        eyes_open=rng.uniform(0.85, 1.1),
        brow_raise=rng.normal(0, 0.012),
        gaze=(rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.15)),
    )


def surface(points: Points) -> Points:
    """Lifts points [K, 2] of the front of the head onto it: [K, 3]."""
    x, y = points[:, 0], points[:, 1]
    z = 0.95 * np.sqrt(np.maximum(0, 1 - (x / 1.06) ** 2 - (y / 1.75) ** 2))
    return np.column_stack((x, y, z))


def project(points: Points, frame: FaceFrame) -> Points:
    """Projects points [K, 3] in face units into a frame: [K, 2] in shares of the picture's side."""
    matrix, offset = frame.view
    return points @ matrix + offset


def landmarks_of(identity: Identity, frame: FaceFrame) -> Points:
    """Places the 68 landmarks of a person in a frame, in face units: [68, 3]."""
    parts = (
        _jaw(identity, frame),
        _brows(identity, frame),
        _nose(identity),
        _eyes(identity, frame),
        _mouth(identity, frame),
    )
    # No face is its own mirror image, so asymmetry alone must not give a forgery away.
    uneven = np.random.default_rng(identity.marks).normal(0, 0.016, (6, 2))
    flat = np.concatenate([part + shift for part, shift in zip(parts, uneven[:5], strict=True)])
    flat[[*range(17, 22), *range(36, 42)], 1] += uneven[5, 0]  # one eye higher than the other
    points = surface(flat)
    points[:17, 2] *= 0.8  # the outline lies a little behind the front
    points[27:31, 2] += (0.02, 0.10, 0.20, 0.28)
    points[31:36, 2] += (0.06, 0.12, 0.20, 0.12, 0.06)
    return points


def _jaw(identity: Identity, frame: FaceFrame) -> Points:
    t = np.linspace(0, np.pi, 17)
    chin = identity.chin + 0.5 * frame.mouth_open
    x = -np.sign(np.cos(t)) * np.abs(np.cos(t)) ** identity.jaw_square
    y = -0.12 + (chin + 0.12) * np.sin(t) ** 1.05
    narrow = 1 - (1 - identity.jaw_width) * np.sin(t)
    return np.column_stack((x * narrow, y))


def _brows(identity: Identity, frame: FaceFrame) -> Points:
    u = np.linspace(-1, 1, 5)
    arch = identity.brow_arch * (1 - (u + 0.2) ** 2) - 0.02 * u
    height = -(identity.brow_height + frame.brow_raise)
    left = np.column_stack((-identity.eye_gap + 0.27 * u, height - arch))
    return np.concatenate((left, left[::-1] * (-1, 1)))


def _nose(identity: Identity) -> Points:
    length, width = identity.nose_length, identity.nose_width
    bridge = np.column_stack((np.zeros(4), np.linspace(0.0, 0.80 * length, 4)))
    base = np.column_stack(
        (np.linspace(-width, width, 5), length - np.asarray((0.03, 0.0, -0.02, 0.0, 0.03)))
    )
    return np.concatenate((bridge, base))


def _eyes(identity: Identity, frame: FaceFrame) -> Points:
    width, tilt = identity.eye_width, identity.eye_tilt
    up = identity.eye_open * frame.eyes_open
    left = np.asarray(
        [(-1, 0.0), (-0.4, -1.0), (0.35, -1.0), (1, 0.0), (0.4, 0.65), (-0.4, 0.65)], np.float64
    ) * (width, up)
    left[:, 1] += tilt * left[:, 0] / width
    left += (-identity.eye_gap, 0.02)
    right = left[[3, 2, 1, 0, 5, 4]] * (-1, 1)
    return np.concatenate((left, right))


def _mouth(identity: Identity, frame: FaceFrame) -> Points:
    width = identity.mouth_width * (1 + 0.12 * frame.smile)
    y0 = identity.nose_length + 0.26 + 0.10 * (identity.chin - 1.18)
    gap, upper, lower = frame.mouth_open, identity.lip_upper, identity.lip_lower
    xs_top = np.asarray((-1.0, -0.6, -0.2, 0.0, 0.2, 0.6, 1.0))
    top = np.asarray((0.0, -0.65, -1.0, -0.82, -1.0, -0.65, 0.0)) * upper
    xs_low = np.asarray((0.6, 0.25, 0.0, -0.25, -0.6))
    low = np.asarray((0.7, 1.0, 1.05, 1.0, 0.7)) * lower + gap * np.asarray((0.7, 1, 1, 1, 0.7))
    inner_x = np.asarray((-0.85, -0.4, 0.0, 0.4, 0.85, 0.4, 0.0, -0.4))
    inner_y = np.asarray((0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 1.0, 0.9)) * gap
    x = np.concatenate((xs_top, xs_low, inner_x))
    y = np.concatenate((top, low, inner_y)) - 0.09 * frame.smile * (x**2 - 0.35)
    return np.column_stack((x * width, y0 + y))


@functools.cache
def _spline_basis(steps: int) -> Points:
    """Gives the weights of four neighboring points along a Catmull-Rom segment, [steps, 4]."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    powers = np.concatenate((np.ones_like(t), t, t**2, t**3), axis=1)
    return powers @ np.asarray([(0, 2, 0, 0), (-1, 0, 1, 0), (2, -5, 4, -1), (-1, 3, -3, 1)]) / 2


def curve(points: ArrayLike, closed: bool = False, steps: int = 5) -> Points:
    """Draws a smooth curve (Catmull-Rom) through points [K, D]: [about K * steps, D]."""
    array = np.asarray(points, np.float64)
    count = len(array)
    index = np.arange(-1, count + 2)
    padded = array[index % count] if closed else array[np.clip(index, 0, count - 1)]
    segments = count if closed else count - 1
    windows = np.lib.stride_tricks.sliding_window_view(padded[: segments + 3], 4, axis=0)
    path = (windows @ _spline_basis(steps).T).transpose(0, 2, 1).reshape(-1, array.shape[1])
    return path if closed else np.concatenate((path, array[-1:]))
