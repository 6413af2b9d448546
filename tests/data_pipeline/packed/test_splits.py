"""The splits of a packed set: as stated, or by a hash that keeps people together."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import split_names
from data_pipeline.packed.splits import Groups, people
from jax_vlffd.errors import UserError
from tests.data_pipeline.packed.test_pack import _edit, _records
from tests.support.packed_sets import draw, encode, write_annotations


def test_splits_as_stated(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 4, ("Deepfakes",), split=None)
    _edit(file, 1, split="val")
    _edit(file, 2, split="test")
    with pytest.raises(UserError, match=r"only 2 of 4 lines state a split.*--split"):
        pack([file], tmp_path / "out")
    pack([file], tmp_path / "out", split="train")
    records = _records(tmp_path / "out")
    assert {name: len(content) for name, content in records.items()} == {
        "train": 4, "validation": 2, "test": 2,
    }  # fmt: skip
    assert split_names(tmp_path / "out") == ("train", "validation", "test")


def test_a_real_in_two_splits_is_refused(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1)
    _edit(file, 2, split="test")
    with pytest.raises(UserError, match=r"annotations.jsonl:2: its real .* one split"):
        pack([file], tmp_path / "out")


def test_hashed_splits_keep_people_together_and_repeat(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 40, split=None)
    for number in range(1, 81):  # a ring of swaps in groups of two videos
        real = (number - 1) // 2
        _edit(file, number, video=f"{real:03d}_{real ^ 1:03d}")
    pack([file], tmp_path / "a")
    pack([file], tmp_path / "b")
    splits = _records(tmp_path / "a")
    assert {k: list(v) for k, v in splits.items()} == {
        k: list(v) for k, v in _records(tmp_path / "b").items()
    }
    assert set(splits) == {"train", "validation", "test"}
    assert sum(map(len, splits.values())) == 120
    seen: dict[str, str] = {}
    for name, content in splits.items():
        for record in content.values():
            for person in people(record.dataset, record.video):
                assert seen.setdefault(person, name) == name


def test_equal_reals_stay_in_one_split(tmp_path: Path) -> None:
    """Without videos, the real's own content is what must not cross splits."""
    file = write_annotations(tmp_path / "in", 30, ("Deepfakes",), split=None, video=None)
    for number in range(30):
        (tmp_path / f"in/real_{number}.png").write_bytes(encode(draw(number % 10)))
    pack([file], tmp_path / "out")
    seen: dict[bytes, str] = {}
    for name, content in _records(tmp_path / "out").items():
        for record in content.values():
            if not record.label:
                assert seen.setdefault(record.image, name) == name


def test_faces_that_are_alike_stay_in_one_split(tmp_path: Path) -> None:
    """Without videos, reals that the eye takes for one person may be joined by a grouping."""
    file = write_annotations(tmp_path / "in", 30, ("Deepfakes",), split=None, video=None)
    assert pack([file], tmp_path / "alone")["reals_told_by_content"] == 30
    alone = _records(tmp_path / "alone")

    def person(name: str) -> int:
        return int(name.split("_")[1].split("/")[0].split(".")[0]) % 10

    def faces(pictures: list[Path]) -> list[int]:
        return [person(picture.name) for picture in pictures]

    card = pack([file], tmp_path / "out", faces=faces, shares=(40, 30, 30))
    assert card["reals_told_by_content"] == 0
    assert card["split_rule"].startswith("40/30/30")
    for splits, kept in ((_records(tmp_path / "out"), True), (alone, False)):
        seen = {name: {person(record) for record in content} for name, content in splits.items()}
        assert sum(map(len, seen.values())) == 10 or not kept
        assert (len(set.union(*seen.values())) == sum(map(len, seen.values()))) == kept
    stated = write_annotations(tmp_path / "stated", 2, split="test")
    with pytest.raises(UserError, match="--by_face would change nothing"):
        pack([stated], tmp_path / "no", faces=faces)


def no_picture(line: int) -> Path:
    raise AssertionError(f"line {line} names its video")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40))
def test_groups_never_cross_splits(swaps: list[tuple[int, int]]) -> None:
    groups = Groups()
    reals = {target: place for place, target in enumerate(dict.fromkeys(t for t, _ in swaps))}

    class Pair:
        dataset = "d"
        real_video = ""

    for target, source in swaps:
        pair: Any = Pair()
        pair.video = f"{target:03d}_{source:03d}"
        groups.add(pair)
    of_line = np.array([reals[target] for target, _ in swaps])
    splits = groups.splits(of_line, np.unique(of_line, return_index=True)[1], no_picture)
    of_person: dict[int, set[int]] = collections.defaultdict(set)
    for target, source in swaps:
        of_person[target].add(splits[reals[target]])
        of_person[source].add(splits[reals[target]])
    assert all(len(result) == 1 for result in of_person.values())


@pytest.mark.parametrize(
    ("video", "result"),
    [
        ("183_253", {"d/183", "d/253"}),
        ("183", {"d/183"}),
        ("01_02__outside_talking__ABC123", {"d/01", "d/02"}),
        ("id0_id1_0007", {"d/id0", "d/id1"}),
        ("holiday", {"d/holiday"}),
        ("", set()),
    ],
)
def test_people_of_a_video(video: str, result: set[str]) -> None:
    assert people("d", video) == result


def test_shares_of_the_hashed_splits() -> None:
    groups = Groups()

    class Pair:
        dataset = "d"
        real_video = ""

    for number in range(3000):
        pair: Any = Pair()
        pair.video = f"video {number}"
        groups.add(pair)
    lines = np.arange(3000)
    counts = np.bincount(groups.splits(lines, lines, no_picture)) / 3000
    np.testing.assert_allclose(counts, [0.8, 0.1, 0.1], atol=0.02)
