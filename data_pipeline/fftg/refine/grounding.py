"""Checks a reply against the annotation: a refined caption may only describe what was measured.

The check is ours. It covers the fields of a reply and the words of its caption, which are read by
the clauses that also score captions (`vocabulary.clauses`).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.fftg.refine import banned_words as banned
from data_pipeline.fftg.refine.reply_schema import Reply
from jax_vlffd.clauses.reader import Clause
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

_SIMILE = re.compile(r"\b(?:as if|as though)\b[^,.;:!?]*")
_CONCEDES = re.compile(r"\W*(?:though|although|while|whilst|even if|otherwise)\b")
_OF_PICTURE = re.compile(
    r"\b(?:its?|they|these|this|appearance|impression|effect|real|genuine|authentic)\b"
)
_OF_VERDICT = re.compile(rf"\b{banned.FORGERY}\b")
_OF_PEOPLE = re.compile(r"\b(?:i|you|whoever|readers?|someone|anybody|nobody|computer)\b")
_PICTURE = re.compile(r"\b(?:image|picture|photo(?:graph)?|portrait|face|it|something)\b")
_MIN_WORDS = 3  # of a sentence that must say something of the face
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
    read = clauses(text)
    return [
        *_check_fields(reply, label, forged),
        *_check_words(text, read, label, forged),
        *_check_safety(text, read),
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


def _check_words(
    text: str, read: Sequence[Clause], label: int, forged: Mapping[str, Sequence[str]]
) -> list[Violation]:
    violations = []
    named = regions_named(text)
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
    if label == REAL and not violations:
        for clause in read:
            if clause.is_faulty and (not clause.is_other or _PICTURE.search(clause.text)):
                violations.append(
                    Violation("region_not_forged", f"{_quote(clause.text)} of a real face")
                )
    for number, clause in enumerate(read):
        violations += _check_clause(clause, forged, read[number + 1 :], read[:number])
    reference = banned.REFERENCE.search(_SIMILE.sub(" ", text.lower()))
    if reference:
        violations.append(
            Violation("mentions_reference", f"the caption says {_quote(reference[0])}")
        )
    elif contrary := _contrary(text.lower(), read, label, forged):
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


def _check_clause(
    clause: Clause,
    forged: Mapping[str, Sequence[str]],
    after: Sequence[Clause],
    before: Sequence[Clause],
) -> list[Violation]:
    """What a clause says of its regions, or of the picture if it names none, that was not measured."""
    if clause.is_other:
        return []
    violations = []
    everything = {kind for kinds in forged.values() for kind in kinds}
    # A concession is none of these: 'sharp in its corners, but blurred', 'blurred, though the light is good'.
    around = (clause, *after, *(before if _CONCEDES.match(clause.text) else ()))
    for region in clause.regions or ("",):
        claims = [
            claim
            for other in around
            if other is clause or (other.sentence == clause.sentence and region in other.regions)
            for claim in other.claims
            if claim.is_fault
        ]
        faults = {kind for claim in claims for kind in claim.types}
        is_conceded = any(claim not in clause.claims for claim in claims)
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
            untrue = claim.types & allowed if claim.types else clause.is_clean and not is_conceded
            if not claim.is_fault and region in forged and untrue and not claim.types & faults:
                violations.append(Violation("called_clean", f"{_quote(claim.words)} {where}"))
    return violations


def _contrary(
    text: str, read: Sequence[Clause], label: int, forged: Mapping[str, Sequence[str]]
) -> str:
    """The words that contradict the label, or ''."""
    if label == REAL:
        return _affirmed(banned.FAKE, text)
    elsewhere = " / ".join(clause.text for clause in read if _is_of_sound_parts(clause, forged))
    contrary = _affirmed(banned.AUTHENTIC, text)
    if contrary in elsewhere:
        contrary = ""  # 'the nose is untouched, but the mouth is deformed'
    if contrary := contrary or _affirmed(banned.EXPLAINED, text, banned.NOT_BY):
        return contrary
    for clause in read:
        denied = banned.DENIED.search(clause.text)
        if (
            denied
            and not _is_of_sound_parts(clause, forged)
            and not banned.ELSEWHERE.search(clause.text)
        ):
            return denied[0]
    return ""


def _is_of_sound_parts(clause: Clause, forged: Mapping[str, Sequence[str]]) -> bool:
    return bool(clause.regions) and not set(clause.regions) & set(forged)


def _affirmed(pattern: re.Pattern[str], text: str, unless: re.Pattern[str] = banned.UNLESS) -> str:
    """The first words of a pattern that nothing before them denies, or ''."""
    return next((m[0] for m in pattern.finditer(text) if not unless.search(text[: m.start()])), "")


def _check_safety(text: str, read: Sequence[Clause]) -> list[Violation]:
    if not text:
        return [Violation("bad_format", "the caption is empty")]
    unusual = next((c for c in text if not _is_latin(c)), None)
    if unusual is not None:
        return [Violation("unsafe_text", f"character U+{ord(unusual):04X}")]
    unsafe = banned.UNSAFE.search(text.lower())
    if unsafe:
        return [Violation("unsafe_text", _quote(unsafe[0]))]
    for _, group in itertools.groupby(read, lambda clause: clause.sentence):
        sentence = [*group]
        words = " ".join(clause.text for clause in sentence)
        is_bare = all(clause.is_bare for clause in sentence) and not (
            _OF_VERDICT.search(words)
            or (_OF_PICTURE.search(words) and not _OF_PEOPLE.search(words))
        )
        if is_bare and len(words.split()) >= _MIN_WORDS:
            return [Violation("unsafe_text", f"{_quote(words.strip())} says nothing of the face")]
    return []


def _is_latin(character: str) -> bool:
    """Whether a character belongs to Latin text: no controls, direction marks or other scripts."""
    if character.isascii():
        return character.isprintable()
    return unicodedata.name(character, "").startswith("LATIN ")


def _quote(text: str) -> str:
    """An excerpt of a reply, short and printable, for reports and for the repair turn."""
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return f"'{clean[:40]}'"
