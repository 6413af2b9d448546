"""What a clause claims: the faults and the soundness that its words state, deny or judge (rules ours)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from jax_vlffd.clauses import words

VERB: Final = re.compile(
    r"\b(?:is|are|was|were|has|have|had|looks?|shows?|seems?|appears?|lacks?|does|do|can|could"
    r"|differs?|keeps?"
    r"|remains?|runs?|lies?|sits?)\b"
)
_NEGATED: Final = re.compile(
    rf"{words.NEGATION.pattern}(?! (?:more|less|short) (?:than|of)\b)(?:(?!,?\s*(?:(?:and|or)\s+"
    rf"|(?<=,)\s*)(?:also\s+)?{VERB.pattern})"
    r"[^\w:]+(?!(?:but|only|just|merely|simply|which|who|whose|the reason)\b)[\w'-]+){0,8}\W*$"
)

_REDUCED: Final = re.compile(
    rf"{words.LOSS.pattern}(?:\s+(?!(?:and|but|or|which|who)\b)[\w'-]+){{0,5}}\s*$"
)

_WITHOUT_THE: Final = re.compile(
    r"^\W*(?:and )?(?:without|were it not for) (?:the|these|this|its|his|her|their)\b"
)

_NEGATED_AFTER: Final = re.compile(
    r"^(?:(?:\s*,)?\s*(?:(?:and|or) )?(?:natural |fine |the"
    rf" )?{words.NOUNS.pattern})*(?:\s*[:,-]+ (?=all))?"
    r"[\s\"')]+(?:(?!(?:that|which|who|referent|and|or|but|as|where)\b)[\w'-]+\s+){0,7}?"
    + words.NEGATION_AFTER.pattern
)

#: Of a color that only describes what is blurred or bare: 'a gray mush'.
_IN_PASSING: Final = re.compile(
    r"\s+(?:mush|blur|smear|smudge|haze|fog|mist|slab|band|bar|strip|block|mass|stroke|void|plane"
    r"|surface|square|rectangle|box|rim|edge|border|seam|line|contour)\b"
)


class Claim(NamedTuple):
    """One statement about a region: `types` are those that its words may mean, empty for no type.

    It is `explicit` if its own words judge; a bare 'tone' or 'shape' is taken for a fault.
    """

    types: frozenset[str]
    is_fault: bool
    words: str
    is_explicit: bool = True


@functools.lru_cache(maxsize=4096)  # parts are read again as the text is cut
def claims_of(text: str) -> tuple[Claim, ...]:
    """What a clause claims of its regions."""
    return tuple(_find_claims(text))


def _find_claims(text: str) -> Iterator[Claim]:
    bad = [not _is_negated(text, match) for match in words.BAD.finditer(text)]
    good = [
        not (_is_negated(text, match, is_sound=True) or words.TOO.search(text[: match.start()]))
        for match in words.GOOD.finditer(text)
    ]
    stated: set[frozenset[str]] = set()
    for types, pattern in words.FAULTS:
        for match in pattern.finditer(text):
            if types == {"color"} and _IN_PASSING.match(text, match.end()):
                continue
            stated.add(types)
            yield Claim(types, not _is_negated(text, match), match[0])
    # A judgment decides about nouns that do not judge themselves: 'an odd color', 'no natural texture'.
    judged_fault = any(bad) or (not any(good) and not (bad and not any(bad))) or not all(good)
    for types, pattern in words.SOUND:
        for match in pattern.finditer(text):
            stated.add(types)
            if words.TOO.search(text[: match.start()]):  # 'too sharp'
                yield Claim(frozenset(), True, match[0])
                continue
            negations = _negations(text, match, is_sound=True)
            is_fault = (
                negations == 1
                or (negations == 0 and judged_fault and bool(words.NEUTRAL.match(match[0])))
                or (any(bad) and bool(words.TURNED.match(match[0])))
            )
            yield Claim(types, is_fault, match[0])
    for types, pattern in words.TOPICS:
        for match in pattern.finditer(text):
            # 'the contour is washed out', 'it blends seamlessly'
            if types in stated or (stated and len(types) > 1):
                continue
            stated.add(types)
            yield Claim(types, judged_fault, match[0], bool(bad or good))
    if not stated:
        for is_fault in (*bad, *(not sound for sound in good)):
            yield Claim(frozenset(), is_fault, "")


def _is_negated(text: str, match: re.Match[str], *, is_sound: bool = False) -> bool:
    return _negations(text, match, is_sound=is_sound) == 1


def _negations(text: str, match: re.Match[str], *, is_sound: bool) -> int:
    """How often a word is denied: 0, 1, or 2 as in 'no pores are missing'."""
    before = _WITHOUT_THE.sub("", text[: match.start()])
    is_denied_before = _NEGATED.search(before) or (is_sound and _REDUCED.search(before))
    return bool(is_denied_before) + bool(_NEGATED_AFTER.match(text[match.end() :]))
