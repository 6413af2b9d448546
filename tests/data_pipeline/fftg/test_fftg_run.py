"""The run over many pairs: a missing detector ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.fftg import annotator
from data_pipeline.fftg.pairs import read_pairs
from data_pipeline.fftg.runner import annotate_all
from jax_vlffd.errors import UserError
from tests.support.drawn_pairs import make_pairs


def test_no_detector_and_no_landmarks_ends_the_run_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise UserError("run: pip install 'jax-vlffd[faces]'")

    monkeypatch.setattr(annotator, "open_detector", refuse)
    table = make_pairs(tmp_path, 1)
    (tmp_path / "real/0.npy").unlink()
    tasks = read_pairs(table)
    with pytest.raises(UserError, match="pip install"):
        list(annotate_all(annotator.Annotator(), tasks, {}, 1))
