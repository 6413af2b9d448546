"""The words: what counts as naming a region, and what counts as stating the verdict."""

from __future__ import annotations

import pytest

from jax_vlffd import vocabulary
from jax_vlffd.vocabulary import (
    NEUTRAL_CAPTION,
    PHRASES,
    REGION_NOUNS,
    REGIONS,
    TYPE_NOUNS,
    TYPES,
    UNTYPED_PHRASES,
    VERDICTS,
    regions_named,
    types_named,
    without_verdict,
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The mouth is blurry.", {"mouth"}),
        ("LIPS, teeth and tongue", {"mouth"}),
        ("An asymmetric smile.", {"mouth"}),
        ("The nasal bridge; one nostril", {"nose"}),
        ("eyebrows, eyelids, pupils, gaze", {"eyes"}),
        ("Her irises and lashes.", {"eyes"}),
        ("chin cheek forehead jaw", {"face"}),
        ("The skin is uneven around the eyes.", {"face", "eyes"}),
        ("The face looks blurry.", {"face"}),
        ("The facial skin is flat.", {"face"}),
        ("This is a fake face.", set()),
        ("This is a real face.", set()),
        ("I think this face was manipulated.", set()),
        ("A face image made by a face-swapping tool.", set()),
        ("It differs from the surrounding skin and the rest of the face.", set()),
        ("The facial expression is odd.", set()),
        ("The noses' tips", {"nose"}),
        ("A nosegay, a mouthful, eyewear, surfaces, facet, lipid, browse, chinos", set()),
        ("", set()),
    ],
)
def test_regions_named(text: str, named: set[str]) -> None:
    assert regions_named(text) == named


@pytest.mark.parametrize("region", REGIONS)
def test_every_noun_names_its_own_region_alone(region: str) -> None:
    for noun, _ in REGION_NOUNS[region]:
        assert regions_named(f"The {noun}, here") == {region}


def test_phrases_name_no_region_and_state_no_verdict() -> None:
    texts = [form for phrases in PHRASES.values() for phrase in phrases for form in phrase]
    texts += [form for phrase in UNTYPED_PHRASES for form in phrase]
    texts += [thing for things in TYPE_NOUNS.values() for thing in things]
    for text in texts:
        assert regions_named(text) == set(), text
        assert without_verdict(f"It {text}.") == f"It {text}.", text
    assert set(PHRASES) == set(TYPE_NOUNS) == set(TYPES)
    assert all(len(set(phrases)) == len(phrases) for phrases in PHRASES.values())


def test_types_named() -> None:
    assert types_named("Blurred, discoloured and warped; grainy, with seams") == set(TYPES)
    assert types_named("A colony of soft edges, unwarranted.") == set()
    for kind in TYPES:
        forms = [form for phrase in PHRASES[kind] for form in phrase]
        assert all(types_named(text) <= {kind} for text in (*forms, *TYPE_NOUNS[kind]))
        assert any(types_named(text) for text in forms)


def test_both_numbers_of_a_phrase_say_the_same() -> None:
    verbs = {"has": "have", "is": "are", "looks": "look", "does": "do", "shows": "show"}
    verbs |= {"lacks": "lack", "differs": "differ", "its": "their", "it": "they", "was": "were"}
    for phrase in (*UNTYPED_PHRASES, *(p for ps in PHRASES.values() for p in ps)):
        assert " ".join(verbs.get(word, word) for word in phrase.singular.split()) == phrase.plural


@pytest.mark.parametrize("verdict", VERDICTS)
def test_without_verdict_takes_the_verdict_out(verdict: str) -> None:
    assert without_verdict(f"{verdict} The mouth is blurry.") == "The mouth is blurry."
    assert without_verdict(f"The mouth is blurry. {verdict}") == "The mouth is blurry."
    assert without_verdict(verdict) == NEUTRAL_CAPTION
    assert without_verdict("") == NEUTRAL_CAPTION


@pytest.mark.parametrize(
    "sentence",
    [
        "No sign of manipulation is visible.",
        "The picture was edited.",
        "It is an AI-generated image.",
        "A deep-fake.",
        "Genuine!",
        "Is it synthesised?",
    ],
)
def test_without_verdict_knows_other_words_for_it(sentence: str) -> None:
    assert without_verdict(f"{sentence} The nose looks soft.") == "The nose looks soft."


def test_the_neutral_caption_says_nothing() -> None:
    assert without_verdict(NEUTRAL_CAPTION) == NEUTRAL_CAPTION
    assert regions_named(NEUTRAL_CAPTION) == set()
    assert vocabulary.VERDICTS[vocabulary.FAKE] == "This is a fake face."
