"""`python -m launch.score_reasons`: a run's reasons beside its controls, on a tiny run that learned nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.config import LossConfig
from launch.evaluation import reasons
from launch.experiment.workdir import TrainedRun
from tests.support import tiny, tiny_workdir
from tests.support.packed_sets import write_annotations


def test_controls_stand_beside_the_run(packed: Path, tmp_path: Path) -> None:
    run = tiny_workdir.write_scoring(tmp_path / "mine", validation=str(packed))
    done = tiny.command(
        "launch.score_reasons", f"--workdir={run}", f"--data=own={packed}", "--split=validation",
        f"--validation={packed}",
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


def test_regions_are_ranked_among_fakes_that_differ_in_them(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "set", 8, ("A",), split="validation")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[4:]:
        line["regions"] = {"nose": {"forged": True, "types": ["blur"]}}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pack([file], tmp_path / "packed")
    run = tiny_workdir.write_scoring(tmp_path / "mine", validation=str(tmp_path / "packed"))
    done = tiny.command(
        "launch.score_reasons", f"--workdir={run}", f"--data=own={tmp_path / 'packed'}",
        "--split=validation", f"--validation={tmp_path / 'packed'}", f"--out={tmp_path / 'r.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["sets"]["own"]
    assert rows["the same regions for all"]["auc"] == {
        "mouth": 0.5, "nose": 0.5, "eyes": None, "face": None
    }  # fmt: skip
    aucs = rows["mine"]["auc"]
    # Of drawn parameters: anything but a tie of all.
    assert {aucs["mouth"], aucs["nose"]} != {0.5}
    assert all(0 <= aucs[name] <= 1 for name in ("mouth", "nose"))


def test_a_run_without_alignment_is_refused(packed: Path, tmp_path: Path) -> None:
    run = tiny_workdir.write_scoring(tmp_path / "plain", LossConfig(alignment=0, fusion=0))
    done = tiny.command(
        "launch.score_reasons", f"--workdir={run}", f"--data=own={packed}", f"--validation={packed}"
    )
    assert done.returncode == 1
    assert "trained without the alignment branch" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_only_the_methods_of_the_training_calibrate_reasons(packed: Path) -> None:
    split = PackedSplit(packed, "validation")
    seen = split.methods[int(split.index["method"][split.index["label"] == 1][0])]
    for methods, expected in (((seen, "unseen"), (seen,)), (("unseen",), ()), ((), ())):
        run = cast(TrainedRun, SimpleNamespace(methods=methods))
        assert reasons._trained_on(run, str(packed)) == expected
