"""Explanations in words: a bank of sentences, its calibration, and an image's similarity to it.

The idea is the paper's (CLIP aligned with captions that name forged regions and types); the bank, its
calibration and the choice of reasons are ours. The sentences are embedded once, by the tuned text tower,
and fitted on a validation split; from then on an image's embedding is enough, and no text is read.

An *entry* is a (region, type), or the real face; each has several paraphrases, whose mean is its direction.
The raw score of (region, type) is the image's similarity to that direction less that to the real face.
Logistic regression on the validation split (Platt 1999) converts it to a probability; its slope cannot be
negative, so that more similarity never lowers a sentence's probability. Scores never change the verdict: the
classifier decides, the text explains, and a reason that disagrees is marked as a contradiction.

NumPy and SciPy only. Letters in shapes: S sentences, E joint embedding, K = 21 entries, n images, P patches.
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
from jax_vlffd.files import check_regular
from jax_vlffd.json_reading import parse_json
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
#: than this share of its reals would get the reason (of its fakes, for the real face's sentences).
NAMED_ON_REALS: Final = 0.1
#: Maximum number of types named for one region, by descending score.
_MAX_TYPES: Final = 2
_MAX_BYTES: Final = 1 << 28


@dataclass(frozen=True)
class Sentence:
    """One sentence of the bank.

    text: the wording of a reason. prompt: the text that is embedded, with the verdict before it, because
    every caption of the training states one. entry: its index in ENTRIES.
    """

    text: str
    prompt: str
    entry: int


def bank() -> tuple[Sentence, ...]:
    """The sentences, from the vocabulary's nouns and phrases: four for each entry, more for the real face."""
    sentences = []
    for entry, (region, kind) in enumerate(ENTRIES[:_FORGED]):
        nouns = REGION_NOUNS[region]
        if region == "face":  # skin has color and texture, but no shape
            nouns = tuple(n for n in nouns if ("skin" in n[0]) != (kind == "structure"))
        for number, phrase in enumerate(PHRASES[kind]):
            text = _clause(nouns[number % len(nouns)], phrase)
            sentences.append(Sentence(text, f"{VERDICTS[1]} {text}", entry))
    for text in UNSUSPICIOUS:
        sentences.append(Sentence(text, f"{VERDICTS[0]} {text}", _FORGED))
    return tuple(sentences)


def _clause(noun: tuple[str, bool], phrase: Any) -> str:
    return f"The {noun[0]} {phrase.plural if noun[1] else phrase.singular}."


@dataclass(frozen=True)
class Reason:
    """A sentence that explains an image.

    text: the sentence. region, type: its subject; '' where it has none. score: its calibrated probability,
    0 to 1. contradiction: whether it contradicts the verdict.
    """

    text: str
    region: str
    type: str
    score: float
    contradiction: bool


