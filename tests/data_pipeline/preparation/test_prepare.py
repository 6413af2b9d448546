"""`launch.prepare` as a user calls it."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.datasets import COMPRESSED, PLAIN
from data_pipeline.faces.landmarks import stored_landmarks
from tests.support import tiny
from tests.support.preparing import read
from tests.support.video_trees import scene, write_picture


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return tiny.command("launch.prepare", *arguments)


def test_help_names_every_data_set() -> None:
    shown = command("--help")
    assert shown.returncode == 0
    text = "".join(shown.stdout.split())
    assert "|".join([*COMPRESSED, *PLAIN]) in text


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["--dataset=uadfv", "--compression=c23"], 1, "--compression means nothing"),
        (["--dataset=uadfv", "--json=a.json"], 1, "--json goes with"),
        (["--dataset=uadfv"], 1, "there is no such folder"),
        (["--dataset=nothing"], 2, "nothing"),
        (["--dataset=uadfv", "--shard=2/2"], 1, "--shard=2/2"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, arguments: list[str], status: int, error: str
) -> None:
    ran = command(f"--root={tmp_path / 'absent'}", f"--out={tmp_path / 'out'}", *arguments)
    assert ran.returncode == status
    assert error in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_set_without_any_face_ends_with_an_error(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    write_picture(tmp_path / "set/real/a.png", scene(1, []))
    (tmp_path / "set/fake").mkdir()
    ran = command(
        "--dataset=folder",
        f"--root={tmp_path / 'set'}",
        f"--out={tmp_path / 'out'}",
        "--workers=1",
    )
    assert ran.returncode == 1
    assert "no_face 1" in ran.stdout
    assert "could be prepared" in ran.stderr


def test_the_sample_of_faceforensics_is_prepared_and_annotated(
    shared_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dlib")
    source = shared_dir / "data" / "FaceForensics++"
    if not source.is_dir():
        pytest.skip(f"no videos at {source}")
    ran = command(
        *("--dataset=faceforensics", f"--root={source}", f"--out={tmp_path}"),
        *("--compression=c40", "--frames=2", "--workers=1", "--methods=Deepfakes,NeuralTextures"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "Face2Face" not in ran.stdout
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["method"] for row in rows} == {"Deepfakes", "NeuralTextures"}
    # Some have more frames than their real, yet equal numbers are the same moments.
    assert "real_frame" not in rows[0]
    for row in rows:
        real, fake = read(tmp_path / row["real"]), read(tmp_path / row["fake"])
        assert real.shape == fake.shape == (256, 256, 3)
        change = np.abs(real - fake).max(axis=2)
        assert np.median(change[:24]) <= 8  # above the face nothing but the codec
        points = stored_landmarks(tmp_path / row["real"])
        assert points is not None
        eyes, mouth = points[36:48].mean(axis=0), points[48:].mean(axis=0)
        assert abs(eyes[0] - 128) < 20
        assert eyes[1] < 128 < mouth[1]
    from data_pipeline.fftg.annotator import Annotator
    from data_pipeline.fftg.pairs import read_pairs

    job = next(j for j in read_pairs(tmp_path / "pairs.csv") if j.columns["method"] == "Deepfakes")
    line = Annotator(root=tmp_path).annotate(job)
    assert line is not None
    assert not line["error"]
    assert any(region["forged"] for region in line["regions"].values())
