"""How much the types of annotations say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.label_agreement import between_observers, main, read_labels
from data_pipeline.fftg.informativeness import (
    agreement,
    entropy,
    informativeness,
    kappa,
    methods_of,
)
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, TYPES


def line(name: str, types: tuple[str, ...] | None) -> dict:
    mouth = {"forged": types is not None, "types": list(types or ())}
    others = {region: {"forged": False, "types": []} for region in REGIONS if region != "mouth"}
    return {"id": name, "regions": {"mouth": mouth, **others}}


def test_types_that_tell_the_method_apart_and_types_that_do_not() -> None:
    methods = ["a", "b"] * 100
    apart = [line("x", ("color",) if method == "a" else ()) for method in methods]
    report = informativeness(apart, methods)
    assert report["mutual_information_bits"] == pytest.approx(1, abs=0.01)
    assert report["methods"]["all"]["shares"]["color"] == 0.5
    assert report["methods"]["b"]["without_type"] == 1
    assert report["methods"]["a"]["entropy_bits"] == 0
    alike = [line("x", ("structure",))] * len(methods)
    assert informativeness(alike, methods)["mutual_information_bits"] == pytest.approx(0, abs=0.01)


def test_annotations_without_a_method_are_refused() -> None:
    with pytest.raises(UserError, match="method"):
        informativeness([line("x", ())], [None])


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_kappa_is_one_with_oneself_and_symmetric(values: list[bool]) -> None:
    assert kappa([(value, value) for value in values]) == (1 if len(set(values)) == 2 else None)
    pairs = list(zip(values, reversed(values), strict=True))
    assert kappa(pairs) == kappa([(second, first) for first, second in pairs])


def test_entropy_has_the_correction_of_miller_and_madow() -> None:
    assert entropy("ab") == pytest.approx(1 + 1 / 4 / 0.6931471805599453)


def test_a_type_of_a_region_that_is_not_forged_does_not_count() -> None:
    spoken = [line("x", ("color",)), line("y", None)]
    result = agreement(spoken, spoken)["mouth"]
    assert result["color"] == {"kappa": 1.0, "pairs": 2, "cases": 1}
    assert set(result) == {"forged", *TYPES}


def test_the_method_of_an_annotation_is_that_of_its_fake(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("real,fake,method\na.png,b.png,FaceSwap\n")
    lines = [{"id": "x", "fake": "../b.png"}, {"id": "y", "fake": "b.png"}]
    assert methods_of(lines, tmp_path / "pairs.csv", tmp_path / "out") == ["FaceSwap", None]
    (tmp_path / "pairs.csv").write_text("real,fake\na.png,b.png\n")
    with pytest.raises(UserError, match="method"):
        methods_of(lines, tmp_path / "pairs.csv", tmp_path)


def test_the_labels_by_eye_are_sound_and_their_agreement_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = read_labels()
    assert len({label["id"] for label in labels}) == 160
    faces = {(label["id"].rpartition("/")[2], label["split"]) for label in labels}
    assert len({face for face, _ in faces}) == len(faces)  # a face is in one split
    result = between_observers(labels)
    assert result["mouth"]["forged"]["kappa"] == pytest.approx(1, abs=0.05)
    assert result["face"]["texture"]["kappa"] == pytest.approx(0.64, abs=0.01)
    main()
    assert "| face | 0.88 (0.65) |" in capsys.readouterr().out
