"""Reasons in words: a bank of sentences, an image's similarity to them, what is said and what is shown.

The idea is the paper's (CLIP aligned with captions that name forged regions and types); the bank, its
calibration and the choice of reasons are ours. The sentences are embedded once, by the tuned text tower,
and fitted on a validation split; from then on an image's embedding is enough, and no text is read.

An *entry* is a (region, type), or the real face; each has several paraphrases, whose mean is its direction.
The raw score of (region, type) is the image's similarity to that direction less that to the real face.
Logistic regression on the validation split (Platt 1999) makes a probability of it; its slope cannot be
negative, so that an image speaks for a sentence only by being more like it. A score never changes the
verdict: the classifier decides, the text explains, and where the two disagree that is said.

NumPy and SciPy only. Letters: S sentences, E joint embedding, K = 21 entries, n images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import PlattScaling, Verdict, fit_platt
from jax_vlffd.vocabulary import (
    PHRASES,
    REGION_NOUNS,
    REGIONS,
    TYPES,
    UNSUSPICIOUS,
    UNTYPED_PHRASES,
    VERDICTS,
)

VERSION: Final = 1
#: The entries in order: every (region, type), then the real face.
ENTRIES: Final = (*((region, kind) for region in REGIONS for kind in TYPES), ("", "real"))
_FORGED: Final = len(ENTRIES) - 1
#: A threshold is that of the best F1 on the validation split, but at least 0.5, and never so low that more
#: than this share of its reals would be named (of the fakes, for the real face's sentences): a reason has to
#: be defended.
NAMED_ON_REALS: Final = 0.1
#: Types named for one region, the surest first.
_TYPES_NAMED: Final = 2
_MAX_BYTES: Final = 1 << 28


@dataclass(frozen=True)
class Sentence:
    """One sentence of the bank.

    text: as a reason is worded. prompt: as it is embedded, with the verdict before it, because every
    caption of the training states one. entry: its place in ENTRIES.
    """

    text: str
    prompt: str
    entry: int


def bank() -> tuple[Sentence, ...]:
    """The sentences, of the vocabulary's nouns and phrases: four an entry, more for the real face."""
    found = []
    for entry, (region, kind) in enumerate(ENTRIES[:_FORGED]):
        nouns = REGION_NOUNS[region]
        if region == "face":  # skin has a color or a texture, and it is the face that has a shape
            nouns = tuple(n for n in nouns if ("skin" in n[0]) != (kind == "structure"))
        for number, phrase in enumerate(PHRASES[kind]):
            text = _clause(nouns[number % len(nouns)], phrase)
            found.append(Sentence(text, f"{VERDICTS[1]} {text}", entry))
    for text in UNSUSPICIOUS:
        found.append(Sentence(text, f"{VERDICTS[0]} {text}", _FORGED))
    return tuple(found)


def _clause(noun: tuple[str, bool], phrase: Any) -> str:
    return f"The {noun[0]} {phrase.plural if noun[1] else phrase.singular}."


@dataclass(frozen=True)
class Reason:
    """A sentence that is said of an image.

    text: the sentence. region, type: what it is about; '' where it is about none. score: its calibrated
    probability. contradiction: it speaks against the verdict.
    """

    text: str
    region: str
    type: str
    score: float
    contradiction: bool


