"""The report of a case: one self-contained page on some pictures and videos, for a reader who must defend it.

Everything that comes from a file (names, EXIF, messages) is text of others' making and is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.reports import render as page
from jax_vlffd.reports.render import Markup, element
from jax_vlffd.vocabulary import TYPES

_STYLE: Final = """
.item { border-top: 2px solid #dde3e8; margin-top: 28px; padding-top: 6px; }
.item h2 { border: 0; margin: 12px 0 4px; overflow-wrap: anywhere; }
.verdict { font-size: 17px; margin: 8px 0; } .verdict .tag { font-size: 17px; padding: 2px 10px; }
.tag.none { background: #77838d; } .panels { display: flex; flex-wrap: wrap; gap: 12px; }
.panels figure { width: 232px; } .panels img { width: 100%; border-radius: 4px; display: block; }
.panels figcaption { font-weight: 400; font-size: 12.5px; margin-top: 4px; }
ul.reasons { margin: 4px 0 10px; padding-left: 20px; } .against { color: #a84300; font-weight: 600; }
.whole img { max-width: 520px; max-height: 420px; display: block; border-radius: 4px; }
.band { position: relative; height: 14px; background: #eef2f4; border-radius: 3px; max-width: 520px; }
.band i { position: absolute; top: 0; bottom: 0; background: #c9d2d9; }
.band b { position: absolute; top: -3px; bottom: -3px; width: 3px; background: #111; }
"""

LIMITS: Final = (
    "The probability is the model's, calibrated on the validation split it was trained beside. On other "
    "cameras, codecs, people or kinds of forgery it can be wrong, and it says nothing of how likely a forgery "
    "was to begin with.",
    "'Uncertain' means that the score lies where the validation split held too many reals above it, or too "
    "many fakes below it, for the error rate that the band was chosen for.",
    "Reasons are the sentences of a fixed bank that lie nearest to the picture in the space of image and text. "
    "They did not decide the verdict: the classifier did. A reason that speaks against the verdict is marked.",
    "Heat maps are drawn relative to themselves: they say where, not how sure. They are read off single "
    "patches, which mean something only in a model that learned from forgery masks (loss.local).",
    "A face counts as real when no forgery was found in the face. The rest of the picture, its caption and its "
    "origin were not examined.",
)


@dataclass(frozen=True)
class Shown:
    """A face as the report shows it: its line, and its panels as (title, encoded picture)."""

    line: Mapping[str, Any]
    panels: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Item:
    """One input: its closing line or, for a picture, that of its first face; its thumbnail; its faces.

    hidden: faces of a video that are not shown.
    """

    line: Mapping[str, Any]
    picture: bytes = b""
    faces: Sequence[Shown] = field(default_factory=list)
    hidden: int = 0


def render(
    items: Sequence[Item], facts: Mapping[str, str], band: tuple[float, float, float]
) -> str:
    """The page.

    Args:
      items: in order.
      facts: about the model and the run, shown at the top.
      band: low end of 'uncertain', threshold, high end.
    """
    counts: dict[str, int] = {}
    for item in items:
        verdict = str(item.line["verdict"])
        counts[verdict] = counts.get(verdict, 0) + 1
    told = ", ".join(f"{count} {_plain(verdict)}" for verdict, count in counts.items())
    pairs = [
        element("div", element("dt", name), element("dd", value)) for name, value in facts.items()
    ]
    body = [
        Markup(f"<style>{_STYLE}</style>"),
        element("h1", "Report on faces"),
        element("p", f"{len(items)} files: {told}."),
        element("dl", *pairs, class_="facts"),
        *(_item(item, band) for item in items),
        element("h2", "What this report can say, and what it cannot"),
        element("ul", *(element("li", limit) for limit in LIMITS)),
    ]
    return page.document("Report on faces", body)


def _item(item: Item, band: tuple[float, float, float]) -> Markup:
    line = item.line
    parts = [element("h2", str(line["path"]))]
    if item.picture:
        parts.append(
            element("div", page.picture(item.picture, "the whole picture"), class_="whole")
        )
    parts.append(element("dl", *_facts(line), class_="facts"))
    parts += [element("p", note, class_="note") for note in line.get("notes", ())]
    if line.get("message"):
        parts.append(_verdict(line, band))
        parts.append(element("p", str(line["message"])))
    elif line["kind"] == "video":
        parts += [element("h3", "The video as a whole"), _verdict(line, band), *_said(line)]
        drove = [
            f"frame {d['frame']}" + (f" ({d['second']} s)" if d["second"] is not None else "")
            + f": {d['probability']:.3f}"
            for d in line["drove"]
        ]  # fmt: skip
        if drove:
            parts.append(element("p", "Frames that drove it: " + "; ".join(drove)))
        if len(line["people"]) > 1:
            each = [
                f"person {p['person']}: {p['probability']:.3f} in {p['frames']} frames"
                for p in line["people"]
            ]
            parts.append(element("p", "People followed: " + "; ".join(each)))
    judged = [
        f for f in item.faces if f.line["verdict"] != "face_too_small" or len(item.faces) == 1
    ]
    parts += [_face(face, band, len(item.faces) > 1) for face in judged]
    if small := [str(f.line["face"] + 1) for f in item.faces if f not in judged]:
        parts.append(
            element("p", f"Too small to be judged: face {', '.join(small)}.", class_="note")
        )
    if item.hidden:
        parts.append(
            element("p", f"{item.hidden} further faces are in the JSON lines.", class_="note")
        )
    return element("div", *parts, class_="item")


def _face(shown: Shown, band: tuple[float, float, float], several: bool) -> Markup:
    line = shown.line
    where = []
    if line.get("frame") is not None:
        where.append(f"frame {line['frame']}")
    if several:
        where.append(f"face {line['face'] + 1}")
    parts = [element("h3", ", ".join(where))] if where else []
    parts += [_verdict(line, band), *_said(line)]
    figures = [
        element("figure", page.picture(picture, title), element("figcaption", title))
        for title, picture in shown.panels
    ]
    if figures:
        parts.append(element("div", *figures, class_="panels"))
    return element("div", *parts)


def _verdict(line: Mapping[str, Any], band: tuple[float, float, float]) -> Markup:
    verdict = str(line["verdict"])
    kind = verdict if verdict in ("real", "fake", "uncertain") else "none"
    tag = element("span", _plain(verdict), class_=f"tag {kind}")
    if line.get("probability") is None:
        return element("p", tag, class_="verdict")
    low, threshold, high = band
    value = float(line["probability"])
    said = (
        f" probability of fake {value:.3f} (uncertain from {low:.3f} to {high:.3f}, "
        f"threshold {threshold:.3f})"
    )
    bar = element(
        "div",
        element("i", "", style=f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"),
        element("b", "", style=f"left:{100 * value:.1f}%"),
        class_="band",
    )
    return element("div", element("p", tag, said, class_="verdict"), bar)


def _said(line: Mapping[str, Any]) -> list[Markup]:
    if line.get("probability") is None:
        return []
    if line.get("regions") is None:
        return [
            element(
                "p", "Reasons unavailable: this model was trained without captions.", class_="note"
            )
        ]
    parts = []
    if line["reasons"]:
        rows = []
        for reason in line["reasons"]:
            against = element("span", " contradicts the verdict", class_="against")
            rows.append(
                element(
                    "li",
                    reason["text"],
                    f" ({reason['score']:.2f})",
                    against if reason["contradiction"] else "",
                )
            )
        parts.append(element("ul", *rows, class_="reasons"))
    else:
        parts.append(element("p", "No sentence of the bank stands out.", class_="note"))
    table = []
    for region, score in line["regions"].items():
        kinds = [_score(line["types"][region][kind]) for kind in TYPES]
        table.append([region, _score(score), *kinds])
    shown = page.table(["Region", "Forged", *TYPES], table)
    parts.append(element("details", element("summary", "Scores by region and type"), shown))
    return parts


def _score(value: float | None) -> str:
    return "not calibrated" if value is None else f"{value:.2f}"


def _facts(line: Mapping[str, Any]) -> list[Markup]:
    values = {
        "SHA-256": line.get("sha256") or "not read",
        "Size": f"{line['width']} x {line['height']}" if line.get("width") else "",
        "Format": line.get("format") or "",
        "Frames": f"{line['frames_looked_at']} of {line['frames']} looked at"
        if "frames" in line
        else "",
        "Analysed": line["time"],
        **{f"EXIF {name}": text for name, text in line.get("exif", {}).items()},
    }
    return [
        element("div", element("dt", name), element("dd", str(value)))
        for name, value in values.items()
        if value
    ]


def _plain(verdict: str) -> str:
    return verdict.replace("_", " ")
