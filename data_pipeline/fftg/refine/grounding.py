"""Checks a reply against the annotation: a refined caption may only describe what was measured.

The check is ours. It covers the fields of a reply and the words of its caption, which are read by
the rule that also scores captions (`vocabulary.regions_named`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.fftg.refine.reply_schema import Reply
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES, VERDICTS, regions_named, types_named

#: Every kind of violation, in the order of reports.
KINDS: Final = (
    "bad_format",  # not a reply of the requested form
    "wrong_verdict",  # the verdict field or the words contradict the label
    "region_not_forged",  # names a region that the annotation does not flag
    "region_missing",  # a flagged region is not in the words
    "type_not_found",  # names a type that was not detected (in that region, for the fields)
    "mentions_reference",  # mentions the other image, which the detector never sees
    "too_long",  # would not fit CLIP's context
    "unsafe_text",  # links, markup, control characters, instructions
)
MAX_WORDS: Final = 55  # with the verdict sentence about 70 of CLIP's 77 tokens
MAX_CHARACTERS: Final = 420

_CONTRARY = {
    FAKE: re.compile(
        r"\b(?:real|genuine|authentic|unaltered|unedited|unmanipulated|pristine)\b"
        r"|\b(?:no|without(?: any)?|not any)\s+(?:\w+\s+){0,2}"
        r"(?:signs?|traces?|evidence|indications?|forger(?:y|ies)|manipulations?|artifacts?)\b"
        r"|\bnot\s+(?:a\s+|been\s+)?(?:fake|forged|manipulated|altered|edited)\b",
        re.IGNORECASE,
    ),
    REAL: re.compile(
        r"\b(?:fake|forged|deepfake|synthetic)\b"
        r"|(?<!not )(?<!not been )\b(?:manipulated|altered|edited|tampered)\b",
        re.IGNORECASE,
    ),
}
_REFERENCE = re.compile(
    r"\b(?:(?:left|right|first|second|other|original|reference|real|source)[\s-]+"
    r"(?:hand\s+)?(?:image|picture|photo|photograph|half|one|side|panel|version)"
    r"|(?:left|first|second|other|original|reference|source)\s+face"
    r"|side by side|both (?:images|pictures|faces)|(?:two|pair of) (?:images|pictures|faces)"
    r"|(?:than|like|from|to|with|unlike) the (?:original|reference|source))\b",
    re.IGNORECASE,
)
_UNSAFE = re.compile(
    r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|ru|cn|ai|dev|html?)\b|@|[<>{}\[\]\\`|~^*_#=$]"
    r"|\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|prompts?|above|previous|rules?)\b"
    r"|\b(?:system prompt|prompt injection|as an ai|language model|assistant|api[ _-]?keys?"
    r"|passwords?|chatgpt|openai|json)\b",
    re.IGNORECASE | re.DOTALL,
)
# Typographic characters and their plain replacements; what is compatible with plain ones (spaces, the ellipsis)
# follows from normalization.
_PLAIN: Final = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_MAX_CHECKED: Final = 2_000  # characters; longer captions are refused anyway


class Violation(NamedTuple):
    """One contradiction between a reply and its annotation: one of KINDS, and a description."""

    kind: str
    detail: str


def forged_regions(annotation: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns the forged regions of an annotation line with their types, in REGIONS order.

    Lines of other programs may hold anything: only words of the vocabulary are returned.
    """
    regions = annotation.get("regions")
    forged = {}
    for name in REGIONS:
        region = regions.get(name) if isinstance(regions, Mapping) else None
        if isinstance(region, Mapping) and region.get("forged"):
            types = region.get("types")
            types = types if isinstance(types, list | tuple) else ()
            forged[name] = tuple(kind for kind in types if kind in TYPES)
    return forged


def check(reply: Reply, annotation: Mapping[str, Any]) -> list[Violation]:
    """Returns the violations of a reply; it may be used if there are none.

    Args:
      reply: the model's reply.
      annotation: a line of `launch.annotate`; its `label` and `regions` are read.
    """
    label = int(annotation["label"])
    forged = forged_regions(annotation)
    text = _plain(reply.caption, label)
    return [
        *_check_fields(reply, label, forged),
        *_check_words(text, label, forged),
        *_check_safety(text),
    ]


def final_caption(reply: Reply, label: int) -> str:
    """Returns the caption of a valid reply: the fixed verdict sentence, then its words."""
    text = _plain(reply.caption, label)
    if text and text[-1] not in ".!?":
        text += "."
    return f"{VERDICTS[label]} {text[:1].upper()}{text[1:]}"


def _plain(text: str, label: int) -> str:
    """The text without the verdict sentence, on one line, with plain quotes and dashes."""
    text = unicodedata.normalize("NFKC", text[:_MAX_CHECKED].translate(_PLAIN))
    text = re.sub(r"[ \t\n]+", " ", text).strip()
    return re.sub(rf"(?:^|(?<=[.!?] )){re.escape(VERDICTS[label])}(?: |$)", "", text).strip()


def _check_fields(reply: Reply, label: int, forged: Mapping[str, Sequence[str]]) -> list[Violation]:
    violations = []
    if reply.verdict.strip().rstrip(".").lower() != VERDICTS[label].rstrip(".").lower():
        violations.append(Violation("wrong_verdict", f"verdict {_quote(reply.verdict)}"))
    for part in reply.regions:
        region = part.region.strip().lower()
        if region not in forged:
            violations.append(Violation("region_not_forged", f"region {_quote(region)}"))
            continue
        for kind in part.types:
            if kind.strip().lower() not in forged[region]:
                violations.append(Violation("type_not_found", f"{_quote(kind)} in the {region}"))
    return violations


def _check_words(text: str, label: int, forged: Mapping[str, Sequence[str]]) -> list[Violation]:
    violations = []
    named = regions_named(text)
    for region in REGIONS:
        if region in named and region not in forged:
            violations.append(Violation("region_not_forged", f"the caption mentions the {region}"))
        if region in forged and region not in named:
            violations.append(
                Violation("region_missing", f"the caption does not mention the {region}")
            )
    allowed = {kind for kinds in forged.values() for kind in kinds}
    for kind in sorted(types_named(text) - allowed):
        violations.append(Violation("type_not_found", f"the caption mentions {kind}"))
    reference = _REFERENCE.search(text)
    if reference:
        violations.append(
            Violation("mentions_reference", f"the caption says {_quote(reference[0])}")
        )
    elif contrary := _CONTRARY[label].search(text):
        violations.append(Violation("wrong_verdict", f"the caption says {_quote(contrary[0])}"))
    words = len(text.split())
    if words > MAX_WORDS or len(text) > MAX_CHARACTERS:
        violations.append(Violation("too_long", f"{words} words, {len(text)} characters"))
    return violations


def _check_safety(text: str) -> list[Violation]:
    if not text:
        return [Violation("bad_format", "the caption is empty")]
    unusual = next((c for c in text if not _is_latin(c)), None)
    if unusual is not None:
        return [Violation("unsafe_text", f"character U+{ord(unusual):04X}")]
    unsafe = _UNSAFE.search(text)
    return [Violation("unsafe_text", _quote(unsafe[0]))] if unsafe else []


def _is_latin(character: str) -> bool:
    """Whether a character belongs to Latin text: no controls, direction marks or other scripts."""
    if character.isascii():
        return character.isprintable()
    return unicodedata.name(character, "").startswith("LATIN ")


def _quote(text: str) -> str:
    """An excerpt of a reply, short and printable, for reports and for the repair turn."""
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return f"'{clean[:40]}'"