@dataclass(frozen=True)
class Explanation:
    """What the text says of one image.

    regions: calibrated probability by region, None where it could not be calibrated. types: the same by
    region and type. real: of the real face's sentences. reasons: the surest first. entries: for each
    reason, the entries it rests on, for its heat map.
    """

    regions: Mapping[str, float | None]
    types: Mapping[str, Mapping[str, float | None]]
    real: float | None
    reasons: tuple[Reason, ...] = ()
    entries: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Explainer:
    """The bank of one trained model.

    Attributes:
      sentences: S of them.
      embeddings: fp32 unit vectors [S, E], of the tuned text tower.
      types: the scaling of each (region, type), in the order of ENTRIES.
      regions: of each region.
      real: of the real face.
      images: of the validation split that the scalings were fitted on.
    """

    sentences: tuple[Sentence, ...]
    embeddings: np.ndarray
    types: tuple[PlattScaling, ...]
    regions: tuple[PlattScaling, ...]
    real: PlattScaling
    images: int = 0
    directions: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Makes the entries' directions [K, E]: the mean of their sentences, no unit vectors."""
        object.__setattr__(self, "directions", directions(self.sentences, self.embeddings))

    def explain(self, embedding: np.ndarray, verdict: Verdict) -> Explanation:
        """What the text says of an image.

        Args:
          embedding: fp32 unit vector [E] of the image.
          verdict: the classifier's, which the reasons are held against.
        """
        raw = raw_scores(self.directions, np.asarray(embedding)[None])
        types = [
            float(c.score(x)) if c.fitted else None
            for c, x in zip(self.types, raw.types[0], strict=True)
        ]
        regions = [
            float(c.score(x)) if c.fitted else None
            for c, x in zip(self.regions, raw.regions[0], strict=True)
        ]
        real = float(self.real.score(raw.real[0])) if self.real.fitted else None
        width = len(TYPES)
        reasons: list[tuple[Reason, tuple[int, ...]]] = []
        for place, region in enumerate(REGIONS):
            score = regions[place]
            if score is None or score < self.regions[place].threshold:
                continue
            rows = range(place * width, (place + 1) * width)
            named = [(types[row], row) for row in rows]
            sure = sorted(
                (-s, row) for s, row in named if s is not None and s >= self.types[row].threshold
            )[:_TYPES_NAMED]
            for minus, row in sure:
                text = self._wording(row, embedding)
                reason = Reason(text, region, TYPES[row - rows[0]], -minus, verdict == "real")
                reasons.append((reason, (row,)))
            if not sure:
                text = _clause(REGION_NOUNS[region][0], UNTYPED_PHRASES[0])
                reasons.append((Reason(text, region, "", score, verdict == "real"), tuple(rows)))
        if real is not None and real >= self.real.threshold:
            text = self._wording(_FORGED, embedding)
            reasons.append((Reason(text, "", "", real, verdict == "fake"), (_FORGED,)))
        # What agrees with the verdict first, then the surest.
        reasons.sort(key=lambda pair: (pair[0].contradiction, -pair[0].score))
        return Explanation(
            dict(zip(REGIONS, regions, strict=True)),
            {r: dict(zip(TYPES, types[i * width :], strict=False)) for i, r in enumerate(REGIONS)},
            real,
            tuple(reason for reason, _ in reasons),
            tuple(entries for _, entries in reasons),
        )

    def _wording(self, entry: int, embedding: np.ndarray) -> str:
        """The entry's sentence that is nearest to the image."""
        rows = [i for i, sentence in enumerate(self.sentences) if sentence.entry == entry]
        return self.sentences[rows[int(np.argmax(self.embeddings[rows] @ embedding))]].text

    def patch_map(self, similarities: np.ndarray, entries: Sequence[int]) -> np.ndarray:
        """How much each patch is like some entries.

        Args:
          similarities: [N - 1, K] of the patches to every entry.
          entries: places in ENTRIES.

        Returns:
          float32 [N - 1]: the mean over the entries, less the similarity to the real face where they are
          of forged regions.
        """
        found = similarities[:, list(entries)].mean(1)
        if _FORGED not in entries:
            found = found - similarities[:, _FORGED]
        return np.asarray(found, np.float32)

    def to_bytes(self) -> bytes:
        """One safetensors file with the table of sentences and scalings in its header; `load` reads it."""
        from safetensors.numpy import save

        table = {
            "version": VERSION,
            "sentences": [asdict(sentence) for sentence in self.sentences],
            "types": [asdict(scaling) for scaling in self.types],
            "regions": [asdict(scaling) for scaling in self.regions],
            "real": asdict(self.real),
            "images": self.images,
        }
        content = {"embeddings": np.ascontiguousarray(self.embeddings, np.float32)}
        written: bytes = save(content, {"explanation": json.dumps(table)})
        return written

    @classmethod
    def load(cls, path: Path) -> Explainer:
        """Reads a file of `to_bytes`.

        Raises:
          UserError: it cannot be read, or is of another version.
        """
        import safetensors

        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"larger than {_MAX_BYTES} bytes")
            with safetensors.safe_open(path, "numpy") as file:
                table = json.loads((file.metadata() or {})["explanation"])
                embeddings = file.get_tensor("embeddings")
            if table["version"] != VERSION:
                raise ValueError(f"version {table['version']}, not {VERSION}")
            found = cls(
                tuple(Sentence(**line) for line in table["sentences"]),
                embeddings,
                tuple(PlattScaling(**line) for line in table["types"]),
                tuple(PlattScaling(**line) for line in table["regions"]),
                PlattScaling(**table["real"]),
                table["images"],
            )
        except Exception as error:  # safetensors has errors of its own
            raise UserError(
                f"{path}: no bank of sentences ({error}); train or export the model again"
            ) from error
        if len(found.types) != _FORGED or len(found.regions) != len(REGIONS):
            raise UserError(f"{path}: its regions and types are not those of this version")
        return found


