"""`python -m launch.evaluate`: from scores alone, and from runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.loading.corruptions import KINDS, Corruption
from jax_vlffd.config import LossConfig
from jax_vlffd.evaluation import calibration, metrics
from jax_vlffd.evaluation.scores import Scores, concatenate, from_csv, to_csv
from launch.experiment import workdir
from tests.support import packed_sets, tiny, tiny_workdir

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
    return tiny.command("launch.evaluate", *arguments, cwd=cwd)


# --- from scores: no model at all ---


def test_help_names_the_scores(tmp_path: Path) -> None:
    done = evaluate("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--from_scores" in done.stdout


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
    metrics_json = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics_json["detector"] == "ours"
    assert metrics_json["calibration"]["frames"] == 60
    ours = metrics_json["sets"]["FF"]
    assert ours["counts"] == {
        "frames_real": 20, "frames_fake": 40, "videos_real": 10, "videos_fake": 20,
    }  # fmt: skip
    for name in ("frame_auc", "video_auc", "eer", "ap", "acc", "acc_calibrated"):
        assert 0 <= ours[name] <= 1
        assert ours["intervals"][name][0] <= ours["intervals"][name][1]
    assert set(ours["methods"]) == set(METHODS)
    other = metrics_json["others"]["x"]
    assert list(other["sets"]) == ["FF", "Celeb-DF-v2"]
    assert other["calibration"] is None
    difference = other["differences"]["FF"]["frame_auc"]
    assert difference["value"] == pytest.approx(
        other["sets"]["FF"]["frame_auc"] - ours["frame_auc"]
    )
    assert len(difference["interval"]) == 2
    assert [row["name"] for row in metrics_json["matrix"]] == ["ours", "x"]
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
    metrics_json = json.loads((tmp_path / "o/metrics.json").read_text())
    assert metrics_json["calibration"]["temperature"] == fitted.temperature
    expected = (fitted.probability(table().logits()) > fitted.threshold) == table().label
    assert metrics_json["sets"]["FF"]["acc_calibrated"] == pytest.approx(np.mean(expected))


def test_one_class_is_reported(tmp_path: Path) -> None:
    scores = table()
    (tmp_path / "s.csv").write_text(to_csv({"": scores.select(scores.label == 1)}))
    done = evaluate("--from_scores=s.csv", "--out=o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no real frames: AUC, AP and EER are undefined" in done.stdout
    metrics_json = json.loads((tmp_path / "o/metrics.json").read_text())["sets"]["FF"]
    assert metrics_json["frame_auc"] is None
    assert "undefined" in metrics_json["note"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--out=o"], 1, "--workdir (a trained run) or --from_scores"),
        (["--from_scores=s.csv"], 2, "--out"),
        (["--from_scores=s.csv", "--out=o", "--bootstrap=-1"], 2, "bootstrap"),
        (["--from_scores=s.csv", "--out=o", "--wrong=1"], 2, "wrong"),
        (["--from_scores=s.csv", "--out=o", "extra"], 2, "'extra' is not a flag"),
        (["--from_scores=none.csv", "--out=o"], 1, "none.csv: cannot be read"),
        (["--from_scores=s.csv", "--from_scores=s.csv", "--out=o"], 1, "another file has"),
        (["--from_scores=a=s.csv", "--from_scores=a=s.csv", "--out=o"], 1, "scored twice"),
        (["--from_scores=a=t.csv", "--from_scores=a=t.csv", "--out=o"], 1, "scores of video '000'"),
        (["--from_scores=s.csv", "--out=s.csv"], 1, "s.csv is a file; name a folder"),
        (["--from_scores=s.csv", "--out=o", "--data=x=d"], 1, "no scores of a set of this name"),
        (["--from_scores=s.csv", "--out=o", "--split=val"], 1, "no scores of split 'val'"),
        (["--from_scores=s.csv", "--out=o", "--robustness"], 1, "need models"),
        (["--from_scores=s.csv", "--out=o", "--data=x"], 1, "--data=x: write NAME=PATH"),
        (["--from_scores=s.csv", "--out=o", "--data=x=1", "--data=x=2"], 1, "'x' is given twice"),
        (["--from_scores=s.csv", "--out=o", "--calibration=y=c.json"], 1, "c.json: cannot be read"),
        (["--workdir=w", "--out=o"], 1, "no set to test on"),
        (["--workdir=w", "--data=x=d", "--out=o"], 1, "w is not a trained workdir or an export"),
        (["--workdir=w", "--out=o", "--from_scores=s.csv"], 1, "give either"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "s.csv").write_text(to_csv({"": table(videos=2)}))
    lines = ["dataset,method,video,label,probability", "FF,real,000,0,0.5", "FF,F2F,000,1,0.5"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = evaluate(*arguments, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


# --- from runs ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set, and three runs: one of all branches, two of the image branch alone."""
    folder = tmp_path_factory.mktemp("made")
    packed_sets.make_set(folder, 8, split="test")
    tiny_workdir.write_scoring(folder / "a/one", methods="Deepfakes")
    image_only = LossConfig(alignment=0, fusion=0)
    tiny_workdir.write_scoring(folder / "b/one", image_only, methods="Deepfakes")
    shutil.copytree(folder / "b/one", folder / "b/two")
    return folder


