"""The review page of annotations: real, fake, mask, outlines, evidence and captions side by side.

The page is one self-contained HTML file. Every text in it is escaped, and its content security policy allows
no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from data_pipeline.fftg.refine.grounding import forged_regions
from data_pipeline.fftg.refine.redaction import redacted
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.vocabulary import CAPTION_SOURCES, REGIONS, TYPES

Image = npt.NDArray[np.uint8]
Line = Mapping[str, Any]

_SIDE = 224  # pixels of each picture on the page
_MASK_GAIN = 4.0  # most forgeries change a quarter of the gray levels at most
_JPEG_QUALITY = 88
_FORGED, _UNTOUCHED = (255, 40, 40), (60, 190, 90)  # RGB of outlines


class Pictures(NamedTuple):
    """The images shown of a pair, all of one size.

    Attributes:
      real: RGB uint8 [H, W, 3].
      fake: RGB uint8 [H, W, 3].
      mask: float [H, W] in [0, 1], the forgery mask.
      labels: uint8 [H, W], 0 outside the face, else 1 + index in REGIONS.
    """

    real: Image
    fake: Image
    mask: npt.NDArray[np.floating]
    labels: Image


def write_review(
    lines: Sequence[Line],
    path: Path,
    show: Callable[[Line], Pictures | None],
    sample: int = 100,
    seed: int = 0,
) -> int:
    """Writes the review page.

    Args:
      lines: annotation lines; a random sample of them is shown, in their order.
      path: the HTML file.
      show: returns the pictures of a line, or None where there is nothing to compare (a real face
        alone); the page shows the message of any exception.
      sample: maximum number of lines.
      seed: of the sample.

    Returns:
      The number of lines on the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    indices = sorted(random.Random(seed).sample(range(len(lines)), min(sample, len(lines))))
    templates = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script = templates.get_template("review.js.j2").render()
    page = templates.get_template("review.html.j2").render(
        cards=[_card(lines[index], show) for index in indices],
        total=len(lines),
        regions=REGIONS,
        types=TYPES,
        sources=(*CAPTION_SOURCES, "error"),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    atomic_write_text(path, page)
    return len(indices)


def outlined(image: Image, labels: Image, forged: set[str]) -> Image:
    """Returns a copy of the image with the outline of each region: red where it is forged.

    Args:
      image: RGB uint8 [H, W, 3].
      labels: uint8 [H, W], 1 + index in REGIONS.
      forged: names of forged regions.
    """
    drawn = image.copy()
    # Of the face only the outer contour: the line around an organ shows the state of the organ.
    for name in sorted(REGIONS, key=lambda name: (name != "face", name in forged)):
        inside = labels > 0 if name == "face" else labels == 1 + REGIONS.index(name)
        contours, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        color, width = (_FORGED, 2) if name in forged else (_UNTOUCHED, 1)
        cv2.drawContours(drawn, contours, -1, color, width)
    return drawn


def _card(line: Line, show: Callable[[Line], Pictures | None]) -> dict[str, Any]:
    """The template values of one line."""
    forged = forged_regions(line)
    figures, problem = [], ""
    try:
        pictures = show(line)
        if pictures is not None:
            figures = _figures(pictures, set(forged))
    except Exception as error:  # one broken line must not hide the others
        problem = str(error) or type(error).__name__
    about = ("real", "fake", "dataset", "method", "video", "frame", "split")
    words = [("caption", line.get("caption"))]
    if line.get("raw_caption") != line.get("caption"):
        words.append(("raw caption", line.get("raw_caption")))
    reason = _mapping(line.get("refinement")).get("reason")
    words += [("refinement", reason), ("error", line.get("error"))]
    return {
        "id": line.get("id"),
        "regions": list(forged),
        "types": {kind for kinds in forged.values() for kind in kinds},
        "source": "error" if not line.get("caption") else line.get("source"),
        "about": [(name, line[name]) for name in about if line.get(name)],
        "problem": problem,
        "figures": figures,
        # Lines of older versions may contain an API key that an endpoint repeated.
        "words": [(name, redacted(str(text))) for name, text in words if text],
        "evidence": _evidence(line, forged),
    }


def _figures(pictures: Pictures, forged: set[str]) -> list[tuple[str, dict[str, Any]]]:
    gray = np.clip(pictures.mask * (255 * _MASK_GAIN), 0, 255).astype(np.uint8)
    mask = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return [
        ("real", _encoded(pictures.real)),
        ("fake", _encoded(pictures.fake)),
        (f"mask x{_MASK_GAIN:g}", _encoded(mask.astype(np.uint8))),
        ("regions", _encoded(_outlined_large(pictures, forged))),
    ]


def _outlined_large(pictures: Pictures, forged: set[str]) -> Image:
    """Outlines drawn at the page's size: lines drawn on a small image would blur."""
    size = _page_size(pictures.fake)
    fake = cv2.resize(pictures.fake, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    labels = cv2.resize(pictures.labels, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return outlined(fake, labels, forged)


def _page_size(image: Image) -> tuple[int, int]:
    scale = _SIDE / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def _encoded(image: Image) -> dict[str, Any]:
    width, height = _page_size(image)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return {"jpeg": base64.b64encode(data).decode(), "width": width, "height": height}


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one: lines of other programs may hold anything."""
    return value if isinstance(value, Mapping) else {}


def _evidence(
    line: Line, forged: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Rows of (text, bold): scores and thresholds of each region's mask and types; bold where detected."""
    rows = []
    for name in REGIONS:
        region = _mapping(_mapping(line.get("regions")).get(name))
        if not region:
            continue
        evidence = _mapping(region.get("evidence"))
        mask = {"score": region.get("score"), **_mapping(evidence.get("mask"))}
        cells = [(_compared(mask), name in forged)]
        cells += [(_compared(evidence.get(kind)), kind in forged.get(name, ())) for kind in TYPES]
        rows.append((name, cells))
    return rows


def _compared(evidence: Any) -> str:
    numbers = [_mapping(evidence).get(name) for name in ("score", "threshold")]
    return " / ".join(f"{n:.3g}" for n in numbers if isinstance(n, int | float))
