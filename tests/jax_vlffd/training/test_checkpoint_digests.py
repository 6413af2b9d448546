"""Digests of checkpoints: no changed byte goes unseen, and those without digests are read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from jax_vlffd import checksums
from jax_vlffd.errors import UserError
from jax_vlffd.training.checkpoints import DAMAGED as DAMAGED_FOLDER
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.state import TrainPlan
from tests.jax_vlffd.training.test_checkpoint import IMAGE_ONLY, POSITION, assert_same, filled
from tests.support import tiny


@pytest.fixture(scope="module")
def plan() -> TrainPlan:
    return tiny.plan(loss=IMAGE_ONLY)


@pytest.fixture
def copied(plan: TrainPlan, tmp_path: Path) -> Path:
    """A folder with checkpoints 3 and 4."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (3, 4):
            checkpoints.save(filled(plan, step), POSITION, {"auc": 0.5})
    return tmp_path / "checkpoints"


def read(folder: Path, plan: TrainPlan, step: int = 4) -> None:
    with Checkpoints(folder, read_only=True) as checkpoints:
        checkpoints.restore(plan.abstract, step)


@pytest.mark.parametrize("count", [24, pytest.param(1000, marks=pytest.mark.campaign)])
def test_no_flipped_byte_goes_unseen(count: int, plan: TrainPlan, copied: Path, seed: int) -> None:
    """One byte at a time, anywhere in what a resume reads."""
    rng = random.Random(seed)
    folder = copied / "4"
    files = [
        path
        for part in ("parameters", "rest", "position", "metrics")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
        and path.stat().st_size
        and (part in ("parameters", "rest") or path.name in ("metadata", "metrics"))
    ]
    for turn in range(count):
        file = files[turn] if turn < len(files) else rng.choice(files)
        sound = file.read_bytes()
        changed = bytearray(sound)
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        file.write_bytes(changed)
        with pytest.raises(UserError, match=f"{folder}: the checkpoint is damaged"):
            read(copied, plan)
        file.write_bytes(sound)
    with Checkpoints(copied, read_only=True) as checkpoints:
        assert_same(checkpoints.restore(plan.abstract, 4)[0], filled(plan, 4))


def test_a_flipped_byte_moves_the_checkpoint_away(
    plan: TrainPlan, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (copied / "4" / "parameters").rglob("_METADATA")
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with Checkpoints(copied) as checkpoints:
        state, _ = checkpoints.restore_newest(plan.abstract)
    assert_same(state, filled(plan, 3))
    assert "parameters/_METADATA is not as it was saved" in capsys.readouterr().err
    assert (copied.parent / DAMAGED_FOLDER / "4.0").is_dir()


def test_a_checkpoint_with_sha256_of_an_older_version_is_checked(
    plan: TrainPlan, copied: Path
) -> None:
    folder = copied / "4"
    (folder / checksums.FAST_FILE).unlink()
    checksums.write(folder, ("parameters", "rest"))
    with Checkpoints(copied, read_only=True) as checkpoints:
        assert_same(checkpoints.restore(plan.abstract, 4)[0], filled(plan, 4))
    (file,) = (folder / "rest").rglob("_METADATA")
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with pytest.raises(UserError, match="rest/_METADATA is not as it was saved"):
        read(copied, plan)


def test_crc32c_is_the_one_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "nine").write_bytes(b"123456789")  # the check value of every catalog of CRCs
    checksums.write(tmp_path, file=checksums.FAST_FILE)
    assert checksums.read(tmp_path, checksums.FAST_FILE) == {"nine": "e3069283"}


def test_a_checkpoint_of_an_older_version_has_no_digests_and_is_read(
    plan: TrainPlan, copied: Path
) -> None:
    folder = copied / "4"
    (folder / checksums.FAST_FILE).unlink()
    (folder / "position" / "metadata").write_text(json.dumps(POSITION))
    (folder / "metrics" / "metrics").write_text('{"auc": 0.5}')
    with Checkpoints(copied) as checkpoints:
        state, position = checkpoints.restore_newest(plan.abstract)
    assert position == POSITION
    assert_same(state, filled(plan, 4))
