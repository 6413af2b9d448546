"""A page to look at annotations by: real, fake, mask, outlines, evidence and words, side by side.

The page is one HTML file that loads nothing from elsewhere. Every text in it is escaped, and its
content security policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from data_pipeline.core.files import atomic_write_text
from data_pipeline.fftg.refine.grounding import forged_regions
from data_pipeline.fftg.refine.redaction import redacted
from jax_vlffd.vocabulary import CAPTION_SOURCES, REGIONS, TYPES

Image = npt.NDArray[np.uint8]
Line = Mapping[str, Any]

_SIDE = 224  # pixels of each picture on the page
_MASK_GAIN = 4.0  # most forgeries change a quarter of the grey levels at most
_JPEG_QUALITY = 88
_FORGED, _UNTOUCHED = (255, 40, 40), (60, 190, 90)  # RGB of outlines


class Pictures(NamedTuple):
    """What is shown of a pair, all of one size.

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
    """Writes the page.

    Args:
      lines: annotation lines; a random sample of them is shown, in their order.
      path: the HTML file.
      show: gives the pictures of a line, or None where there is nothing to see (a real face alone);
        whatever it raises, the page says so.
      sample: how many lines at most.
      seed: which sample.

    Returns:
      How many lines the page shows.
    """
    chosen = sorted(random.Random(seed).sample(range(len(lines)), min(sample, len(lines))))
    cards = "\n".join(_card(lines[place], show) for place in chosen)
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    page = (
        _PAGE.replace("@HASH@", digest)
        .replace("@STYLE@", _STYLE)
        .replace("@COUNT@", f"{len(chosen)} of {len(lines)}")
        .replace("@REGIONS@", _options(REGIONS))
        .replace("@TYPES@", _options(TYPES))
        .replace("@SOURCES@", _options((*CAPTION_SOURCES, "error")))
        .replace("@SCRIPT@", _SCRIPT)
        .replace("@CARDS@", cards)  # last: what a card says is never searched for a mark
    )
    atomic_write_text(path, page)
    return len(chosen)


def outlined(image: Image, labels: Image, forged: set[str]) -> Image:
    """Returns a copy of the image with the outline of each region: red where it is forged.

    Args:
      image: RGB uint8 [H, W, 3].
      labels: uint8 [H, W], 1 + index in REGIONS.
      forged: names of forged regions.
    """
    drawn = image.copy()
    # The face by its outer line alone: around an organ, the line says what the organ is.
    for name in sorted(REGIONS, key=lambda name: (name != "face", name in forged)):
        inside = labels > 0 if name == "face" else labels == 1 + REGIONS.index(name)
        contours, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        color, width = (_FORGED, 2) if name in forged else (_UNTOUCHED, 1)
        cv2.drawContours(drawn, contours, -1, color, width)
    return drawn


def _card(line: Line, show: Callable[[Line], Pictures | None]) -> str:
    found = forged_regions(line)
    forged, types = set(found), {kind for kinds in found.values() for kind in kinds}
    source = "error" if not line.get("caption") else str(line.get("source"))
    try:
        pictures = show(line)
        figures = "" if pictures is None else _figures(pictures, forged)
    except Exception as error:  # the others are shown whatever is wrong with this one
        figures = f'<p class="error">{escape(str(error) or type(error).__name__)}</p>'
    about = [("real", line.get("real")), ("fake", line.get("fake"))]
    about += [(name, line.get(name)) for name in ("dataset", "method", "video", "frame", "split")]
    known = " · ".join(f"{name} {escape(str(value))}" for name, value in about if value)
    words = [("caption", line.get("caption"))]
    if line.get("raw_caption") != line.get("caption"):
        words.append(("raw caption", line.get("raw_caption")))
    reason = _mapping(line.get("refinement")).get("reason")
    words += [("refinement", reason), ("error", line.get("error"))]
    # Lines of older versions may hold what an endpoint said of the key.
    said = "".join(
        f"<p><b>{name}</b> {escape(redacted(str(text)))}</p>" for name, text in words if text
    )
    return (
        f'<article data-regions="{" ".join(sorted(forged))}" data-types="{" ".join(sorted(types))}" '
        f'data-source="{escape(source)}">\n'
        f"<h2>{escape(str(line.get('id')))} <small>{escape(source)}</small></h2>\n"
        f"<p class=about>{known}</p>\n{figures}\n{said}\n{_evidence(line, found)}\n</article>"
    )


