"""`launch.bench fftg` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.drawn_pairs import run


def test_the_bench_reports_both_sides(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "bench.json"
    run("launch.bench", "fftg", "--pairs=4", "--rounds=1", f"--out={out}")
    figures = json.loads(out.read_text())
    assert figures["annotated"] == 4
    assert figures["ratio"] > 5
    done = run("launch.bench", "nothing", check=False)
    assert done.returncode == 1
    assert "fftg" in done.stderr
