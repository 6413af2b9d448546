"""Example frames of the report: the worst errors and a random sample, with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jax_vlffd.evaluation.comparison import EvaluatedDetector
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.vocabulary import LABEL_NAMES


@dataclass(frozen=True)
class GalleryFrame:
    """A frame with its picture (encoded bytes, or empty), its label, scores and texts."""

    truth: str
    where: str
    probability: float
    verdict: str
    caption: str
    reasons: str
    image: bytes
    others: Mapping[str, float]


@dataclass(frozen=True)
class Gallery:
    """A titled row of examples."""

    title: str
    note: str
    examples: Sequence[GalleryFrame]


def galleries(
    detectors: Sequence[EvaluatedDetector],
    count: int,
    seed: int,
    pictures: Callable[[Sequence[int]], Mapping[int, bytes]],
) -> list[Gallery]:
    """The first detector's worst errors and some random frames, `count` of each.

    Args:
      detectors: the others' probabilities of the same frames (set and id) are shown too.
      count: examples in a gallery.
      seed: of the random sample.
      pictures: row numbers of the first detector's scores -> encoded pictures, of those available.
    """
    first, *others = detectors
    worst = "{} with the {} probabilities of being fake, one frame a video."
    chosen = [
        ("Reals that look most like fakes", worst.format("Reals", "highest"),
         most_wrong(first.scores, 0, count)),
        ("Fakes that look most real", worst.format("Fakes", "lowest"),
         most_wrong(first.scores, 1, count)),
        ("Examples", "Drawn at random, the methods in turn.", sample(first.scores, count, seed)),
    ]  # fmt: skip
    encoded = pictures(sorted({int(row) for _, _, rows in chosen for row in rows}))
    probability = first.probability()
    others_scores = {other.name: (other.scores, other.probability()) for other in others}
    return [
        Gallery(
            title,
            note,
            [
                _example(first, int(row), probability, others_scores, encoded.get(int(row), b""))
                for row in rows
            ],
        )
        for title, note, rows in chosen
    ]


def _example(
    detector: EvaluatedDetector,
    row: int,
    probability: np.ndarray,
    others_scores: Mapping[str, tuple[Scores, np.ndarray]],
    picture: bytes,
) -> GalleryFrame:
    scores, calibration = detector.scores, detector.calibration
    others = {}
    for name, (table, values) in others_scores.items():
        same = (table.id == scores.id[row]) & (table.set_name == scores.set_name[row])
        if scores.id[row] and same.any():
            others[name] = float(values[same][0])
    method = scores.method[row] if scores.label[row] else ""
    frame = scores.frame[row] and f"frame {scores.frame[row]}"
    return GalleryFrame(
        truth=LABEL_NAMES[int(scores.label[row])],
        where=" · ".join(filter(None, (scores.set_name[row], method, scores.video[row], frame))),
        probability=float(probability[row]),
        verdict="" if calibration is None else calibration.verdict(float(probability[row])),
        caption="" if scores.caption is None else str(scores.caption[row]),
        reasons="" if scores.reasons is None else str(scores.reasons[row]),
        image=picture,
        others=others,
    )


def most_wrong(scores: Scores, label: int, count: int) -> np.ndarray:
    """Row numbers of a label's `count` worst errors, the worst first, one frame a video."""
    rows = np.flatnonzero(scores.label == label)
    wrong = scores.probability[rows] if label == 0 else 1 - scores.probability[rows]
    ordered = rows[np.argsort(-wrong, kind="stable")]
    first = np.unique(scores.videos()[ordered], return_index=True)[1]
    return ordered[np.sort(first)][:count]


def sample(scores: Scores, count: int, seed: int) -> np.ndarray:
    """Row numbers of up to `count` random frames, one a video, alternating between the methods."""
    order = np.random.default_rng(seed).permutation(len(scores))
    order = order[np.sort(np.unique(scores.videos()[order], return_index=True)[1])]
    kind = np.where(scores.label == 0, "", np.char.add("+", scores.method))
    by_kind = [order[kind[order] == name] for name in np.unique(kind)]
    turns = max(map(len, by_kind), default=0)
    taken = [rows[turn] for turn in range(turns) for rows in by_kind if turn < len(rows)]
    return np.asarray(taken[:count], dtype=np.int64)
