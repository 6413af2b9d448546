"""`launch.evaluate` of runs by a stand-in for the model; all else for real. Run by tests/test_evaluate.py."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl import flags

from data_pipeline import records
from data_pipeline.corruptions import KINDS
from data_pipeline.errors import UserError
from jax_vlffd.evaluation import calibration
from jax_vlffd.evaluation.scores import Scores, from_csv

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("Deepfakes", "FaceSwap")


def table(
    shift: float = 1.5, seed: int = 0, split: str = "test", dataset: str = "FF", videos: int = 10
) -> Scores:
    rng = np.random.default_rng(seed)
    method = np.repeat(["real", *METHODS], videos * 2)
    label = (method != "real").astype(int)
    video = np.tile(np.repeat(np.arange(videos), 2), 3).astype(str)
    logit = rng.normal(size=len(label)) + shift * (label - 0.5)
    names = [f"{split}-{m}-{v}-{i % 2}" for i, (m, v) in enumerate(zip(method, video, strict=True))]
    frame = [str(i % 2) for i in range(len(label))]
    filled = [np.full(len(label), text) for text in (dataset, split)]
    return Scores(*filled, method, video, frame, names, label, calibration.sigmoid(logit))


# --- from runs: a stand-in for the model, everything else for real ---


class FakeRun:
    """Scores a packed set by its mean brightness, as a run would."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.history = [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 0.5}]
        self.calibration = calibration.Calibration(1.5, 0.5, 0.4, 0.6, 0.05, 10)
        self.methods = ("Deepfakes",)

    def score(self, folder: str, split: str, transform=None) -> Scores:
        packed = records.PackedSplit(folder, split)
        found = [packed[row] for row in range(len(packed))]
        images = [cv2.imdecode(np.frombuffer(r.image, np.uint8), cv2.IMREAD_COLOR) for r in found]
        images = [image if transform is None else transform(image) for image in images]
        logit = np.array([(image.mean() - 100) / 30 for image in images])
        columns = ("dataset", "method", "video", "frame", "id", "label")
        named = {name: [getattr(record, name) for record in found] for name in columns}
        return Scores(
            **named,
            split=np.full(len(found), split),
            probability=calibration.sigmoid(logit),
            logit=logit,
            regions=[record.regions for record in found],
            caption=[record.captions[0] for record in found],
            reasons=["The mouth looks blurry." for _ in found],
        )


@pytest.fixture(scope="module")
def packed_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)

    def shard():
        for index in range(24):
            label = index % 2
            method = METHODS[index // 2 % 2] if label else "real"
            grey = np.clip(rng.normal(90 + 25 * label, 15, (48, 48, 3)), 0, 255).astype(np.uint8)
            yield (
                records.Record(
                    id=f"r{index}",
                    image=cv2.imencode(".png", grey)[1].tobytes(),
                    label=label,
                    dataset="drawn",
                    method=method,
                    video=f"{index // 4}",
                    frame=str(index % 4),
                    pair="" if not label else f"r{index - 1}",
                    captions=("A caption.",),
                    raw_caption="A caption.",
                    caption_key="k",
                    regions=np.array([label, 0, 0, 0]),
                    types=np.zeros((4, 5), np.int64),
                ),
                -1 if not label else index - 1,
            )

    return records.write_packed_set(tmp_path_factory.mktemp("packed"), {"test": [shard]})


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from launch import evaluate as command

    stand_in = types.ModuleType("launch.runs")
    stand_in.load_run = FakeRun
    stand_in.require_run = lambda folder: None
    monkeypatch.setitem(sys.modules, "launch.runs", stand_in)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        flags.FLAGS.unparse_flags()
        command.FLAGS(["evaluate", "--out=out", "--bootstrap=20", *arguments])
        try:
            command.main(["evaluate"])
        finally:
            for name in ("data", "compare", "from_scores", "calibration"):
                command.FLAGS[name].unparse()
            for name in ("matrix", "robustness", "workdir", "name"):
                command.FLAGS[name].unparse()
        return json.loads((tmp_path / "out/metrics.json").read_text())

    return run


def test_runs_side_by_side_with_pictures_and_a_matrix(
    run_evaluate, packed_set: Path, tmp_path: Path
) -> None:
    found = run_evaluate(
        "--workdir=runs/three", "--name=three-branch", f"--data=drawn={packed_set}",
        f"--data=again={packed_set}", "--compare=image-only=runs/other",
        "--compare=image-only=runs/third", "--matrix",
    )  # fmt: skip
    assert found["detector"] == "three-branch"
    assert list(found["sets"]) == ["drawn", "again"]
    assert set(found["others"]) == {"image-only", "image-only (2)"}
    assert found["sets"]["drawn"]["region_words"]["micro"]["f1"] == 1.0
    assert found["sets"]["drawn"]["acc_calibrated"] is not None
    three, image_only = found["matrix"]
    assert (three["name"], three["runs"], image_only["runs"]) == ("three-branch", 1, 2)
    assert three["cells"]["drawn"]["Deepfakes"]["seen"] is True
    assert three["cells"]["drawn"]["FaceSwap"]["seen"] is False
    html = (tmp_path / "out/report.html").read_text()
    assert html.count("data:image/jpeg;base64,") >= 24
    assert "no picture" not in html
    written = from_csv((tmp_path / "out/scores.csv").read_text(), "s")
    assert set(written) == {"three-branch", "image-only", "image-only (2)"}
    assert set(written["three-branch"].set_name) == {"drawn", "again"}
    assert written["three-branch"].logit is not None


def test_robustness_scores_every_kind_and_strength(run_evaluate, packed_set: Path) -> None:
    found = run_evaluate("--workdir=runs/one", f"--data=drawn={packed_set}", "--robustness")
    curves = found["robustness"]["one"]["drawn"]
    assert tuple(curves) == KINDS
    clean = found["sets"]["drawn"]["frame_auc"]
    for kind, points in curves.items():
        assert [point["strength"] for point in points] == [0, 1, 2, 3, 4, 5], kind
        assert points[0]["frame_auc"] == clean


def test_two_runs_of_one_name_are_refused_without_a_matrix(run_evaluate, packed_set: Path) -> None:
    with pytest.raises(UserError, match="two runs are named 'one'"):
        run_evaluate("--workdir=a/one", f"--data=d={packed_set}", "--compare=one=b/one")


def test_what_is_missing_is_told_before_anything_is_scored(
    run_evaluate, packed_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no records in split 'validation'"):
        run_evaluate("--workdir=a/one", f"--data=d={packed_set}", "--split=validation")
    with pytest.raises(UserError, match="gone does not exist"):
        run_evaluate("--workdir=a/one", f"--data=d={packed_set}", "--data=e=gone", "--split=test")
    assert not capsys.readouterr().out
