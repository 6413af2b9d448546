"""The demo's set: whole, repeatable, split by people, and described truly."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.dataset import DrawnSet, write_drawn_set
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, regions_named

SETTINGS = DrawnSet(identities=20, size=48)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "set"
    assert write_drawn_set(folder, SETTINGS) == {
        "train": 28, "validation": 4, "test": 8, "unseen": 8
    }  # fmt: skip
    return folder


def lines(folder: Path, name: str = "annotations") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_number_of_processes_changes_no_file(drawn: Path, tmp_path: Path) -> None:
    write_drawn_set(tmp_path / "again", SETTINGS, workers=2)
    assert digests(tmp_path / "again") == digests(drawn)


def test_a_seed_draws_other_people(drawn: Path, tmp_path: Path) -> None:
    write_drawn_set(tmp_path / "other", DrawnSet(identities=10, size=48, seed=1))
    ours, theirs = digests(drawn), digests(tmp_path / "other")
    common = {name for name in ours.keys() & theirs.keys() if name.endswith(".jpg")}
    assert len(common) > 10
    assert all(ours[name] != theirs[name] for name in common)


def test_no_person_is_in_two_splits(drawn: Path) -> None:
    splits: dict[str, set[str]] = {}
    for line in lines(drawn):
        splits.setdefault(line["video"], set()).add(line["split"])
    assert len(splits) == 20
    assert all(len(names) == 1 for names in splits.values())
    assert {line["split"] for line in lines(drawn, "unseen")} == {"test"}
    assert {line["method"] for line in lines(drawn, "unseen")} <= set(forgeries.UNSEEN_KINDS)


def test_captions_masks_and_table_tell_the_same(drawn: Path) -> None:
    with (drawn / "pairs.csv").open(newline="") as file:
        truth = {row["fake"]: row for row in csv.DictReader(file)}
    for line in lines(drawn):
        forged = {name for name in REGIONS if line["regions"][name]["forged"]}
        assert forged
        assert forged == {name for name in REGIONS if truth[line["fake"]][name] == "1"}
        for caption in (line["caption"], *line["captions"]):
            assert set(regions_named(caption)) == forged, caption
        mask = cv2.imread(str(drawn / line["mask"]), cv2.IMREAD_GRAYSCALE)
        assert set(np.unique(mask)) == {0, 255}
        for kind in ("real", "fake"):
            assert cv2.imread(str(drawn / line[kind])).shape == (48, 48, 3)


def test_what_is_there_is_not_touched(drawn: Path, tmp_path: Path) -> None:
    before = digests(drawn)
    with pytest.raises(UserError, match="exists already"):
        write_drawn_set(drawn, SETTINGS)
    with pytest.raises(UserError, match="10 identities"):
        write_drawn_set(tmp_path / "few", DrawnSet(identities=3))
    assert digests(drawn) == before
    assert not list(tmp_path.iterdir())
