"""Workdirs in a bucket: whole runs against a server on the loopback that answers as Cloud Storage does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.remote import CHECKSUMS
from jax_vlffd.config import LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training.checkpoints import Checkpoints
from launch.experiment import remote_workdir
from launch.experiment import workdir as runs
from tests.jax_vlffd.training.test_checkpoint import assert_same
from tests.launch.experiment.test_train_command import refused
from tests.support import bucket_server, tiny
from tests.support.training_runs import history

pytest.importorskip("gcsfs", reason="the extra gcs is not installed")

STEPS = 8
PLACE = "gs://bucket/runs/one"
IMAGE_ONLY = LossConfig(alignment=0, fusion=0)


@pytest.fixture
def bucket() -> Iterator[bucket_server.Bucket]:
    with bucket_server.serving() as server:
        yield server


def test_other_addresses_are_refused() -> None:
    with (
        pytest.raises(UserError, match=r"s3://a/b: not a supported address"),
        remote_workdir.local("s3://a/b"),
    ):
        raise AssertionError


def test_a_folder_is_what_it_is(tmp_path: Path) -> None:
    with remote_workdir.local(str(tmp_path)) as workdir:
        assert workdir == tmp_path
        assert remote_workdir.origin(workdir) is workdir
        remote_workdir.publish(workdir)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def in_the_bucket(
    bucket: bucket_server.Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> bucket_server.Bucket:
    """A packed set at gs://bucket/set; this process takes the server for Google's."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed = tiny.pack_set(tmp_path / "set")
    for path in packed.rglob("*"):
        if path.is_file():
            bucket.put(f"set/{path.relative_to(packed)}", path.read_bytes())
    return bucket


def test_a_set_in_a_bucket_is_copied_once_and_anew_when_it_has_changed(
    in_the_bucket: bucket_server.Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = PackedSplit(tmp_path / "set/packed", "train")
    for _ in range(2):
        ours = PackedSplit("gs://bucket/set", "train")
        assert [ours[row].id for row in range(len(ours))] == [
            theirs[row].id for row in range(len(theirs))
        ]
    assert capsys.readouterr().err.count("copying gs://bucket/set to ") == 1
    sums = (tmp_path / "set/packed" / CHECKSUMS).read_text().splitlines()
    kept = [line for line in sums if "README" not in line]
    in_the_bucket.put(f"set/{CHECKSUMS}", "\n".join(kept).encode())
    assert not (PackedSplit("gs://bucket/set", "train").folder / "README.md").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CHECKSUMS, None, "is not a packed set: it has no SHA256SUMS"),
        (CHECKSUMS, b"0" * 64 + b"  ../../x\n", "is not a line of such a file"),
        ("dataset_info.json", b"{}", r"dataset_info.json is damaged"),
        ("features.json", None, "cannot be copied here"),
    ],
)
def test_a_set_that_is_not_whole_is_told_and_leaves_nothing(
    file: str, content: bytes | None, message: str,
    in_the_bucket: bucket_server.Bucket, tmp_path: Path,
) -> None:  # fmt: skip
    if content is None:
        del in_the_bucket.objects[f"set/{file}"]
    else:
        in_the_bucket.put(f"set/{file}", content)
    with pytest.raises(UserError, match=message):
        PackedSplit("gs://bucket/set", "train")
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert all(path.suffix == ".lock" for path in left)


@pytest.mark.slow
def test_a_run_in_a_bucket_ends_as_one_in_a_folder_though_the_bucket_fails_in_a_save(
    bucket: bucket_server.Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.settings(
        tiny.pack_set(tmp_path / "set"), loss=IMAGE_ONLY, duration=f"{STEPS} steps",
        evaluate_every="4 steps", checkpoint_every="2 steps", keep=STEPS,
    )  # fmt: skip
    config = tiny.write_recipe(tmp_path / "tiny.py", *settings)
    environment = tiny.environment(tmp_path / "compiled") | bucket.environment

    def start(workdir: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.train", f"--config={config}", f"--workdir={workdir}"],
            cwd=tiny.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        out, error = process.communicate(timeout=600)
        return subprocess.CompletedProcess("", process.returncode, out, error)

    alone = end(start(str(tmp_path / "alone")))
    assert alone.returncode == 0, alone.stderr

    bucket.last = "runs/one/checkpoints/4/parameters/_METADATA"
    refused(end(start(PLACE)), PLACE, "quota")
    assert "runs/one/checkpoints/2/commit_success.txt" in bucket.objects
    assert "runs/one/checkpoints/4/commit_success.txt" not in bucket.objects

    bucket.full, bucket.last = False, None
    done = end(start(PLACE))
    assert done.returncode == 0, done.stderr
    assert "best checkpoint: step " in done.stdout
    assert PLACE in done.stdout
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    plan = tiny.plan(loss=IMAGE_ONLY)
    with remote_workdir.local(PLACE) as workdir:
        assert history(workdir) == history(tmp_path / "alone")
        result = []
        for run in (workdir, tmp_path / "alone"):
            with Checkpoints(
                remote_workdir.origin(run) / runs.CHECKPOINTS, read_only=True
            ) as checkpoints:
                result.append(checkpoints.restore(plan.abstract, STEPS)[0])
        assert_same(*result)
        assert (workdir / runs.SUMMARY).exists()
