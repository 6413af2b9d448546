"""Checks a reply against the annotation: a refined caption may only describe what was measured.

The check is ours. It covers the fields of a reply and the words of its caption, which are read by
the clauses that also score captions (`vocabulary.clauses`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.fftg.refine.reply_schema import Reply
from jax_vlffd.clauses import Clause
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES, VERDICTS, clauses, regions_named

#: Every kind of violation, in the order of reports.
KINDS: Final = (
    "bad_format",  # not a reply of the requested form
    "wrong_verdict",  # the verdict field or the words contradict the label
    "region_not_forged",  # calls a region forged that the annotation does not flag
    "region_missing",  # a flagged region is not in the words
    "called_clean",  # calls a flagged region, or a detected type in it, sound
    "type_not_found",  # names a type that was not detected in that region
    "mentions_reference",  # mentions the other image, which the detector never sees
    "too_long",  # would not fit CLIP's context
    "unsafe_text",  # links, markup, control characters, instructions
)
MAX_WORDS: Final = 55  # with the verdict sentence about 70 of CLIP's 77 tokens
MAX_CHARACTERS: Final = 420

_FORGERY = (
    r"(?:forg(?:er(?:y|ies)|ed)|manipulat(?:ions?|ed)|tamper(?:ing|ed)|edit(?:s|ing|ed)?|alter(?:ed"
    r"|ations?)|retouch(?:ing|ed)"
    r"|fak(?:es?|ed|ery)|deep-?fakes?|touched|swap(?:s|ped|ping)?|doctored|artifacts?|changed|generated"
    r"|photoshopped)"
)
_NOT = r"(?:no(?:t|body|thing|ne)?|never|no one|without|neither|nor|hardly|\w+n't|free (?:of|from))"
#: Words that affirm or deny the label, and what before them turns them into the contrary.
_AUTHENTIC = re.compile(
    r"\b(?:real(?! (?:skin|teeth|lips|eyes|noses|mouths|faces|people|ones) (?:\w+ )?(?:never|would|should"
    r"|does|has|have)\b)|genuine|authentic|unaltered|unedited|unmanipulated|untampered|unretouched"
    r"|untouched|pristine|legitimate|bona fide"
    r"|(?:is|be|face|photo\w*|picture|image|still) (?:an? )?original|as true as|the real thing"
    r"|ordinary (?:\w+ ){0,2}(?:still|photo\w*|picture|frame)"
    r"|by nature|from birth|person's own|(?:his|her|their) own (?:nose|mouth|eyes|face|skin)|as (?:it"
    r"|they) (?:was|were) (?:recorded|taken|filmed)"
    r"|straight from the camera|(?:camera|lens|light|lighting|shadows?|motion|make-?up|tan|compression"
    r"|age|pose|expression) (?:alone )?"
    r"(?:explains?|accounts? for)|(?:because|owing|due|as a result|thanks?) (?:of"
    r"|to) (?:the )?(?:\w+ )?(?:light(?:ing)?|shadows?|motion|make-?up"
    r"|compression|lens|age|pose|weather|camera|sun))\b",
    re.IGNORECASE,
)
_UNLESS = re.compile(
    r"(?:\b(?:no|not|none|never|hardly|nor|nothing|nobody|without|free|cannot|than|too|if|unlike)"
    r"|n't)\W+(?:[\w'-]+\W+){0,5}$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    rf"\b{_NOT}\s+(?:[\w'-]+\s+){{0,4}}(?:signs?|traces?|evidence|indications?|hints?|marks?)(?:\s+(?:of"
    rf"|that)\s+(?:[\w'-]+\s+){{0,4}}{_FORGERY}|\W*$)"
    rf"|\b{_NOT}\s+(?:(?!(?:only|just|well|fully)\b)[\w'-]+\s+){{0,3}}{_FORGERY}\b(?!\s+(?:away|out|in)\b)"
    r"|\b(?:it|this|that|they) (?:is|are) (?:none|not one)\b|\b(?:proves?|means?) nothing\b|\b(?:only"
    r"|just|merely|simply) (?:a |an )?"
    r"(?:shadows?|strands?|wrinkles?|reflections?|compression|make-?up|light)\b",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"\b(?:else|other|others|elsewhere|apart|except|beyond|besides)\b", re.IGNORECASE
)
_FAKE_WORDS = re.compile(
    r"\b(?:fak(?:e[ds]?|ery)|forg(?:ed|er(?:y|ies))|deep-?fakes?|synthetic|swap(?:s|ped)?|manipulat(?:ed"
    r"|ions?)|altered|edit(?:ed|s)|tampered"
    r"|doctored|retouched|photoshopped|(?:ai|computer)[\s-]generated|worked on|replaced|pasted)\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"\b(?:(?:left|right|first|second|other|original|reference|real|source)[\s-]+"
    r"(?:hand\s+)?(?:image|picture|photo|photograph|half|one|side|panel|version)"
    r"|(?:left|first|second|other|original|reference|source)\s+face"
    r"|(?:image|picture|photo|photograph|face|panel|version) (?:on|to|at) the (?:left|right)"
    r"|(?:used to be|before (?:the|its|any|this) (?:edit\w*|manipulation|forgery|swap|change))"
    r"|counterpart|ground truth"
    r"|side by side|both (?:images|pictures|faces)|(?:two|pair of) (?:images|pictures|faces)"
    r"|(?:than|like|from|to|with|unlike) the (?:original|reference|source))\b",
    re.IGNORECASE,
)
_UNSAFE = re.compile(
    r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|ru|cn|ai|dev|html?)\b|@|[<>{}\[\]\\`|~^*_#=$]"
    r"|\b(?:you|whoever\b.{0,40}|readers?|graders?|evaluators?|annotators?) (?:must|should|shall|have to"
    r"|need to|ought to|are (?:now|to))\b"
    r"|\b(?:note|message|memo|instructions?|hint) (?:to|for) (?:the|all|any|whoever)\b|\bsystem:|\bfull marks\b"
    r"|\b(?:set|change|flip|return|give|output|print|mark|write|answer|respond|reply|label|classify|rate"
    r"|grade|score|treat|report|approve"
    r"|accept)\b.{0,30}\b(?:verdict|labels?|scores?|answer|marks?|only|with|as (?:real|genuine|fake"
    r"|authentic)|real|genuine|records?|points?)\b"
    r"|\b(?:please|dear|graders?|evaluators?|annotators?|reviewers?|raters?|this (?:caption|sentence|text"
    r"|answer|reply|record))\b"
    r"|\b(?:visit|click|subscribe|download|delete|execute|respond|reply)\b"
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
    read = clauses(text)
    for region in REGIONS:
        if (
            region in named
            and region not in forged
            and (label == FAKE or _is_faulted(region, read))
        ):
            violations.append(
                Violation("region_not_forged", f"the caption calls the {region} forged")
            )
        if region in forged and region not in named:
            violations.append(
                Violation("region_missing", f"the caption does not call the {region} forged")
            )
    for clause in read:
        violations += _check_clause(clause, forged)
    reference = _REFERENCE.search(text)
    if reference:
        violations.append(
            Violation("mentions_reference", f"the caption says {_quote(reference[0])}")
        )
    elif contrary := _contrary(text, read, label, forged):
        violations.append(Violation("wrong_verdict", f"the caption says {_quote(contrary)}"))
    words = len(text.split())
    if words > MAX_WORDS or len(text) > MAX_CHARACTERS:
        violations.append(Violation("too_long", f"{words} words, {len(text)} characters"))
    return violations


def _is_faulted(region: str, read: Sequence[Clause]) -> bool:
    """Whether words say that a region has a fault: a real face may be described."""
    return any(
        claim.is_fault and claim.is_explicit
        for clause in read
        if region in clause.regions
        for claim in clause.claims
    )


def _check_clause(clause: Clause, forged: Mapping[str, Sequence[str]]) -> list[Violation]:
    """What a clause says of its regions, or of the picture if it names none, that was not measured."""
    if clause.is_other:
        return []
    violations = []
    everything = {kind for kinds in forged.values() for kind in kinds}
    faults = {kind for claim in clause.claims if claim.is_fault for kind in claim.types}
    for region in clause.regions or ("",):
        allowed = set(forged.get(region, ())) if region else everything
        where = f"in the {region}" if region else "in the face"
        for claim in clause.claims:
            if (
                claim.is_fault
                and claim.types
                and not claim.types & allowed
                and region in {*forged, ""}
            ):
                violations.append(Violation("type_not_found", f"{_quote(claim.words)} {where}"))
            untrue = claim.types & allowed if claim.types else clause.is_clean
            if not claim.is_fault and region in forged and untrue and not claim.types & faults:
                violations.append(Violation("called_clean", f"{_quote(claim.words)} {where}"))
    return violations


def _contrary(
    text: str, read: Sequence[Clause], label: int, forged: Mapping[str, Sequence[str]]
) -> str:
    """The words that contradict the label, or ''."""
    if label == REAL:
        found = (m for m in _FAKE_WORDS.finditer(text) if not _UNLESS.search(text[: m.start()]))
        return next((m[0] for m in found), "")
    for match in _AUTHENTIC.finditer(text):
        if not _UNLESS.search(text[: match.start()]):
            return match[0]
    for clause in read:
        denied = _DENIED.search(clause.text)
        of_sound_parts = clause.regions and not set(clause.regions) & set(forged)
        if denied and not of_sound_parts and not _ELSEWHERE.search(clause.text):
            return denied[0]
    return ""


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
