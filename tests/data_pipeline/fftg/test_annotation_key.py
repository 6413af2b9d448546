"""The key of an annotation line: what an earlier run wrote is not done anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_pipeline.fftg import annotator
from data_pipeline.fftg.measure.thresholds import DEFAULT, Settings


def key_of(folder: Path, settings: Any) -> str:
    for name in ("real.png", "fake.png"):
        (folder / name).write_text(name)
    maker = annotator.Annotator(settings=settings, root=folder)
    job = annotator.AnnotationTask(
        "a", folder / "real.png", folder / "fake.png", columns={"method": "m"}
    )
    line = maker.annotate(job)
    assert line is not None
    assert maker.annotate(job, line["key"]) is None
    return str(line["key"])


def test_lines_of_the_first_release_are_not_annotated_anew(tmp_path: Path) -> None:
    """Their keys are the same, and hang on values alone: not on what a class is called."""

    @dataclasses.dataclass(frozen=True)
    class Thresholds(Settings):
        pass

    assert key_of(tmp_path, DEFAULT) == "ffb9735869b49903838a35d16c75efeb"
    assert key_of(tmp_path, Thresholds()) == "ffb9735869b49903838a35d16c75efeb"
    assert key_of(tmp_path, Settings(blur=0.23)) != "ffb9735869b49903838a35d16c75efeb"