@dataclass(frozen=True)
class Explanation:
    """The scores and reasons of one image.

    regions: calibrated probability by region, None where it could not be calibrated. types: the same by
    region and type. real: the same of the real face's sentences. reasons: those that agree with the verdict
    first, then by score. entries: for each reason, the entries of its heat map.
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
      embeddings: fp32 unit vectors [S, E], by the tuned text tower.
      types: the scaling of each (region, type), in the order of ENTRIES.
      regions: the scaling of each region.
      real: the scaling of the real face.
      images: number of validation images that the scalings were fitted on.
      directions: float64 [K, E], the mean embedding of each entry's sentences; not unit vectors.
    """

    sentences: tuple[Sentence, ...]
    embeddings: np.ndarray
    types: tuple[PlattScaling, ...]
    regions: tuple[PlattScaling, ...]
    real: PlattScaling
    images: int = 0
    directions: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Computes the entries' directions."""
        object.__setattr__(self, "directions", directions(self.sentences, self.embeddings))

    def explain(self, embedding: np.ndarray, verdict: Verdict) -> Explanation:
        """Scores an image and chooses its reasons.

        Args:
          embedding: fp32 unit vector [E] of the image.
          verdict: the classifier's, with which reasons agree or not.
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
        for index, region in enumerate(REGIONS):
            score = regions[index]
            if score is None or score < self.regions[index].threshold:
                continue
            entries = range(index * width, (index + 1) * width)
            named = sorted(
                (-s, entry)
                for entry in entries
                if (s := types[entry]) is not None and s >= self.types[entry].threshold
            )[:_MAX_TYPES]
            for negative, entry in named:
                text = self._wording(entry, embedding)
                reason = Reason(text, region, TYPES[entry % width], -negative, verdict == "real")
                reasons.append((reason, (entry,)))
            if not named:
                text = _clause(REGION_NOUNS[region][0], UNTYPED_PHRASES[0])
                reasons.append((Reason(text, region, "", score, verdict == "real"), tuple(entries)))
        if real is not None and real >= self.real.threshold:
            text = self._wording(_FORGED, embedding)
            reasons.append((Reason(text, "", "", real, verdict == "fake"), (_FORGED,)))
        reasons.sort(key=lambda pair: (pair[0].contradiction, -pair[0].score))
        return Explanation(
            dict(zip(REGIONS, regions, strict=True)),
            {r: dict(zip(TYPES, types[i * width :], strict=False)) for i, r in enumerate(REGIONS)},
            real,
            tuple(reason for reason, _ in reasons),
            tuple(entries for _, entries in reasons),
        )

    def _wording(self, entry: int, embedding: np.ndarray) -> str:
        """The entry's sentence that is most similar to the image."""
        rows = [i for i, sentence in enumerate(self.sentences) if sentence.entry == entry]
        return self.sentences[rows[int(np.argmax(self.embeddings[rows] @ embedding))]].text

    def patch_map(self, similarities: np.ndarray, entries: Sequence[int]) -> np.ndarray:
        """Similarity of each patch to some entries.

        Args:
          similarities: [P, K] of the patches to every entry.
          entries: indices in ENTRIES.

        Returns:
          float32 [P]: the mean over the entries, less the similarity to the real face for entries of forged
          regions.
        """
        values = similarities[:, list(entries)].mean(1)
        if _FORGED not in entries:
            values = values - similarities[:, _FORGED]
        return np.asarray(values, np.float32)

    def to_bytes(self) -> bytes:
        """A safetensors file with the sentences and scalings in its header, which `load` reads."""
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
        return save(content, {"explanation": json.dumps(table)})

    @classmethod
    def load(cls, path: Path) -> Explainer:
        """Reads a file of `to_bytes`.

        Raises:
          UserError: the file cannot be read, or is of another version.
        """
        import safetensors

        check_regular(path, _MAX_BYTES)
        try:
            with safetensors.safe_open(path, "numpy") as file:
                table = parse_json((file.metadata() or {})["explanation"])
                embeddings = file.get_tensor("embeddings")
            if table["version"] != VERSION:
                raise ValueError(f"version {table['version']}, not {VERSION}")
            explainer = cls(
                tuple(Sentence(**line) for line in table["sentences"]),
                embeddings,
                tuple(PlattScaling(**line) for line in table["types"]),
                tuple(PlattScaling(**line) for line in table["regions"]),
                PlattScaling(**table["real"]),
                table["images"],
            )
        except Exception as error:  # safetensors has errors of its own
            raise UserError(
                f"{path}: not a bank of sentences ({error}); train or export the model again"
            ) from error
        if (
            explainer.sentences != bank()
            or len(explainer.types) != _FORGED
            or len(explainer.regions) != len(REGIONS)
        ):
            raise UserError(
                f"{path}: its sentences, regions or types are not those of this version; train the model again"
            )
        if not np.isfinite(explainer.embeddings).all():
            raise UserError(f"{path}: holds values that are not numbers; copy the model again")
        return explainer


@dataclass(frozen=True)
class RawScores:
    """Scores before calibration: types [n, 20], regions [n, 4], real [n]."""

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

    Of a (region, type): its similarity less that to the real face. Of a region: the maximum over its types. Of
    the real face: its similarity less the mean of all others.
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
    """Calibrates a bank on a validation split, which must not be the test data.

    Args:
      sentences: S of them, those of `bank`.
      embeddings: [S, E].
      images: embeddings [n, E] by the same model.
      labels: int [n], 0 real, 1 fake.
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
    by_real = fit_platt(raw.real, real, ~real, NAMED_ON_REALS)
    return Explainer(
        tuple(sentences),
        np.asarray(embeddings, np.float32),
        by_type,
        by_region,
        by_real,
        len(labels),
    )
