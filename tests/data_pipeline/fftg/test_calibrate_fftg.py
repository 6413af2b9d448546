"""`launch.calibrate_fftg` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jax_vlffd.vocabulary import TYPES
from tests.support.drawn_pairs import run


def test_calibration_writes_its_report(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    faces = shared_dir / "data" / "edited_faces" / "real"
    report = tmp_path / "report.md"
    done = run(
        "launch.calibrate_fftg", f"--faces={faces}", f"--heldout={faces}", "--plants=50",
        f"--report={report}",
    )  # fmt: skip
    assert "macro F1" in done.stdout
    text = report.read_text()
    assert "| structure |" in text
    assert "Recall by the mean lightness" in text
    assert "Edits of known regions, 50 held-out pairs" in text
    assert "| H.264 of both |" in text
    for plot in tmp_path.glob("*.svg"):
        assert plot.name in text
        assert plot.read_text().startswith("<svg")
    assert len(list(tmp_path.glob("*.svg"))) == len(TYPES) + 1
