"""The grammar of captions: which regions a sentence calls forged, and with which types."""

from __future__ import annotations

import itertools

import pytest

from jax_vlffd.vocabulary import REGION_NOUNS, REGIONS, TYPE_NOUNS, TYPES, clauses, regions_named

NOUNS = {"mouth": "mouth", "nose": "nose", "eyes": "eyes", "face": "cheeks"}
VERBS = {"mouth": "is", "nose": "is", "eyes": "are", "face": "are"}
PAIRS = list(itertools.permutations(REGIONS, 2))


@pytest.mark.parametrize(
    "sentence",
    [
        "Not the {b}, but the {a} {is_a} blurred.",
        "It is the {a}, not the {b}, that {is_a} blurred.",
        "The {a} {is_a} blurred, but the {b} {is_b} not.",
        "The {b} {is_b} sharp, but the {a} {is_a} not.",
        "The {a} {is_a} blurred, which cannot be said of the {b}.",
        "The {a} {is_a} blurrier than the {b}.",
        "The {a} {is_a} not as sharp as the {b}.",
        "The {a} {is_a} blurred, unlike the {b}.",
        "While the {b} {is_b} perfectly natural, the {a} {is_a} distorted.",
        "There is a seam around the {a}, but none around the {b}.",
        "Apart from the {b}, which {is_b} fine, the {a} {is_a} discolored.",
        "The {a} {is_a} free of blur, yet it is distorted; the {b} {is_b} sound.",
    ],
)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_region_that_is_only_contrasted_is_not_named(sentence: str, a: str, b: str) -> None:
    text = sentence.format(a=NOUNS[a], b=NOUNS[b], is_a=VERBS[a], is_b=VERBS[b])
    assert regions_named(text) == {a}, text


@pytest.mark.parametrize(
    "sentence",
    [
        "The {a} and the {b} are deformed.",
        "The {a} {is_a} deformed, as well as the {b}.",
        "The {a} {is_a} deformed, and so {is_b} the {b}.",
        "Neither the {a} nor the {b} {is_b} sharp.",
        "A deformed {a}, a blurred {b}.",
        "Misshapen {a}, blotchy {b}",
        "A bent {a} above a blurred {b}.",
    ],
)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_regions_of_a_list_are_all_named(sentence: str, a: str, b: str) -> None:
    text = sentence.format(a=NOUNS[a], b=NOUNS[b], is_a=VERBS[a], is_b=VERBS[b])
    assert regions_named(text) == {a, b}, text


def test_what_is_compared_with_ends_before_the_next_subject() -> None:
    for compared in ("differs in tone from its surroundings", "is softer than the neck"):
        text = f"The skin {compared}, and the lips, the nose and the eyes are blurry."
        assert regions_named(text) == set(REGIONS), text
        text = f"The skin {compared}, the hair and the ears."
        assert regions_named(text) == {"face"}, text


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(
    ("sentence", "is_named"),
    [
        ("All features except the {a} are sharp.", True),
        ("No feature but the {a} is blurred.", True),
        ("The {a} {is_a} not without distortion.", True),
        ("One looks in vain for sharp detail on the {a}.", True),
        ("The {a} {is_a} anything but symmetric.", True),
        ("The {a} {is_a} sharp in part, but otherwise blurred.", True),
        ("Nothing is wrong with the {a}.", False),
        ("I have no complaints about the {a}.", False),
        ("No texture is missing from the {a}.", False),
    ],
)
def test_denials_and_exceptions(sentence: str, is_named: bool, region: str) -> None:
    text = sentence.format(a=NOUNS[region], is_a=VERBS[region])
    assert (regions_named(text) == {region}) == is_named, text


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(TYPES, 2)))
def test_types_belong_to_the_region_of_their_clause(
    a: str, b: str, first: str, second: str
) -> None:
    for text in (
        f"There is {TYPE_NOUNS[first][0]} in the {NOUNS[a]} and {TYPE_NOUNS[second][0]} in the {NOUNS[b]}.",
        f"The {NOUNS[a]} shows {TYPE_NOUNS[first][0]}; the {NOUNS[b]} shows {TYPE_NOUNS[second][0]}.",
    ):
        stated = {
            region: {kind for claim in clause.claims if claim.is_fault for kind in claim.types}
            for clause in clauses(text)
            for region in clause.regions
        }
        assert first in stated[a], text
        assert second in stated[b], text
        assert second not in stated[a], text


@pytest.mark.parametrize("region", REGIONS)
def test_a_text_of_any_length_is_read_whole(region: str) -> None:
    filler = "The hair is dark. " * 500 + "so it is " * 500
    assert len(filler) > 12_000
    noun, _ = REGION_NOUNS[region][0]
    assert regions_named(f"{filler}. The {noun} looks blurry.") == {region}
    assert regions_named(f"The {noun} looks blurry. {filler}") == {region}
