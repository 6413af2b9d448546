"""`python -m launch.score_reasons`: a run's reasons beside its controls, on a tiny run that learned nothing."""

from __future__ import annotations

import json
from pathlib import Path

from jax_vlffd.config import LossConfig
from tests import tiny, tiny_workdir


def test_controls_stand_beside_the_run(packed: Path, tmp_path: Path) -> None:
    run = tiny_workdir.write_scoring(tmp_path / "mine", validation=str(packed))
    done = tiny.command(
        "launch.score_reasons", f"--workdir={run}", f"--data=own={packed}", "--split=validation",
        f"--compare=again={run}", f"--out={tmp_path / 'r.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "r.json").read_text())
    rows = content["sets"]["own"]
    assert content["maps"] == {"own": {"mine": None, "again": None}}
    assert "heat maps of mine: no mask of the set covers a patch" in done.stdout
    assert list(rows) == ["mine", "untuned text tower", "the same regions for all", "again"]
    assert rows["again"] == rows["mine"]
    # Every fake of the set has a forged mouth and nothing else.
    assert rows["the same regions for all"]["micro"] == {"precision": 1, "recall": 1, "f1": 1}
    assert rows["the same regions for all"]["reals_named"] == 1
    # So no score can tell fakes with a forged mouth from others, and there is none with another.
    assert rows["mine"]["auc"] == dict.fromkeys(("mouth", "nose", "eyes", "face"))
    assert "own: 4 fakes of split validation" in done.stdout


def test_a_run_without_alignment_is_told_of(packed: Path, tmp_path: Path) -> None:
    run = tiny_workdir.write_scoring(tmp_path / "plain", LossConfig(alignment=0, fusion=0))
    done = tiny.command("launch.score_reasons", f"--workdir={run}", f"--data=own={packed}")
    assert done.returncode == 1
    assert "trained without the alignment branch" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
