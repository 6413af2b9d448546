"""Scoring annotations by their flags and by their words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import captions
from data_pipeline.fftg import scoring
from jax_vlffd.errors import UserError
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import FAKE, REGIONS, TYPES

REPOSITORY = Path(__file__).resolve().parents[3]
subsets = st.frozensets(st.sampled_from(REGIONS))


def line(name: str, forged: tuple[str, ...], caption: str = "") -> dict:
    return {
        "id": name,
        "fake": f"fake/{name}.png",
        "caption": caption,
        "regions": {region: {"forged": region in forged} for region in REGIONS},
    }


def table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@settings(deadline=None)
@given(st.lists(st.tuples(subsets, subsets), min_size=1, max_size=20))
def test_figures_agree_with_scikit_learn(pairs: list[tuple[frozenset, frozenset]]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    metrics = scoring.figures(pairs, REGIONS)
    truth, guess = ([[r in pair[side] for r in REGIONS] for pair in pairs] for side in (0, 1))
    if any(any(row) for row in truth) or any(any(row) for row in guess):
        expected = sklearn.f1_score(truth, guess, average="micro", zero_division=0.0)
        assert metrics["micro"]["f1"] == pytest.approx(expected)
    expected = sklearn.f1_score(truth, guess, average="samples", zero_division=1.0)
    assert metrics["mean"]["f1"] == pytest.approx(expected)
    assert metrics["exact"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_the_mean_f1_is_not_that_of_the_means() -> None:
    everything, mouth = frozenset(REGIONS), frozenset({"mouth"})
    metrics = scoring.figures([(mouth, everything), (everything, mouth)], REGIONS)["mean"]
    assert metrics["precision"] == metrics["recall"] == pytest.approx(0.625)
    assert metrics["f1"] == pytest.approx(0.4)


def test_no_true_and_no_predicted_region_is_right() -> None:
    metrics = scoring.figures([(frozenset(), frozenset())], REGIONS)
    assert metrics["mean"]["f1"] == metrics["exact"] == 1.0


def test_truth_joins_left_and_right_eye(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        "fake,left_eye,right_eye,nose,mouth",
        "fake/a.png,0,1,0,1",
        "fake/b.png,0,0,0,0",
    )
    truth = scoring.read_truth(path)
    assert truth.regions == ("mouth", "nose", "eyes")
    report = scoring.score(
        [line("a", ("eyes", "mouth", "face")), line("b", ()), line("c", ())], truth, tmp_path
    )
    assert report["flags"]["exact"] == 1.0  # `face` has no column, so it does not count
    assert (report["images"], report["unknown"], report["missing"]) == (2, 1, 0)


def test_words_are_scored_by_synonyms_and_without_flags(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "id,eyes,nose,mouth,face", "a,1,0,1,0", "b,0,1,0,1")
    lines = [
        {"id": "a", "caption": "This is a fake face. Her lips and left eyebrow look odd."},
        {"id": "b", "caption": "This is a fake face. The nostrils are smeared."},
    ]
    report = scoring.score(lines, scoring.read_truth(path), tmp_path)
    assert report["flags"] is None
    assert report["words"]["eyes"]["f1"] == report["words"]["mouth"]["f1"] == 1.0
    assert report["words"]["face"]["recall"] == 0.0
    assert report["words"]["exact"] == 0.5


def test_lines_of_other_annotators_need_no_id(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(
        "".join(
            json.dumps({"fake": f"fake/{name}.png", "caption": text}) + "\n"
            for name, text in (("a", "The nose is blurry."), ("b", "Her lips look odd."))
        )
    )
    lines = read_lines(path, ("id", "fake"))
    truth = table(tmp_path / "t.csv", "fake,mouth,nose", "fake/a.png,0,1", "fake/b.png,1,0")
    assert scoring.score(lines, scoring.read_truth(truth), tmp_path)["words"]["exact"] == 1.0
    with pytest.raises(UserError, match="line 1: not a JSON object with id"):
        read_lines(path)


@pytest.mark.parametrize("regions", [["mouth"], {"mouth": True}, {"mouth": {}}])
def test_regions_of_another_form_are_an_error(regions: object) -> None:
    with pytest.raises(UserError, match="'a': `regions` is not"):
        scoring.words_match([{"id": "a", "caption": "x", "regions": regions}])


def test_a_refused_pair_counts_as_no_predicted_region(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "id,mouth", "a,1")
    report = scoring.score([line("a", ())], scoring.read_truth(path), tmp_path)
    assert report["refused"] == 1
    assert report["flags"]["mouth"]["recall"] == 0.0


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("fake,mouth", "a.png,2", "mouth is '2'"),
        ("fake,quality", "a.png,1", "columns such as eyes"),
        ("mouth", "1", "`fake` or `id`"),
    ],
)
def test_a_wrong_truth_is_an_error(tmp_path: Path, header: str, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scoring.read_truth(table(tmp_path / "t.csv", header, row))


def test_no_common_pair_is_an_error(tmp_path: Path) -> None:
    truth = scoring.read_truth(table(tmp_path / "t.csv", "id,mouth", "x,1"))
    with pytest.raises(UserError, match="no annotation belongs"):
        scoring.score([line("a", ())], truth, tmp_path)


def test_a_thousand_raw_captions_name_exactly_the_flagged_regions() -> None:
    lines = []
    for number in range(1000):
        forged = tuple(r for i, r in enumerate(REGIONS) if number >> i & 1)
        types = {r: TYPES[number % 5 : number % 5 + 1 + number % 3] for r in forged}
        lines.append(line(str(number), forged, captions.caption(FAKE, types, number)))
    match = scoring.words_match(lines)
    assert match == {"captions": 1000, "match": 1.0, "ids": []}
    lines[3]["caption"] += " The nose and the teeth and the eyes and the chin too."
    assert scoring.words_match(lines)["ids"] == ["3"]


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    annotations = tmp_path / "a.jsonl"
    caption = captions.caption(FAKE, {"mouth": ["blur"]}, "a")
    annotations.write_text(json.dumps(line("a", ("mouth",), caption)) + "\n")
    truth = table(tmp_path / "t.csv", "fake,mouth,nose", "fake/a.png,1,0")
    out = tmp_path / "r.json"
    command = [sys.executable, "-m", "launch.score_annotations", f"--annotations={annotations}"]
    done = subprocess.run(
        [*command, f"--truth={truth}", f"--out={out}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "100.0% of 1 captions" in done.stdout
    assert json.loads(out.read_text())["words"]["micro"]["f1"] == 1.0
    methods = table(tmp_path / "m.csv", "fake,method", "fake/a.png,FaceSwap")
    done = subprocess.run(
        [*command, f"--methods={methods}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the types tell 0.00 bits of the method" in done.stdout
    alone = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "flagged regions" in alone.stdout
    missing = subprocess.run(
        [*command[:-1], f"--annotations={tmp_path / 'gone.jsonl'}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