def _figures(pictures: Pictures, forged: set[str]) -> str:
    grey = np.clip(pictures.mask * (255 * _MASK_GAIN), 0, 255).astype(np.uint8)
    mask = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    shown = (
        ("real", pictures.real),
        ("fake", pictures.fake),
        (f"mask x{_MASK_GAIN:g}", mask.astype(np.uint8)),
        ("regions", _outlined_large(pictures, forged)),
    )
    return "<div>" + "".join(_figure(name, image) for name, image in shown) + "</div>"


def _outlined_large(pictures: Pictures, forged: set[str]) -> Image:
    """Outlines at the page's own size: lines drawn on a small picture would blur."""
    size = _page_size(pictures.fake)
    fake = cv2.resize(pictures.fake, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    labels = cv2.resize(pictures.labels, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return outlined(fake, labels, forged)


def _page_size(image: Image) -> tuple[int, int]:
    scale = _SIDE / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def _figure(name: str, image: Image) -> str:
    size = _page_size(image)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return (
        f'<figure><img src="{url}" alt="{name}" width={size[0]} height={size[1]}>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    """A value of a line where it is an object; a stranger's line may hold anything."""
    return value if isinstance(value, Mapping) else {}


def _evidence(line: Line, forged: Mapping[str, Sequence[str]]) -> str:
    """A table of scores against thresholds, a row a region; what was found is bold."""
    rows = []
    for name in REGIONS:
        found = _mapping(_mapping(line.get("regions")).get(name))
        if not found:
            continue
        evidence = _mapping(found.get("evidence"))
        mask = {"score": found.get("score"), **_mapping(evidence.get("mask"))}
        cells = [_cell(mask, name in forged)]
        cells += [_cell(evidence.get(kind), kind in forged.get(name, ())) for kind in TYPES]
        rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    if not rows:
        return ""
    heads = "".join(f"<th>{name}</th>" for name in ("", "mask", *TYPES))
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _cell(evidence: Any, found: bool) -> str:
    if not isinstance(evidence, Mapping):
        return "<td></td>"
    numbers = [evidence.get(name) for name in ("score", "threshold")]
    text = " / ".join(f"{n:.3g}" for n in numbers if isinstance(n, int | float))
    return f"<td>{f'<b>{text}</b>' if found else text}</td>"


def _options(names: Sequence[str]) -> str:
    return "".join(f"<option>{name}</option>" for name in names)


_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 0 auto; max-width: 1000px; padding: 0 1rem 4rem }
header { position: sticky; top: 0; background: Canvas; padding: .5rem 0; border-bottom: 1px solid }
label { margin-right: 1rem }
article { border-bottom: 1px solid #8886; padding: 1rem 0 }
article[hidden] { display: none }
h1 { font-size: 1.3rem; margin: 0 0 .5rem } h2 { font-size: 1rem; margin: 0 } small { opacity: .7 }
p { margin: .3rem 0; overflow-wrap: anywhere } .about { opacity: .7; font-size: .85rem }
article > div { display: flex; flex-wrap: wrap; gap: .5rem } figure { margin: .5rem 0 }
figcaption { font-size: .8rem; opacity: .7 } .error { color: #d33 }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums }
td, th { padding: .1rem .6rem; text-align: right } th { font-weight: 500; opacity: .7 }
"""
_SCRIPT: Final = """
const selects = [...document.querySelectorAll("select")];
const cards = [...document.querySelectorAll("article")];
function filter() {
  let shown = 0;
  for (const card of cards) {
    card.hidden = !selects.every(s => {
      if (s.value === "") return true;
      const values = card.dataset[s.name].split(" ").filter(v => v);
      return s.value === "(none)" ? values.length === 0 : values.includes(s.value);
    });
    shown += !card.hidden;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
for (const s of selects) s.addEventListener("change", filter);
filter();
"""
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'sha256-@HASH@'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Annotations under review</title><style>@STYLE@</style></head><body>
<header><h1>Annotations: @COUNT@ lines</h1>
<label>region <select name="regions"><option value="">all</option><option>(none)</option>@REGIONS@\
</select></label>
<label>type <select name="types"><option value="">all</option><option>(none)</option>@TYPES@\
</select></label>
<label>source <select name="source"><option value="">all</option>@SOURCES@</select></label>
<span id="shown"></span>
<p class=about>Outlines: red is forged, green is not. Table: score / threshold, bold where found.</p>
</header>
@CARDS@
<script>@SCRIPT@</script></body></html>
"""
