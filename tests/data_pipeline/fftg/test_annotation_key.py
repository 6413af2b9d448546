"""The keys of stored lines: a renamed setting must not change them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.fftg import annotator
from data_pipeline.fftg.measure.thresholds import DEFAULT, AnnotatorSettings
from data_pipeline.fftg.refine.earlier import EarlierLine, earlier_line, older_text


def key_of(folder: Path, settings: Any) -> str:
    for name in ("real.png", "fake.png"):
        (folder / name).write_text(name)
    maker = annotator.Annotator(settings=settings, root=folder)
    task = annotator.AnnotationTask(
        "a", folder / "real.png", folder / "fake.png", columns={"method": "m"}
    )
    line = maker.annotate(task)
    assert line is not None
    assert maker.annotate(task, EarlierLine(line["key"])) is None
    return str(line["key"])


def test_lines_of_this_version_are_not_annotated_again(tmp_path: Path) -> None:
    """Keys depend on the values of the settings, not on the names of the class and its fields."""

    @dataclasses.dataclass(frozen=True)
    class Thresholds(AnnotatorSettings):
        pass

    assert key_of(tmp_path, DEFAULT) == "36119da5afd4950ddecfe52d35f2b978"
    assert key_of(tmp_path, Thresholds()) == "36119da5afd4950ddecfe52d35f2b978"
    assert key_of(tmp_path, AnnotatorSettings(blur=0.23)) != "36119da5afd4950ddecfe52d35f2b978"


def test_a_line_of_an_older_version_is_kept_if_its_caption_was_paid_for(tmp_path: Path) -> None:
    key_of(tmp_path, DEFAULT)  # writes the pair
    task = annotator.AnnotationTask(
        "a", tmp_path / "real.png", tmp_path / "fake.png", columns={"method": "m"}
    )
    maker = annotator.Annotator(root=tmp_path)
    paid = EarlierLine("ffb9735869b49903838a35d16c75efeb", 2)  # what version 2 wrote for this pair
    assert maker.annotate(task, paid) is None
    assert maker.annotate(task, EarlierLine(paid.key)) is not None
    assert annotator.Annotator(root=tmp_path, keep_paid=False).annotate(task, paid) is not None
    (tmp_path / "fake.png").write_text("another picture")
    assert maker.annotate(task, paid) is not None


@pytest.mark.parametrize(
    ("refinement", "version"),
    [
        ({"turns": 1}, 2),
        ({"turns": 2, "annotator": 3}, 3),
        ({"turns": 1, "annotator": "3"}, 2),
        ({"turns": 0}, None),
        ({"turns": "1"}, None),
        ({"reason": "real face"}, None),
        (None, None),
        ([1], None),
    ],
)
def test_what_was_paid_for_is_read_from_any_line(refinement: Any, version: int | None) -> None:
    assert earlier_line({"key": "k", "refinement": refinement}) == EarlierLine("k", version)


def test_what_older_captions_cost_is_said() -> None:
    older = [EarlierLine("a", 2, 0.25), EarlierLine("b", 2, 0.5), EarlierLine("c", 3, 8.0)]
    said = older_text(older, reannotate=False, refine=True) or ""
    assert all(part in said for part in ("2 captions", "are kept", "$0.75"))
    said = older_text(older, reannotate=True, refine=True) or ""
    assert all(part in said for part in ("annotated again", "$0.75"))
    assert older_text([*older[2:], EarlierLine("d")], reannotate=True, refine=True) is None


def test_paid_replies_of_the_first_release_keep_their_key() -> None:
    """The settings are a part of a question's content key: other names would pay for all replies again."""
    digest = hashlib.sha256(json.dumps(DEFAULT.for_key()).encode()).hexdigest()
    assert digest.startswith("66a21c76ba167b5d")
