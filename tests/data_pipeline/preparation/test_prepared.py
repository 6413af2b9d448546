"""What is written beside the crops: settings, markers and DeepfakeBench's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipeline.preparation import store
from data_pipeline.preparation.runner import video_groups
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from tests.support.preparing import ffpp, prepare, two_families


def test_other_settings_need_another_folder(out: Path) -> None:
    store.check_settings(out, {"frames": 32, "size": 256})
    store.check_settings(out, {"frames": 32, "size": 256})
    with pytest.raises(UserError, match="--frames=32, not 8"):
        store.check_settings(out, {"frames": 8, "size": 256})


def test_a_damaged_marker_counts_as_none(root: Path, out: Path) -> None:
    result = two_families(root)
    prepare(result, out)
    marker = out / ".prepared/set/fake/a.json"
    for content in ("{", '{"key": 3}', "[]"):
        marker.write_text(content)
        _, rows = prepare(result, out)
        assert len(rows) == 8


def test_the_json_is_deepfakebench_s(root: Path, out: Path) -> None:
    _, rows = prepare(ffpp(root), out)
    content = json.loads((out / "FaceForensics++.json").read_text())["FaceForensics++"]
    assert set(content) == {"FF-real", "FF-DF"}
    for label in content:
        # Its reader asks every split of a label for the compression.
        assert {split: list(place) for split, place in content[label].items()} == {
            "train": ["c23"],
            "val": ["c23"],
            "test": ["c23"],
        }
    video = content["FF-DF"]["train"]["c23"]["000_003"]
    assert video["label"] == "FF-DF"
    assert video["frames"] == [row["fake"] for row in rows if row["fake"]]
    assert all((out / path).is_file() for path in video["frames"])
    assert {row["split"] for row in rows} == {"train"}
    path = out / video["frames"][0]
    assert path.parts[-6:-1] == ("manipulated_sequences", "Deepfakes", "c23", "frames", "000_003")
    assert Path(str(path).replace("frames", "landmarks")).with_suffix(".npy").is_file()


def test_a_shard_that_writes_late_leaves_the_whole_table(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = two_families(root)
    prepare(result, out, shard=slice(0, None, 2))
    ended = False

    def write_late(path: Path, text: str) -> None:
        nonlocal ended
        if not ended:  # the other shard ends while this one is about to write what it has read
            ended = True
            prepare(result, out, shard=slice(1, None, 2))
        atomic_write_text(path, text)

    monkeypatch.setattr(store, "atomic_write_text", write_late)
    videos = [video for group in video_groups(result.videos) for video in group.videos]
    outcomes, rows = store.write_all(out, videos)
    assert len(outcomes) == len(videos) == 4
    assert rows == 8
    assert (out / "pairs.csv").read_text().count("\n") == 9
