"""`python -m launch.evaluate`: from scores for real, from runs by a stand-in for the model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl import flags

from data_pipeline import records
from data_pipeline.corruptions import KINDS, Corruption
from data_pipeline.errors import UserError
from jax_vlffd.evaluation import calibration
from jax_vlffd.evaluation.scores import Scores, concatenate, from_csv, to_csv

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


def evaluate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.evaluate", *map(str, arguments)],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- from scores: no model at all ---


def test_help_is_quick(tmp_path: Path) -> None:
    start = time.perf_counter()
    done = evaluate("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--from_scores" in done.stdout
    assert time.perf_counter() - start < 1


def test_scores_of_two_detectors_side_by_side(tmp_path: Path) -> None:
    held_out = table(2.0, 1, split="validation")
    (tmp_path / "ours.csv").write_text(to_csv({"": concatenate([table(2.0), held_out])}))
    (tmp_path / "xception.csv").write_text(to_csv({"": table(1.0, 2)}))
    (tmp_path / "celeb.csv").write_text(to_csv({"": table(0.5, 3, dataset="Celeb-DF-v2")}))
    done = evaluate(
        "--from_scores=ours.csv", "--from_scores=x=xception.csv", "--from_scores=x=celeb.csv",
        "--out=out", "--bootstrap=100", "--matrix", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "metrics.json", "report.html", "scores.csv",
    ]  # fmt: skip
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["detector"] == "ours"
    assert found["calibration"]["frames"] == 60
    ours = found["sets"]["FF"]
    assert ours["counts"] == {
        "frames_real": 20, "frames_fake": 40, "videos_real": 10, "videos_fake": 20,
    }  # fmt: skip
    for name in ("frame_auc", "video_auc", "eer", "ap", "acc", "acc_calibrated"):
        assert 0 <= ours[name] <= 1
        assert ours["intervals"][name][0] <= ours["intervals"][name][1]
    assert set(ours["methods"]) == set(METHODS)
    other = found["others"]["x"]
    assert list(other["sets"]) == ["FF", "Celeb-DF-v2"]
    assert other["calibration"] is None
    difference = other["differences"]["FF"]["frame_auc"]
    assert difference["value"] == pytest.approx(
        other["sets"]["FF"]["frame_auc"] - ours["frame_auc"]
    )
    assert len(difference["interval"]) == 2
    assert [row["name"] for row in found["matrix"]] == ["ours", "x"]
    # The written scores give the same figures again, without the held-out rows and without names.
    again = evaluate("--from_scores=out/scores.csv", "--out=again", "--bootstrap=100", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "again/metrics.json").read_text())
    assert repeated["others"]["x"]["sets"] == other["sets"]
    same = ("frame_auc", "video_auc", "ap", "eer", "eer_deepfakebench", "acc", "ece", "counts")
    assert {k: repeated["sets"]["FF"][k] for k in same} == {k: ours[k] for k in same}


def test_a_calibration_file_takes_the_place_of_validation_rows(tmp_path: Path) -> None:
    fitted = calibration.fit(table(1.0, 5).logits(), table(1.0, 5).label)
    (tmp_path / "calibration.json").write_text(fitted.to_json())
    (tmp_path / "s.csv").write_text(to_csv({"": table()}))
    done = evaluate(
        "--from_scores=s.csv", "--calibration=calibration.json", "--out=o", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "o/metrics.json").read_text())
    assert found["calibration"]["temperature"] == fitted.temperature
    expected = (fitted.probability(table().logits()) > fitted.threshold) == table().label
    assert found["sets"]["FF"]["acc_calibrated"] == pytest.approx(np.mean(expected))


def test_one_class_only_is_said(tmp_path: Path) -> None:
    scores = table()
    (tmp_path / "s.csv").write_text(to_csv({"": scores.select(scores.label == 1)}))
    done = evaluate("--from_scores=s.csv", "--out=o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no real frames: AUC, AP and EER are undefined" in done.stdout
    found = json.loads((tmp_path / "o/metrics.json").read_text())["sets"]["FF"]
    assert found["frame_auc"] is None
    assert "undefined" in found["note"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--out=o"], 1, "--workdir (a trained run) or --from_scores"),
        (["--from_scores=s.csv"], 2, "--out"),
        (["--from_scores=s.csv", "--out=o", "--bootstrap=-1"], 2, "bootstrap"),
        (["--from_scores=s.csv", "--out=o", "--wrong=1"], 2, "wrong"),
        (["--from_scores=s.csv", "--out=o", "extra"], 1, "'extra' is no flag"),
        (["--from_scores=none.csv", "--out=o"], 1, "none.csv cannot be read"),
        (["--from_scores=s.csv", "--from_scores=s.csv", "--out=o"], 1, "another file holds"),
        (["--from_scores=a=s.csv", "--from_scores=a=s.csv", "--out=o"], 1, "scored twice"),
        (["--from_scores=a=t.csv", "--from_scores=a=t.csv", "--out=o"], 1, "scores of video '000'"),
        (["--from_scores=s.csv", "--out=s.csv"], 1, "s.csv/scores.csv cannot be written"),
        (["--from_scores=s.csv", "--out=o", "--data=x=d"], 1, "no scores of a set of this name"),
        (["--from_scores=s.csv", "--out=o", "--split=val"], 1, "no scores of split 'val'"),
        (["--from_scores=s.csv", "--out=o", "--robustness"], 1, "need models"),
        (["--from_scores=s.csv", "--out=o", "--data=x"], 1, "--data=x: write NAME=PATH"),
        (["--from_scores=s.csv", "--out=o", "--data=x=1", "--data=x=2"], 1, "'x' is given twice"),
        (["--from_scores=s.csv", "--out=o", "--calibration=y=c.json"], 1, "c.json cannot be read"),
        (["--workdir=w", "--out=o"], 1, "no set to test on"),
        (["--workdir=w", "--data=x=d", "--out=o"], 1, "w is no trained workdir and no export"),
        (["--workdir=w", "--out=o", "--from_scores=s.csv"], 1, "give either"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "s.csv").write_text(to_csv({"": table(videos=2)}))
    lines = ["dataset,method,video,label,probability", "FF,real,000,0,0.5", "FF,F2F,000,1,0.5"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = evaluate(*arguments, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


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
    # Other tests import other commands, whose flags have the same names, or are required.
    for module, found in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("launch.") and module != "launch.evaluate":
            for flag in list(found):
                delattr(flags.FLAGS, flag.name)
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


# --- corruptions ---


def photograph() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (256, 288, 3)).astype(np.uint8), (0, 0), 2)
    return cv2.normalize(smooth, None, 30, 220, cv2.NORM_MINMAX)


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_grow_with_strength_and_repeat(kind: str) -> None:
    image = photograph()
    kept = image.copy()
    errors = []
    for strength in range(1, 6):
        out = Corruption(kind, strength)(image)
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert np.array_equal(out, Corruption(kind, strength)(image))
        errors.append(np.mean((out.astype(float) - image) ** 2))
    assert errors[0] > 0
    assert (np.diff(errors) > 0).all()
    assert np.array_equal(image, kept)


@pytest.mark.parametrize(("kind", "strength"), [("fog", 1), ("blur", 0), ("blur", 6)])
def test_unknown_corruptions_are_refused(kind: str, strength: int) -> None:
    with pytest.raises(ValueError, match="no corruption"):
        Corruption(kind, strength)