def evaluate_runs(*arguments: object, made: Path) -> subprocess.CompletedProcess[str]:
    return evaluate(*arguments, "--bootstrap=20", cwd=made)


def test_runs_side_by_side_with_pictures_and_a_matrix(made: Path, tmp_path: Path) -> None:
    done = evaluate_runs(
        "--workdir=a/one", "--name=three-branch", "--data=drawn=packed", "--data=again=packed",
        "--compare=image-only=b/one", "--compare=image-only=b/two", "--matrix", f"--out={tmp_path}",
        made=made,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics_json = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics_json["detector"] == "three-branch"
    assert list(metrics_json["sets"]) == ["drawn", "again"]
    assert set(metrics_json["others"]) == {"image-only", "image-only (2)"}
    three, image_only = metrics_json["matrix"]
    assert (three["name"], three["runs"], image_only["runs"]) == ("three-branch", 1, 2)
    assert three["cells"]["drawn"]["Deepfakes"]["seen"] is True
    assert three["cells"]["drawn"]["FaceSwap"]["seen"] is False
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/jpeg;base64,") >= 24
    assert "no picture" not in html
    written = from_csv((tmp_path / "scores.csv").read_text(), "s")
    assert set(written) == {"three-branch", "image-only", "image-only (2)"}
    scores = written["three-branch"]
    assert set(scores.set_name) == {"drawn", "again"}
    assert scores.logit is not None
    # The figures of the set are those of its written scores and reasons.
    drawn = scores.select(scores.set_name == "drawn")
    measured = metrics_json["sets"]["drawn"]
    assert measured["counts"]["frames_real"] == 8
    assert measured["counts"]["frames_fake"] == 16
    fitted = calibration.Calibration.from_json(
        (made / "a/one" / workdir.CALIBRATION).read_text(), "c"
    )
    right = (fitted.probability(drawn.logits()) > fitted.threshold) == drawn.label
    assert measured["acc_calibrated"] == np.mean(right)
    assert any(drawn.reasons)
    assert measured["region_words"] == metrics.score_reasons(drawn)


def test_robustness_scores_every_kind_and_strength(made: Path, tmp_path: Path) -> None:
    done = evaluate_runs(
        "--workdir=a/one", "--data=drawn=packed", "--robustness", f"--out={tmp_path}", made=made
    )
    assert done.returncode == 0, done.stderr
    metrics_json = json.loads((tmp_path / "metrics.json").read_text())
    curves = metrics_json["robustness"]["one"]["drawn"]
    assert tuple(curves) == KINDS
    clean = metrics_json["sets"]["drawn"]["frame_auc"]
    for kind, points in curves.items():
        assert [point["strength"] for point in points] == [0, 1, 2, 3, 4, 5], kind
        assert points[0]["frame_auc"] == clean
    # The scores are of pictures that were changed.
    assert {point["frame_auc"] for points in curves.values() for point in points} != {clean}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare=one=b/one"], "two runs are named 'one'"),
        (["--split=validation"], "no records in split 'validation'"),
        (["--data=e=gone"], "gone does not exist"),
    ],
)
def test_errors_are_reported_before_anything_is_scored(
    made: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    done = evaluate_runs(
        "--workdir=a/one", "--data=d=packed", *arguments, f"--out={out}", made=made
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr
    assert not out.exists()


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
    with pytest.raises(ValueError, match="is not a corruption"):
        Corruption(kind, strength)
