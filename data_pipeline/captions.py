"""Raw captions: English sentences from a label, the forged regions and their types.

A caption holds one sentence of `vocabulary.VERDICTS`, word for word, and one or more descriptive sentences.
It names every forged region and no other, by the rule of `vocabulary.regions_named`. The seed of a pair
chooses among the many wordings, so a second run writes the same caption.

The phrases are the vocabulary's; the sentence structures are ours. Captions stay below CLIP's 77 tokens: a
longer one is replaced by its shortest form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from jax_vlffd.vocabulary import (
    FAKE,
    PHRASES,
    REAL,
    REGION_NOUNS,
    REGIONS,
    TYPE_NOUNS,
    TYPES,
    UNSUSPICIOUS,
    UNTYPED_PHRASES,
    VERDICTS,
)

#: Regions and the types they share; each group becomes one clause.
_Group = tuple[tuple[str, ...], tuple[str, ...]]

_REAL_REMARKS = (
    "No sign of manipulation is visible.",
    "There is no trace of forgery.",
    "Nothing suggests that it was altered.",
    "It shows no traces of editing.",
    "Nothing points to manipulation.",
)
_HIDDEN_FAKE_REMARKS = (
    "The forgery leaves no visible trace.",
    "No visible trace of the forgery can be found.",
    "The manipulation cannot be seen in this image.",
    "Its manipulation leaves no visible sign.",
    "There is no visible sign of the forgery.",
    "The forgery is not visible in this image.",
)
_OPENERS = ("On close inspection, ", "Up close, ")
#: Used at most once in a caption: a second phrase with one of these would sound repetitive.
_USED_ONCE = (
    "rest of the image", "surroundings", "unnatural", "shape", "deform", "distort", "mismatch",
    "texture", "unusual", "detail",
)  # fmt: skip

_MAX_TOKENS = 76  # one below CLIP's context of 77
#: The words of fakes' captions that CLIP's tokenizer splits, with the number of further tokens
#: (a test holds the count against the real tokenizer).
_SPLIT_WORDS = {
    "deformation": 1, "deformed": 1, "differs": 1, "distorted": 1, "implausible": 2,
    "inconsistent": 1, "mismatch": 1, "misshapen": 2, "subtly": 1, "unnatural": 1,
}  # fmt: skip

_MAX_REPEATS = 12  # repeated wordings in a row after which no new one is expected


def caption_key(label: int, regions: Mapping[str, Sequence[str]]) -> str:
    """Returns a key that is equal if and only if two captions have the same meaning.

    `real`, `fake:none`, or `fake:` and the sorted `region=type+type` joined by `;`.

    Args:
      label: REAL or FAKE.
      regions: each forged region with its types (which may be empty); empty for a real face.

    Raises:
      ValueError: an unknown label, region or type, or a real face with a forged region.
    """
    _check(label, regions)
    if label == REAL:
        return "real"
    parts = (f"{name}={'+'.join(sorted(set(regions[name])))}" for name in sorted(regions))
    return "fake:" + (";".join(parts) or "none")


def caption(
    label: int, regions: Mapping[str, Sequence[str]], seed: int | str, index: int = 0
) -> str:
    """Returns paraphrase `index` of a pair's caption.

    Equal to `paraphrases(label, regions, seed, n)[index]` for any n above `index`; indices past the last
    distinct wording start over.

    Args:
      label: REAL or FAKE.
      regions: each forged region with its types (which may be empty). The caption of a FAKE without
        regions says that the forgery is not visible.
      seed: the pair's id, which chooses the wording.
      index: which paraphrase, from 0.

    Raises:
      ValueError: see `caption_key`.
    """
    texts = paraphrases(label, regions, seed, index + 1)
    return texts[index % len(texts)]


def paraphrases(
    label: int, regions: Mapping[str, Sequence[str]], seed: int | str, n: int
) -> list[str]:
    """Returns up to `n` distinct captions of the same meaning, at least one.

    There are fewer where the vocabulary has fewer wordings. Arguments and errors as for `caption`.
    """
    key = caption_key(label, regions)
    rng = random.Random(f"{seed}|{key}")
    texts: dict[str, None] = {}
    repeats = 0
    while len(texts) < max(n, 1) and repeats < _MAX_REPEATS:
        text = _compose(label, regions, rng)
        repeats = repeats + 1 if text in texts else 0
        texts[text] = None
    return list(texts)


def _check(label: int, regions: Mapping[str, Sequence[str]]) -> None:
    if label not in (REAL, FAKE):
        raise ValueError(f"label {label!r} must be {REAL} (real) or {FAKE} (fake)")
    if label == REAL and regions:
        raise ValueError(f"a real face cannot have forged regions, but has {sorted(regions)}")
    for region, types in regions.items():
        if region not in REGIONS:
            raise ValueError(f"unknown region {region!r}; the regions are {', '.join(REGIONS)}")
        unknown = sorted(set(types) - set(TYPES))
        if unknown:
            raise ValueError(f"unknown type {unknown[0]!r}; the types are {', '.join(TYPES)}")


def _compose(label: int, regions: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    verdict = VERDICTS[label]
    if regions:
        types = {r: tuple(t for t in TYPES if t in regions[r]) for r in REGIONS if r in regions}
        body = _Description(types, rng).sentences()
        if _tokens([verdict, *body]) > _MAX_TOKENS:
            body = _shortest(types, rng)
        return " ".join([verdict, *body] if rng.random() < 0.6 else [*body, verdict])
    description = [rng.choice(UNSUSPICIOUS)]
    verdict_part = [verdict]
    if label == FAKE or rng.random() < 0.6:
        # The remark refers to the verdict, so it follows it directly.
        verdict_part.append(rng.choice(_HIDDEN_FAKE_REMARKS if label == FAKE else _REAL_REMARKS))
    return " ".join(
        verdict_part + description if rng.random() < 0.6 else description + verdict_part
    )


class _Description:
    """Writes the sentences about the forged regions of one caption; remembers the text so far."""

    def __init__(self, types: Mapping[str, tuple[str, ...]], rng: random.Random):
        self._rng = rng
        self._types = types
        self._decks = {kind: rng.sample(PHRASES[kind], len(PHRASES[kind])) for kind in TYPES}
        self._decks[""] = rng.sample(UNTYPED_PHRASES, len(UNTYPED_PHRASES))
        self._nouns = {region: self._choose_noun(region) for region in self._types}
        self._text = ""
        self._mentioned: set[str] = set()

    def sentences(self) -> list[str]:
        groups = self._plan()
        clauses = [self._clauses(group) for group in groups]
        lines: list[str] = []
        i = 0
        while i < len(clauses):
            current = clauses[i]
            i += 1
            joinable = i < len(clauses) and _join_well(groups[i - 1], groups[i])
            # "also" in both halves of a sentence sounds repetitive.
            if joinable and " also " not in current[0] + clauses[i][0] and self._chance(0.4):
                following = clauses[i][0]
                # "and" before a list of nouns would read as one more item of it.
                links = ("and", "while") if following.startswith("the ") else ("while",)
                current = [f"{current[0]}, {self._rng.choice(links)} {following}"]
                i += 1
            lines += current
        if self._chance(0.25):
            lines[0] = self._rng.choice(_OPENERS) + lines[0]
        return [line[0].upper() + line[1:] + "." for line in lines]

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _plan(self) -> list[_Group]:
        """Groups regions with equal types, or types with equal regions where that takes no more clauses."""
        by_region = _groups_by_region(self._types)
        by_type: dict[tuple[str, ...], list[str]] = {}
        for kind in TYPES:
            holders = tuple(region for region in self._types if kind in self._types[region])
            if holders:
                by_type.setdefault(holders, []).append(kind)
        groups = [(holders, tuple(kinds)) for holders, kinds in by_type.items()]
        untyped = tuple(region for region, kinds in self._types.items() if not kinds)
        if untyped:
            groups.append((untyped, ()))
        # By type only where that does not repeat the same regions over and over.
        names = sum(len(members) for members, _ in groups)
        brief = len(groups) <= len(by_region) and names <= len(self._types) + 2
        if not brief or self._chance(0.5):
            return self._rng.sample(by_region, len(by_region))
        # The longest list first: clauses about some of its members then follow with "also".
        shuffled = self._rng.sample(groups, len(groups))
        return sorted(shuffled, key=lambda group: -len(group[0]))

    def _choose_noun(self, region: str) -> tuple[str, bool]:
        nouns = REGION_NOUNS[region]
        if len(self._types) > 1:  # a list of areas and regions is tiring to read
            nouns = tuple(n for n in nouns if not n[0].endswith((" area", " region")))
        if region == "face":  # skin has a color or a texture, but only a face has a shape
            shaped = "structure" in self._types[region]
            nouns = tuple(noun for noun in nouns if ("skin" in noun[0]) != shaped)
        return self._rng.choice(nouns)

    def _clauses(self, group: _Group) -> list[str]:
        """One clause without capital letter and period; two for a group with four or five types."""
        regions, types = group
        mentioned = self._mentioned.issuperset(regions)
        self._mentioned.update(regions)
        shuffled = self._rng.sample(types, len(types))
        if types and len(types) <= 3 and not mentioned and self._chance(0.2):
            nouns = [self._type_noun(kind) for kind in shuffled]
            return [f"{_list(nouns)} can be seen {self._location(regions)}"]
        subject, plural = self._subject(regions)
        predicates = [self._predicate(kind, plural) for kind in shuffled or [""]]
        clause = _joined(predicates if len(predicates) <= 3 else predicates[:2])
        clauses = [f"{subject} {_also(clause) if mentioned else clause}"]
        if len(predicates) > 3:
            clauses.append(f"{'they' if plural else 'it'} {_also(_joined(predicates[2:]))}")
        return clauses

    def _subject(self, regions: Sequence[str]) -> tuple[str, bool]:
        if len(regions) == 1:
            noun, plural = self._nouns[regions[0]]
            return f"the {noun}", plural
        return _list([f"the {self._nouns[region][0]}" for region in regions]), True

    def _predicate(self, kind: str, plural: bool) -> str:
        """Draws the next phrase that repeats no word of `_USED_ONCE`, if there is one."""
        deck = self._decks[kind]
        phrase = next((p for p in deck if not self._repeats(p.singular)), deck[0])
        deck.remove(phrase)
        self._text += " " + phrase.singular
        return phrase.plural if plural else phrase.singular

    def _type_noun(self, kind: str) -> str:
        nouns = self._rng.sample(TYPE_NOUNS[kind], len(TYPE_NOUNS[kind]))
        noun = next((n for n in nouns if not self._repeats(n)), nouns[0])
        self._text += " " + noun
        return noun

    def _repeats(self, text: str) -> bool:
        return any(word in text and word in self._text for word in _USED_ONCE)

    def _location(self, regions: Sequence[str]) -> str:
        around = [f"the {region}" for region in regions if region != "face"]
        parts = [f"around {_list(around)}"] if around else []
        if "face" in regions:
            parts.append(f"across the {self._nouns['face'][0]}")
        return (", and " if len(around) > 1 else " and ").join(parts)


def _groups_by_region(types: Mapping[str, tuple[str, ...]]) -> list[_Group]:
    regions_by_types: dict[tuple[str, ...], list[str]] = {}
    for region, kinds in types.items():
        regions_by_types.setdefault(kinds, []).append(region)
    return [(tuple(members), kinds) for kinds, members in regions_by_types.items()]


def _shortest(types: Mapping[str, tuple[str, ...]], rng: random.Random) -> list[str]:
    """One sentence per group, in the shortest words of the vocabulary."""
    lines = []
    for members, kinds in _groups_by_region(types):
        nouns = [f"the {'skin' if name == 'face' else name}" for name in members]
        plural = len(members) > 1 or members == ("eyes",)
        if kinds:
            type_nouns = [min(TYPE_NOUNS[k], key=len) for k in rng.sample(kinds, len(kinds))]
            line = f"{_list(nouns)} {'show' if plural else 'shows'} {_list(type_nouns)}"
        else:
            line = f"{_list(nouns)} {'look' if plural else 'looks'} out of place"
        lines.append(line[0].upper() + line[1:] + ".")
    return lines


def _list(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _joined(predicates: Sequence[str]) -> str:
    """Lists predicates and merges those with the same verb.

    `has a` and `has b` become `has a and b`; merged predicates come last, after a comma.
    """
    by_verb: dict[str, list[str]] = {}
    for predicate in predicates:
        verb, rest = predicate.split(" ", 1)
        if rest.startswith(("not ", "lost ")):
            verb, rest = predicate, ""
        by_verb.setdefault(verb, []).append(rest)
    merged = [f"{verb} {_list(sorted(rests, key=len))}".rstrip() for verb, rests in by_verb.items()]
    if len(merged) in (1, len(predicates)):
        return _list(merged)
    merged.sort(key=lambda text: len(by_verb.get(text.split(" ", 1)[0], "1")))
    return ", and ".join([", ".join(merged[:-1]), merged[-1]])


def _join_well(first: _Group, second: _Group) -> bool:
    """Whether two clauses can be joined into one readable sentence."""
    disjoint = not set(first[0]) & set(second[0])
    return disjoint and max(len(first[1]), 1) + max(len(second[1]), 1) <= 3


def _also(predicate: str) -> str:
    verb, rest = predicate.split(" ", 1)
    auxiliary = verb in ("is", "are") or rest.startswith("lost ")
    return f"{verb} also {rest}" if auxiliary else f"also {predicate}"


def _tokens(sentences: Sequence[str]) -> int:
    """CLIP tokens of the text, start and end tokens included, by counting words and punctuation."""
    pieces = re.findall(r"\w+|[^\w\s]", " ".join(sentences).lower())
    return 2 + len(pieces) + sum(_SPLIT_WORDS.get(piece, 0) for piece in pieces)
