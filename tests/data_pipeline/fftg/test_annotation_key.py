"""The keys of stored lines: a renamed setting must not change them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.fftg import annotator
from data_pipeline.fftg.measure.thresholds import DEFAULT, AnnotatorSettings


def key_of(folder: Path, settings: Any) -> str:
    for name in ("real.png", "fake.png"):
        (folder / name).write_text(name)
    maker = annotator.Annotator(settings=settings, root=folder)
    task = annotator.AnnotationTask(
        "a", folder / "real.png", folder / "fake.png", columns={"method": "m"}
    )
    line = maker.annotate(task)
    assert line is not None
    assert maker.annotate(task, line["key"]) is None
    return str(line["key"])


def test_lines_of_this_version_are_not_annotated_again(tmp_path: Path) -> None:
    """Keys depend on the values of the settings, not on the names of the class and its fields."""

    @dataclasses.dataclass(frozen=True)
    class Thresholds(AnnotatorSettings):
        pass

    assert key_of(tmp_path, DEFAULT) == "36119da5afd4950ddecfe52d35f2b978"
    assert key_of(tmp_path, Thresholds()) == "36119da5afd4950ddecfe52d35f2b978"
    assert key_of(tmp_path, AnnotatorSettings(blur=0.23)) != "36119da5afd4950ddecfe52d35f2b978"


def test_paid_replies_of_the_first_release_keep_their_key() -> None:
    """The settings are a part of a question's content key: other names would pay for all replies again."""
    digest = hashlib.sha256(json.dumps(DEFAULT.for_key()).encode()).hexdigest()
    assert digest.startswith("66a21c76ba167b5d")
