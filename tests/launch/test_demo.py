"""The demo, with few people and few steps: every step of the road, and the page at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tiny


@pytest.mark.slow
def test_the_demo_ends_with_a_report(tmp_path: Path) -> None:
    arguments = (f"--out={tmp_path / 'demo'}", "--people=20", "--steps=4")
    done = tiny.command("launch.demo", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "frame AUC on held-out people" in done.stdout
    report = tmp_path / "demo" / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["sets"].keys() == {"seen", "unseen"}
    assert metrics["others"]["image only"]["sets"].keys() == {"seen", "unseen"}
    page = (report / "report.html").read_text()
    assert "three branches" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    again = tiny.command("launch.demo", *arguments)
    assert again.returncode == 0, again.stderr


def test_the_demo_tells_of_a_wrong_word(tmp_path: Path) -> None:
    done = tiny.command("launch.demo", "fast", cwd=tmp_path)
    assert done.returncode == 2
    assert "'fast' is not a flag" in done.stderr
    assert not list(tmp_path.iterdir())
