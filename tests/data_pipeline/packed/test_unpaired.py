"""Fakes whose real is not known: annotated by their label, packed without a pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.fftg.annotator import Annotator
from data_pipeline.fftg.pairs import read_pairs
from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.vocabulary import VERDICTS
from tests.support.video_trees import landmarks, scene, write_picture


def lay(folder: Path, table: str) -> Path:
    for number, name in enumerate("abc"):
        write_picture(folder / f"{name}.png", scene(number, [(80, 50, 72)]))
        np.save(folder / f"{name}.npy", landmarks((80, 50, 152, 122)))
    (folder / "pairs.csv").write_text(f"real,fake,dataset,method,video,frame,split\n{table}")
    return folder / "pairs.csv"


def annotate(table: Path) -> Path:
    annotator = Annotator(root=table.parent)
    lines = [annotator.annotate(job) for job in read_pairs(table)]
    out = table.parent / "lines.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def test_a_fake_without_its_real_is_reported_and_packed(tmp_path: Path) -> None:
    table = lay(
        tmp_path,
        ",a.png,WDF,wild,v1,0,test\n,b.png,WDF,wild,v2,0,test\nc.png,,WDF,real,v3,0,test\n",
    )
    lines = [json.loads(line) for line in annotate(table).read_text().splitlines()]
    for line in lines[:2]:
        assert (line["label"], line["real"]) == (1, None)
        assert line["caption"] == VERDICTS[1]
        assert line["error"].startswith("no_real: ")
        assert line["caption_key"] == "fake"
        assert not any(region["forged"] for region in line["regions"].values())
    card = pack([tmp_path / "lines.jsonl"], tmp_path / "packed")
    assert card["splits"]["test"]["real"] == 1
    assert card["splits"]["test"]["fake"] == 2
    assert card["skipped"] == {}
    split = PackedSplit(tmp_path / "packed", "test")
    records = [split[row] for row in range(len(split))]
    assert list(split.index["pair"]) == [-1] * 3
    assert [record.pair for record in records] == [""] * 3
    assert sorted(record.label for record in records) == [0, 1, 1]
    assert {record.captions for record in records if record.label} == {(VERDICTS[1],)}


def test_without_a_stated_split_they_are_divided_by_their_video(tmp_path: Path) -> None:
    rows = "".join(f",{name}.png,WDF,wild,same,{i},\n" for i, name in enumerate("abc"))
    card = pack([annotate(lay(tmp_path, rows))], tmp_path / "packed")
    assert len(card["splits"]) == 1


def test_a_row_without_any_image_is_refused(tmp_path: Path) -> None:
    job = read_pairs(lay(tmp_path, ",,WDF,wild,v1,0,test\n"))[0]
    assert job.refused is not None
    assert job.refused.startswith("missing_value")


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_fake_that_cannot_be_read_fails_as_any(tmp_path: Path, content: bytes) -> None:
    table = lay(tmp_path, ",a.png,WDF,wild,v1,0,test\n")
    (tmp_path / "a.png").write_bytes(content)
    line = json.loads(annotate(table).read_text())
    assert line["error"].startswith("unreadable_image")
    assert line["caption"] == ""
