"""The bank of sentences: what it says, how it is calibrated, and that it never hides a contradiction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jax_vlffd import explanation
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import MIN_EXAMPLES, PlattScaling
from jax_vlffd.explanation import ENTRIES, Explainer
from jax_vlffd.vocabulary import REGIONS, TYPES, regions_named, types_named, without_verdict
from tests.support import tiny_workdir


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return tiny_workdir.explainer(width=48)


def toward(explainer: Explainer, *entries: int) -> np.ndarray:
    """An image that is as the sentences of these entries say."""
    return tiny_workdir.unit(explainer.directions[list(entries)].sum(0))


def entry(region: str, kind: str) -> int:
    return ENTRIES.index((region, kind))


def test_every_sentence_names_its_region_and_no_other() -> None:
    for sentence in explanation.bank():
        region, kind = ENTRIES[sentence.entry]
        assert regions_named(sentence.text) == ({region} if region else set()), sentence
        assert types_named(sentence.text) <= {kind} or not region, sentence
        assert without_verdict(sentence.prompt) == sentence.text


def test_every_entry_has_several_paraphrases() -> None:
    texts = [s.text for s in explanation.bank()]
    assert len(set(texts)) == len(texts)
    for number in range(len(ENTRIES)):
        assert sum(s.entry == number for s in explanation.bank()) >= 4
    assert ENTRIES[7] == (REGIONS[1], TYPES[2])


def test_an_image_is_explained_by_what_is_true_of_it(explainer: Explainer) -> None:
    said = explainer.explain(toward(explainer, entry("nose", "blur")), "fake")
    first = said.reasons[0]
    assert (first.region, first.type, first.contradiction) == ("nose", "blur", False)
    assert regions_named(first.text) == {"nose"}
    assert said.types["nose"]["blur"] == first.score > 0.5
    assert max(said.regions, key=said.regions.get) == "nose"
    assert said.real < 0.5
    assert said.entries[0] == (entry("nose", "blur"),)


def test_what_speaks_against_the_verdict_is_said_and_flagged(explainer: Explainer) -> None:
    forged = toward(explainer, entry("mouth", "color"))
    for verdict in ("fake", "uncertain", "real"):
        reasons = explainer.explain(forged, verdict).reasons
        assert {r.region for r in reasons} >= {"mouth"}
        assert {r.contradiction for r in reasons if r.region} == {verdict == "real"}
    sound = toward(explainer, entry("", "real"))
    for verdict in ("fake", "uncertain", "real"):
        reasons = explainer.explain(sound, verdict).reasons
        assert [r.region for r in reasons] == [""]
        assert reasons[0].contradiction == (verdict == "fake")


def test_a_region_without_a_sure_type_is_named_without_one(explainer: Explainer) -> None:
    unsure = dataclasses.replace(explainer, types=(PlattScaling(),) * len(explainer.types))
    said = unsure.explain(toward(explainer, entry("eyes", "blur")), "fake")
    assert [(r.region, r.type, r.text) for r in said.reasons] == [
        ("eyes", "", "The eyes do not look natural.")
    ]
    assert said.reasons[0].score == said.regions["eyes"]
    assert said.entries == (tuple(entry("eyes", kind) for kind in TYPES),)


def test_the_map_of_a_reason_is_hot_where_patches_are_like_it(explainer: Explainer) -> None:
    similarities = np.zeros((4, len(ENTRIES)), np.float32)
    similarities[2, entry("nose", "blur")] = 0.8
    similarities[3] = 0.5  # like everything, so like nothing more than the real face
    result = explainer.patch_map(similarities, [entry("nose", "blur")])
    assert result.argmax() == 2
    assert result[3] == result[0] == 0
    assert explainer.patch_map(similarities, [entry("", "real")]).argmax() == 3


def test_what_validation_hardly_shows_is_never_named() -> None:
    rng = np.random.default_rng(0)
    bank = explanation.bank()
    embeddings = tiny_workdir.unit(rng.normal(size=(len(bank), 16)))
    images = tiny_workdir.unit(rng.normal(size=(60, 16)))
    label = np.arange(60) % 2
    types = np.zeros((60, 4, 5), int)
    types[1 : 2 * MIN_EXAMPLES : 2, 0, 0] = 1
    types[1, 1, 0] = 1
    result = explanation.fit(bank, embeddings, images, label, types.any(2), types)
    assert [curve.fitted for curve in result.regions] == [True, False, False, False]
    said = result.explain(toward(result, entry("nose", "color")), "fake")
    assert said.regions["nose"] is None
    assert said.types["nose"]["color"] is None
    assert "nose" not in {reason.region for reason in said.reasons}


def test_a_bank_comes_back_from_its_file(explainer: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "explanation.safetensors"
    path.write_bytes(explainer.to_bytes())
    result = Explainer.load(path)
    assert result.to_bytes() == explainer.to_bytes()
    image = toward(explainer, 3, 9)
    assert result.explain(image, "fake") == explainer.explain(image, "fake")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"", lambda data: data[:100], lambda data: b"x" * 500,
        lambda data: data.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
        lambda data: data.replace(b'\\"slope\\"', b'\\"slepo\\"'),
        lambda data: data.replace(b'\\"images\\"', b'\\"imegas\\"'),
    ],
)  # fmt: skip
def test_a_damaged_bank_is_an_error(explainer: Explainer, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "explanation.safetensors"
    data = damage(explainer.to_bytes())
    assert data != explainer.to_bytes()
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"explanation\.safetensors: not a bank of sentences"):
        Explainer.load(path)
