"""Captions: they name exactly the flagged regions, in clean English, within CLIP's context."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import captions
from data_pipeline.captions import caption, caption_key, paraphrases
from jax_vlffd.vocabulary import (
    FAKE,
    NEUTRAL_CAPTION,
    PHRASES,
    REAL,
    REGIONS,
    TYPES,
    VERDICTS,
    regions_named,
    without_verdict,
)

annotations = st.dictionaries(
    st.sampled_from(REGIONS), st.lists(st.sampled_from(TYPES), unique=True).map(tuple)
)
seeds = st.one_of(st.integers(), st.text(max_size=20))

# Words that judge, wider than the vocabulary's own list.
JUDGMENT = re.compile(
    r"fake|real|forg|manipul|alter|edit|synth|generat|tamper|swap|artificial|fraud|authentic|genuine",
    re.IGNORECASE,
)


def _clauses(sentence: str) -> list[str]:
    return re.split(r", (?:and|while) (?=the )", sentence)


def _subsets() -> list[tuple[str, ...]]:
    sizes = range(len(REGIONS) + 1)
    return [subset for n in sizes for subset in itertools.combinations(REGIONS, n)]


@given(annotations, seeds)
def test_names_exactly_the_flagged_regions(regions: dict[str, tuple[str, ...]], seed: str) -> None:
    for text in (caption(FAKE, regions, seed), without_verdict(caption(FAKE, regions, seed))):
        assert regions_named(text) == set(regions)


def test_names_exactly_the_flagged_regions_for_every_subset_and_type_set() -> None:
    type_sets = [s for n in range(6) for s in itertools.combinations(TYPES, n)]
    rng = random.Random(0)
    for subset in _subsets():
        for types in type_sets:
            mixed = {region: rng.choice(type_sets) for region in subset}
            for regions in (dict.fromkeys(subset, types), mixed):
                text = caption(FAKE, regions, seed=str(regions))
                assert regions_named(text) == set(subset), text


@given(annotations, seeds)
def test_the_verdict_is_one_sentence_that_can_be_removed(
    regions: dict[str, tuple[str, ...]], seed: str
) -> None:
    for label, flagged in ((FAKE, regions), (REAL, {})):
        text = caption(label, flagged, seed)
        sentences = re.split(r"(?<=\.) ", text)
        assert sentences.count(VERDICTS[label]) == 1
        assert VERDICTS[1 - label] not in text
        rest = without_verdict(text)
        assert rest
        assert rest != NEUTRAL_CAPTION
        assert not JUDGMENT.search(rest), rest


@given(annotations, seeds)
def test_reads_as_clean_english(regions: dict[str, tuple[str, ...]], seed: str) -> None:
    text = caption(FAKE, regions, seed)
    assert re.fullmatch(r"[A-Za-z ,.]+\.", text)
    assert not re.search(r"\s,|\s\.|  |\.\.|,,|, and and| and,|\b(\w+) \1\b", text), text
    sentences = re.split(r"(?<=\.) ", text)
    assert all(sentence[0].isupper() for sentence in sentences)
    assert len(set(sentences)) == len(sentences)
    # The verb agrees with the noun before it.
    many = r"(?:eyes|lips|The [a-z ]+(?:, the [a-z ]+)* and the [a-z ]+)"
    singular = rf"\b{many} (?:also )?(?:has|is|looks|lacks|shows|does|differs)\b"
    assert not any(re.search(singular, part) for s in sentences for part in _clauses(s)), text
    one = r"\b[Tt]he (?:mouth|nose|face|\w+ skin)(?: area)? (?:also )?(?:have|are|look)\b"
    assert not any(re.match(one, part) for s in sentences for part in _clauses(s)), text


def test_several_regions_are_listed_briefly_without_repetition() -> None:
    rng = random.Random(3)
    for seed in range(600):
        kinds = {region: rng.sample(TYPES, rng.randint(0, 3)) for region in REGIONS}
        text = caption(FAKE, {region: kinds[region] for region in rng.sample(REGIONS, 3)}, seed)
        assert not re.search(" area| region", text), text
        assert all(sentence.count(" also ") < 2 for sentence in text.split(".")), text
        # Each of the regions by its name, and two of them at most again.
        assert len(re.findall(r"mouth|lips|nose|eyes|(?<!fake )\bface\b|skin (?!of)", text)) <= 6, (
            text
        )


def test_no_phrase_is_said_twice() -> None:
    phrases = [form for kind in TYPES for phrase in PHRASES[kind] for form in phrase]
    rng = random.Random(1)
    for seed in range(300):
        regions = {r: [t for t in TYPES if rng.random() < 0.4] for r in rng.sample(REGIONS, 3)}
        text = caption(FAKE, regions, seed)
        assert all(text.count(phrase) <= 1 for phrase in phrases), text


def test_every_type_is_said_of_its_region() -> None:
    words = {
        "color": r"color|tone|hue",
        "blur": r"blur|sharp|softer|detail",
        "structure": r"shape|deform|distort|structure",
        "texture": r"texture|grain",
        "boundary": r"boundary|edge|seam|blend",
    }
    for region, kind in itertools.product(REGIONS, TYPES):
        for text in paraphrases(FAKE, {region: [kind]}, "pair", 20):
            said = {other for other in TYPES if re.search(words[other], text, re.IGNORECASE)}
            assert said == {kind}, text


def test_a_fake_without_visible_forgery_says_so_and_does_not_leak() -> None:
    hidden = [caption(FAKE, {}, seed) for seed in range(300)]
    real = [caption(REAL, {}, seed) for seed in range(300)]
    assert all(re.search(r"forgery|manipulation", text) for text in hidden)
    assert all(re.search(r"\b(?:no|not|cannot)\b", text, re.I) for text in hidden)
    assert {without_verdict(t) for t in hidden} == {without_verdict(t) for t in real}
    assert all(regions_named(text) == set() for text in hidden + real)


def test_wording_follows_from_the_seed_and_varies_with_it() -> None:
    regions = {"mouth": ["blur"], "eyes": ["color", "structure"]}
    assert caption(FAKE, regions, "a/1") == caption(FAKE, regions, "a/1")
    assert len({caption(FAKE, regions, seed) for seed in range(200)}) > 100
    # Order and container of the annotation do not matter.
    again = {"eyes": ("structure", "color"), "mouth": {"blur"}}
    assert caption(FAKE, regions, 7) == caption(FAKE, again, 7)  # type: ignore[arg-type]


def test_paraphrases_are_distinct_and_prefixes_of_one_another() -> None:
    for label, regions in ((FAKE, {"nose": ["blur"]}), (FAKE, {}), (REAL, {})):
        ten = paraphrases(label, regions, "pair", 10)
        assert len(set(ten)) == 10
        assert paraphrases(label, regions, "pair", 4) == ten[:4]
        assert [caption(label, regions, "pair", i) for i in range(10)] == ten


def test_indices_past_the_last_wording_start_over() -> None:
    texts = paraphrases(FAKE, {"nose": []}, "pair", 10_000)
    assert len(set(texts)) == len(texts) < 10_000
    assert caption(FAKE, {"nose": []}, "pair", 10_000) in texts


def test_caption_key() -> None:
    assert caption_key(REAL, {}) == "real"
    assert caption_key(FAKE, {}) == "fake:none"
    regions = {"mouth": ["texture"], "eyes": ["color", "blur"]}
    assert caption_key(FAKE, regions) == "fake:eyes=blur+color;mouth=texture"
    assert caption_key(FAKE, {"nose": []}) == "fake:nose="


@given(annotations, annotations)
def test_caption_key_is_equal_exactly_for_equal_meaning(
    a: dict[str, tuple[str, ...]], b: dict[str, tuple[str, ...]]
) -> None:
    same = {r: set(t) for r, t in a.items()} == {r: set(t) for r, t in b.items()}
    assert (caption_key(FAKE, a) == caption_key(FAKE, b)) == same


@pytest.mark.parametrize(
    ("label", "regions", "message"),
    [
        (2, {}, "label 2"),
        (REAL, {"nose": ["blur"]}, "real face"),
        (FAKE, {"ear": ["blur"]}, "'ear'"),
        (FAKE, {"nose": ["smell"]}, "'smell'"),
    ],
)
def test_unknown_words_are_refused(label: int, regions: dict[str, list[str]], message: str) -> None:
    for function in (lambda: caption_key(label, regions), lambda: caption(label, regions, 0)):
        with pytest.raises(ValueError, match=message):
            function()


@pytest.mark.slow
def test_captions_fit_clip(shared_dir: Path) -> None:
    folder = shared_dir / "weights" / "clip-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no CLIP tokenizer at {folder}")
    from transformers import CLIPTokenizerFast

    tokenizer = CLIPTokenizerFast.from_pretrained(str(folder))
    rng = random.Random(2)
    texts = []
    for seed in range(4000):
        share = rng.choice((0.3, 0.6, 0.9))
        regions = {r: [t for t in TYPES if rng.random() < share] for r in REGIONS}
        texts.append(caption(FAKE, {r: t for r, t in regions.items() if t}, seed))
        texts.append(caption(REAL, {}, seed))
    # The longest annotations of all: four regions, all different, with four or five types each.
    fours = list(itertools.combinations(TYPES, 4))
    for chosen in itertools.permutations([TYPES, *fours], 4):
        texts += paraphrases(FAKE, dict(zip(REGIONS, chosen, strict=True)), 0, 3)
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    assert max(lengths) < 77, texts[lengths.index(max(lengths))]
    counted = [captions._tokens([text]) for text in texts]
    assert all(own >= true - 3 for own, true in zip(counted, lengths, strict=True))
