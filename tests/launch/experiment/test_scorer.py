"""Scores of a packed set by a run's image branch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.packed import reader
from data_pipeline.packed.record import Record, parse_record
from launch.experiment.workdir import load_run
from tests.support import tiny_workdir


def test_a_validation_that_is_repeated_reads_each_record_once(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides what goes into its batches."""
    run = load_run(tiny_workdir.write_scoring(tmp_path / "run", validation=str(packed)))
    read: list[bytes] = []

    def parse(data: bytes, parse: Callable[[bytes], Record] = parse_record) -> Record:
        read.append(data)
        return parse(data)

    monkeypatch.setattr(reader, "parse_record", parse)
    first = run.scorer.score(run.parameters, packed, "validation")
    count = len(first.label)
    assert len(read) == count
    again = run.scorer.score(run.parameters, packed, "validation", np.fliplr)
    assert len(read) == count
    assert again.id.tolist() == first.id.tolist()
    assert again.regions.tolist() == first.regions.tolist()
    other = run.scorer.score(run.parameters, packed, "train")
    assert set(other.split) == {"train"}
    method = next(name for name in first.method if name != "real")
    some = run.scorer.score(run.parameters, packed, "validation", methods=(method,))
    assert set(some.method) == {"real", method}
    assert some.id.tolist() == [
        name for name, kind in zip(first.id, first.method, strict=True) if kind in ("real", method)
    ]
