"""Heat maps: the face as the model saw it, and a prediction's maps drawn over it.

Each map is scaled to its own range: its lowest patch shows the face alone, its highest the strongest color. So
it shows where, never how sure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Float, UInt8

from jax_vlffd.inference.detector import Prediction
from jax_vlffd.preprocessing import square_view

SIDE: Final = 256
_MARGIN, _LINE, _LINES = 8, 16, 4
#: How much of a patch's own color the hottest patch covers.
_STRENGTH: Final = 0.65


@dataclass(frozen=True)
class Panel:
    """An RGB picture and its title."""

    title: str
    image: UInt8[np.ndarray, "{SIDE} {SIDE} 3"]


def panels(
    crop: UInt8[np.ndarray, "H W 3"], prediction: Prediction, maps: bool = True
) -> list[Panel]:
    """The face, the classifier's map, and a map for each reason.

    Args:
      crop: RGB, of which the prediction was made.
      prediction: with its maps.
      maps: False gives the face alone.
    """
    face = square_view(crop, SIDE)
    shown = [Panel(f"The face as judged: {prediction.verdict}", face)]
    if not maps:
        return shown
    if prediction.classifier_map is not None:
        shown.append(
            Panel("Where the classifier finds it fake", heat(face, prediction.classifier_map))
        )
    for reason, values in zip(prediction.reasons, prediction.reason_maps, strict=True):
        against = " (contradicts the verdict)" if reason.contradiction else ""
        shown.append(Panel(f"“{reason.text}”{against}", heat(face, values)))
    return shown


def heat(
    face: UInt8[np.ndarray, "H H 3"], values: Float[np.ndarray, "G G"]
) -> UInt8[np.ndarray, "H H 3"]:
    """Draws a map over an RGB face; higher values are hotter, and nothing is drawn where it is NaN."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    relative = (values - low) / (high - low) if high > low else np.zeros_like(values)
    relative = np.nan_to_num(relative)
    side = face.shape[0]
    smooth = cv2.resize(relative.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    shown = np.isfinite(values).astype(np.float32)
    smooth = np.clip(smooth, 0.0, 1.0) * cv2.resize(
        shown, (side, side), interpolation=cv2.INTER_NEAREST
    )
    colors = cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = (_STRENGTH * smooth)[..., None]
    return np.round(face * (1 - weight) + colors * weight).astype(np.uint8)


def sheet(shown: list[Panel]) -> bytes:
    """Panels side by side with their titles, as a PNG."""
    width = _MARGIN + len(shown) * (SIDE + _MARGIN)
    page = PIL.Image.new("RGB", (width, SIDE + 2 * _MARGIN + _LINES * _LINE + _MARGIN), "white")
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(13)
    for number, panel in enumerate(shown):
        left = _MARGIN + number * (SIDE + _MARGIN)
        page.paste(PIL.Image.fromarray(panel.image), (left, _MARGIN))
        for row, text in enumerate(textwrap.wrap(panel.title, 38)[:_LINES]):
            draw.text((left, SIDE + 2 * _MARGIN + row * _LINE), text, "black", font)
    ok, data = cv2.imencode(".png", np.asarray(page)[..., ::-1])
    assert ok  # a plain RGB picture
    return bytes(data)


def numbered(
    picture: UInt8[np.ndarray, "H W 3"], boxes: Sequence[Sequence[float] | None], scale: float
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of a picture with a numbered frame around each face.

    Args:
      picture: RGB.
      boxes: left, top, right, bottom of each face; None draws nothing.
      scale: factor from the boxes' pixels to the picture's.
    """
    page = PIL.Image.fromarray(picture)
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(15)
    for number, box in enumerate(boxes, start=1):
        if box is not None:
            corners = [scale * float(value) for value in box]
            draw.rectangle(corners, outline="black", width=4)
            draw.rectangle(corners, outline="white", width=2)
            corner = (corners[0] + 5, corners[1] + 3)
            draw.text(corner, str(number), "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(page)


def jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An RGB image as a JPEG."""
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok
    return bytes(data)