@dataclass(frozen=True)
class RawScores:
    """types [n, 20], regions [n, 4], real [n]: similarities before any calibration."""

    types: np.ndarray
    regions: np.ndarray
    real: np.ndarray


def directions(sentences: Sequence[Sentence], embeddings: np.ndarray) -> np.ndarray:
    """Float64 [K, E]: the mean embedding of each entry's sentences."""
    if embeddings.ndim != 2 or len(embeddings) != len(sentences):
        raise UserError(f"{len(sentences)} sentences have embeddings of shape {embeddings.shape}")
    entry = np.array([sentence.entry for sentence in sentences])
    values = embeddings.astype(np.float64)
    return np.stack([values[entry == number].mean(0) for number in range(len(ENTRIES))])


def raw_scores(directions: np.ndarray, images: np.ndarray) -> RawScores:
    """Scores of images [n, E] by the entries' directions [K, E].

    A (region, type): similarity less that to the real face. A region: the largest of its types'. The real
    face: its similarity less the mean of all others.
    """
    similarity = np.asarray(images, np.float64) @ directions.T
    forged, real = similarity[:, :_FORGED], similarity[:, _FORGED]
    types = forged - real[:, None]
    regions = types.reshape(len(types), len(REGIONS), len(TYPES)).max(2)
    return RawScores(types, regions, -types.mean(1))


def fit(
    sentences: Sequence[Sentence],
    embeddings: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    regions: np.ndarray,
    types: np.ndarray,
) -> Explainer:
    """Calibrates a bank on a validation split, never on data that is tested on.

    Args:
      sentences: S of them, as `bank` gives.
      embeddings: [S, E].
      images: [n, E], of the same model.
      labels: int [n].
      regions: 0/1 [n, 4], the annotated regions.
      types: 0/1 [n, 4, 5].
    """
    raw = raw_scores(directions(sentences, embeddings), images)
    flat = np.asarray(types).reshape(len(labels), -1)
    real = np.asarray(labels) == 0
    by_type = tuple(
        fit_platt(raw.types[:, i], flat[:, i], real, NAMED_ON_REALS) for i in range(_FORGED)
    )
    by_region = tuple(
        fit_platt(raw.regions[:, i], regions[:, i], real, NAMED_ON_REALS)
        for i in range(len(REGIONS))
    )
    sound = fit_platt(raw.real, real, ~real, NAMED_ON_REALS)
    return Explainer(
        tuple(sentences), np.asarray(embeddings, np.float32), by_type, by_region, sound, len(labels)
    )
