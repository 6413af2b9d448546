"""Examples in the report: the most wrong frames, and some drawn at random, with their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jax_vlffd.evaluation import page
from jax_vlffd.evaluation.page import Markup, element
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.vocabulary import LABEL_NAMES


@dataclass(frozen=True)
class Example:
    """A frame shown with its picture (encoded bytes, empty for none) and what is said of it."""

    set_name: str
    method: str
    video: str
    frame: str
    label: int
    probability: float
    verdict: str = ""
    caption: str = ""
    reasons: str = ""
    image: bytes = b""
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """A titled row of examples."""

    title: str
    note: str
    examples: Sequence[Example]


def most_wrong(scores: Scores, label: int, count: int) -> np.ndarray:
    """Row numbers of the `count` worst frames of a label, the worst first, one frame a video."""
    rows = np.flatnonzero(scores.label == label)
    wrong = scores.probability[rows] if label == 0 else 1 - scores.probability[rows]
    ordered = rows[np.argsort(-wrong, kind="stable")]
    first = np.unique(scores.videos()[ordered], return_index=True)[1]
    return ordered[np.sort(first)][:count]


def sample(scores: Scores, count: int, seed: int) -> np.ndarray:
    """Row numbers of up to `count` random frames, the methods in turn, one frame a video."""
    order = np.random.default_rng(seed).permutation(len(scores))
    order = order[np.sort(np.unique(scores.videos()[order], return_index=True)[1])]
    kind = np.where(scores.label == 0, "", np.char.add("+", scores.method))
    by_kind = [order[kind[order] == name] for name in np.unique(kind)]
    turns = max(map(len, by_kind), default=0)
    taken = [rows[turn] for turn in range(turns) for rows in by_kind if turn < len(rows)]
    return np.asarray(taken[:count], dtype=np.int64)


def sections(galleries: Sequence[Gallery]) -> list[Markup]:
    """A section for each gallery that has examples."""
    body = []
    for gallery in galleries:
        if gallery.examples:
            body.append(element("h2", gallery.title))
            body.append(element("p", gallery.note, class_="note"))
            cards = [_card(example) for example in gallery.examples]
            body.append(element("div", *cards, class_="cards"))
    return body


def _card(example: Example) -> Markup:
    truth = LABEL_NAMES[example.label]
    method = example.method if example.label else ""
    names = (example.set_name, method, example.video, example.frame and f"frame {example.frame}")
    where = " · ".join(filter(None, names))
    width = f"width:{100 * example.probability:.1f}%"
    said = [element("span", truth, class_=f"tag {truth}")]
    if example.verdict:
        said += [
            Markup(" called "),
            element("span", example.verdict, class_=f"tag {example.verdict}"),
        ]
    others = " · ".join(f"{name}: {p:.3f}" for name, p in example.others.items())
    text = [
        element("div", *said),
        element("div", element("i", "", style=width), class_="meter"),
        element("div", f"probability of fake {example.probability:.3f}", class_="where"),
        element("div", others, class_="where") if others else Markup(),
        element("div", where, class_="where"),
    ]
    if example.caption:
        text.append(element("p", element("b", "Annotated: "), example.caption))
    if example.reasons:
        text.append(element("p", element("b", "Detector: "), example.reasons))
    image = page.picture(example.image, f"{truth} face, {where}")
    return element("div", image, element("div", *text, class_="text"), class_="card")
