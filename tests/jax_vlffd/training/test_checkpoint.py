"""Checkpoints: bitwise, the newest and the best, onto other meshes, and what a damaged one says."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jax_vlffd.config import LossConfig, TuningConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training import checkpoints as checkpoint
from jax_vlffd.training.checkpoints import DAMAGED as DAMAGED_FOLDER
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.sharding import to_devices
from jax_vlffd.training.state import TrainPlan, TrainState
from jax_vlffd.training.step import make_train_step
from tests.support import tiny

IMAGE_ONLY = LossConfig(alignment=0, fusion=0)
#: TensorStore complains of its own when a read is broken off.
DAMAGED = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)
POSITION = {"data": {"step": 3, "seen": 12}, "clock": {"seconds": 1.5, "best": None}}


def filled(plan: TrainPlan, step: int) -> TrainState:
    """A state with numbers of its own in every leaf."""
    rng = np.random.default_rng(step)

    def fill(shape: jax.ShapeDtypeStruct) -> jax.Array:
        value = rng.standard_normal(shape.shape) if shape.ndim else step
        return jax.device_put(np.asarray(value, shape.dtype), shape.sharding)

    return jax.tree.map(fill, plan.abstract)


def assert_same(ours: Any, theirs: Any) -> None:
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(ours),
        jax.tree_util.tree_leaves_with_path(theirs),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def plan() -> TrainPlan:
    return tiny.plan((2, 2, 2), loss=IMAGE_ONLY)


@pytest.fixture(scope="module")
def written(plan: TrainPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints 3 and 4."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (3, 4):
            checkpoints.save(filled(plan, step), POSITION, {"auc": 0.5})
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def test_what_is_saved_comes_back_bitwise_and_in_its_place(plan: TrainPlan, written: Path) -> None:
    with Checkpoints(written, read_only=True) as checkpoints:
        assert checkpoints.latest == 4
        state, position = checkpoints.restore(plan.abstract, 3)
        parameters = checkpoints.restore_parameters(plan.abstract.parameters, 4)
    assert position == POSITION
    assert_same(state, filled(plan, 3))
    assert_same(parameters, filled(plan, 4).parameters)
    assert jax.tree.map(lambda x: x.sharding, state) == plan.sharding


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 1, 1), (1, 8, 1)])
def test_a_checkpoint_comes_back_on_another_mesh(
    mesh: tuple[int, int, int], plan: TrainPlan, written: Path
) -> None:
    other = tiny.plan(mesh, loss=IMAGE_ONLY)
    with Checkpoints(written, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(other.abstract, 3)
    assert_same(state, filled(plan, 3))
    assert jax.tree.map(lambda x: x.sharding, state) == other.sharding


def test_a_state_may_change_as_soon_as_save_returns(tmp_path: Path) -> None:
    """The steps that follow take over the donated memory while the save still writes."""
    plan = tiny.plan(loss=IMAGE_ONLY)
    step, state = make_train_step(plan), tiny.state(plan)
    batch = to_devices(tiny.batch(), plan.mesh)
    expected = {}
    with Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints:
        for n in range(1, 13):
            state, _ = step(state, batch)
            if n % 3 == 0:
                expected[n] = tiny.host(state)
                checkpoints.save(state, POSITION, None)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        for n, values in expected.items():
            assert_same(checkpoints.restore(plan.abstract, n)[0], values)


# --- which stay ---


def save_all(
    folder: Path, plan: TrainPlan, metrics: list[dict[str, float] | None], **options: Any
) -> Iterator[Checkpoints]:
    with Checkpoints(folder, **options) as checkpoints:
        for step, values in enumerate(metrics, 1):
            checkpoints.save(filled(plan, step), POSITION, values)
        checkpoints.wait()
        yield checkpoints
    with Checkpoints(folder, read_only=True) as checkpoints:
        yield checkpoints


def steps_in(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


@pytest.mark.parametrize(
    ("aucs", "keep", "best", "kept"),
    [
        ([0.9, 0.6, 0.7, 0.8], 2, 1, {1, 3, 4}),
        ([0.6, 0.7, 0.8, 0.9], 1, 4, {4}),
        ([0.8, 0.9, 0.9, None, None], 1, 3, {3, 5}),  # of equals the later
        ([None, None, None], 2, 3, {2, 3}),
        ([None, 0.2, None, None], 1, 2, {2, 4}),
    ],
)
def test_the_newest_and_the_best_stay(
    aucs: list[float | None], keep: int, best: int, kept: set[int], plan: TrainPlan, tmp_path: Path
) -> None:
    small = tiny.plan(tuning=TuningConfig("frozen", "frozen"), loss=IMAGE_ONLY)
    metrics = [None if auc is None else {"auc": auc, "loss": 1.0} for auc in aucs]
    for checkpoints in save_all(tmp_path / "checkpoints", small, metrics, keep=keep):
        assert checkpoints.latest == len(aucs)
        assert checkpoints.best == best
    assert steps_in(tmp_path / "checkpoints") == kept


def test_a_validation_without_an_auc_is_no_best(tmp_path: Path) -> None:
    """Of one class alone there is no AUC."""
    small = tiny.plan(tuning=TuningConfig("frozen", "frozen"), loss=IMAGE_ONLY)
    for checkpoints in save_all(
        tmp_path / "checkpoints", small, [{"loss": 1.0}, {"auc": 0.1}, None]
    ):
        assert checkpoints.best == 2


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (None, None)


def test_reading_changes_nothing(plan: TrainPlan, copied: Path) -> None:
    (copied / "9.orbax-checkpoint-tmp").mkdir()
    before = sorted(copied.rglob("*"))
    with Checkpoints(copied, keep=1, read_only=True) as checkpoints:
        assert checkpoints.latest == 4
        checkpoints.restore_parameters(plan.abstract.parameters, 3)
    assert sorted(copied.rglob("*")) == before


def test_what_a_killed_save_left_is_no_checkpoint(plan: TrainPlan, copied: Path) -> None:
    shutil.copytree(copied / "4", copied / "5.orbax-checkpoint-tmp")
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.latest == 4
        checkpoints.save(filled(plan, 5), POSITION, None)
    with Checkpoints(copied, read_only=True) as checkpoints:
        assert_same(checkpoints.restore(plan.abstract, 5)[0], filled(plan, 5))


# --- what does not fit ---


def message(folder: Path, plan: TrainPlan, step: int = 4) -> str:
    with Checkpoints(folder, read_only=True) as checkpoints:
        with pytest.raises(UserError) as caught:
            checkpoints.restore(plan.abstract, step)
        gc.collect()  # what was broken off complains here, and not in a later test
        return " ".join(str(caught.value).split("\n"))


def test_a_checkpoint_of_another_model_is_an_error(written: Path) -> None:
    text = message(written, tiny.plan(tuning=TuningConfig("lora", "full"), lora_rank=2))
    assert f"{written / '4'}: the checkpoint is of another model or version" in text
    assert "use another workdir" in text


def test_a_model_of_other_widths_is_refused(monkeypatch: pytest.MonkeyPatch, written: Path) -> None:
    wider = dataclasses.replace(tiny.VISION, mlp_width=128)
    monkeypatch.setattr(tiny, "CLIP", dataclasses.replace(tiny.CLIP, vision=wider))
    other = tiny.plan((2, 2, 2), loss=IMAGE_ONLY)
    assert "not compatible with the stored shape" in message(written, other)


@pytest.mark.parametrize("content", [b"", b'{"auc"', b"\xff"])
def test_a_checkpoint_with_damaged_metrics_is_moved_away(
    content: bytes, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "4" / "metrics" / "metrics").write_bytes(content)
    with pytest.raises(UserError, match=f"{copied / '4'}: the checkpoint is damaged"):
        Checkpoints(copied, read_only=True)
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.latest == 3
    assert f"{copied / '4'}: the checkpoint is damaged" in capsys.readouterr().err
    assert (copied.parent / "damaged_checkpoints" / "4.0").is_dir()


@pytest.mark.slow
@DAMAGED
def test_no_cut_file_goes_unseen(plan: TrainPlan, copied: Path) -> None:
    """One file at a time, cut in half: refused, or none the worse."""
    expected = filled(plan, 4)
    refused = 0
    for file in [path for path in (copied / "4").rglob("*") if path.is_file()]:
        sound = file.read_bytes()
        file.write_bytes(sound[: len(sound) // 2])
        try:
            with Checkpoints(copied, read_only=True) as checkpoints:
                state, position = checkpoints.restore(plan.abstract, 4)
        except UserError:
            refused += 1
        else:
            assert_same(state, expected)
            assert position == POSITION
        file.write_bytes(sound)
    gc.collect()
    assert refused > 5


@DAMAGED
@pytest.mark.parametrize("item", ["parameters", "rest", "position"])
@pytest.mark.parametrize("how", ["missing", "emptied", "cut"])
def test_every_damaged_item_is_a_one_line_error(
    item: str, how: str, plan: TrainPlan, copied: Path
) -> None:
    folder = copied / "4" / item
    if how == "missing":
        shutil.rmtree(folder)
    else:
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            data = file.read_bytes()
            file.write_bytes(b"" if how == "emptied" else data[: len(data) // 2])
    text = message(copied, plan)
    assert f"{copied / '4'}: the checkpoint is damaged" in text
    assert "remove that folder to go back to the one before" in text
    shutil.rmtree(copied / "4")
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.latest == 3
        assert_same(checkpoints.restore(plan.abstract, 3)[0], filled(plan, 3))


# --- a validation made up, reads that fail ---


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_saved_step_is_completed_in_place(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before, between or behind the two files that change: the checkpoint stays whole and alone."""
    small = tiny.plan(tuning=TuningConfig("frozen", "frozen"), loss=IMAGE_ONLY)
    folder, state = tmp_path / "checkpoints", filled(small, 3)
    cut = {"data": {"step": 3}, "clock": {"due": True}}
    done = {"data": {"step": 3}, "clock": {"due": False}}
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state, cut, None)
    left = iter([None] * written)

    def replace(path: Path, text: str) -> None:
        if next(left, "killed"):
            raise KeyboardInterrupt
        sound(path, text)

    sound = checkpoint.replace_text
    monkeypatch.setattr(checkpoint, "replace_text", replace)
    with Checkpoints(folder, keep=1) as checkpoints:
        with contextlib.ExitStack() as stack:
            if written < 2:
                stack.enter_context(pytest.raises(KeyboardInterrupt))
            checkpoints.save(state, done, {"auc": 0.75})
        assert checkpoints.best == 3
    with Checkpoints(folder, read_only=True) as checkpoints:
        result, position = checkpoints.restore(small.abstract, 3)
    assert position == (done if written == 2 else cut)
    assert_same(result, state)


class Unreadable(Checkpoints):
    """One whose newest step cannot be read, as a machine short of memory or a network says it."""

    error: BaseException

    def _restore(self, step: int, **items: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if step == 4:
                patch.setattr(self._manager, "restore", self._fail)
            return super()._restore(step, **items)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ValueError("RESOURCE_EXHAUSTED: Error reading local file"),
        ValueError("UNAVAILABLE: Error reading gs://bucket"),
        ValueError("FAILED_PRECONDITION: Error opening"),  # its files have their digests
        PermissionError(errno.EACCES, "Permission denied", "4/rest/_METADATA"),
        OSError(errno.EIO, "Input/output error"),
        TimeoutError("timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_read_that_fails_condemns_no_checkpoint(
    error: Exception, plan: TrainPlan, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unreadable, "error", error, raising=False)
    with (
        Unreadable(copied) as checkpoints,
        pytest.raises(
            UserError, match=f"{copied / '4'}: the checkpoint (cannot be read now|is of another)"
        ),
    ):
        checkpoints.restore_newest(plan.abstract)
    assert steps_in(copied) == {3, 4}
    assert not (copied.parent / DAMAGED_FOLDER).exists()
    with Checkpoints(copied) as checkpoints:
        assert int(checkpoints.restore_newest(plan.abstract)[0].step) == 4


READ = """
import os, sys
from pathlib import Path
from jax_vlffd.training.checkpoints import Checkpoints
from tests.support import tiny
from tests.jax_vlffd.training.test_checkpoint import IMAGE_ONLY
plan, how, folder = tiny.plan(loss=IMAGE_ONLY), sys.argv[1], Path(sys.argv[2])
if how == "user":
    os.setuid(65534)
with Checkpoints(folder) as checkpoints:
    state, _ = checkpoints.restore_newest(plan.abstract)
    print("step", int(state.step))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("what", ["rest/_METADATA", "metrics/metrics", "parameters/d"])
def test_a_file_that_this_user_may_not_read_condemns_no_checkpoint(
    what: str, written: Path
) -> None:
    """By another user's process, who may write the folder and not read the file."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own folder is closed to other users
        folder = Path(shutil.copytree(written, Path(made) / "checkpoints"))
        for path in (Path(made), folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        (folder / "4" / what).chmod(0o000)
        done = subprocess.run(
            [sys.executable, "-c", READ, "user", str(folder)],
            cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"{folder / '4'}: the checkpoint cannot be read now" in done.stderr, done.stderr
        assert steps_in(folder) == {3, 4}


@pytest.mark.parametrize("name", ["a [1] b", "[ab]", "x*y?", "[!a]*[", "ends]"])
def test_a_folder_of_any_name_holds_checkpoints(name: str, plan: TrainPlan, tmp_path: Path) -> None:
    folder = tmp_path / name / "checkpoints"
    with Checkpoints(folder, keep=1) as checkpoints:
        for step in (3, 4):
            checkpoints.save(filled(plan, step), POSITION, {"auc": 0.5})
    assert steps_in(folder) == {4}
    with Checkpoints(folder) as checkpoints:
        state, position = checkpoints.restore_newest(plan.abstract)
        parameters = checkpoints.restore_parameters(plan.abstract.parameters, 4)
    assert_same(state, filled(plan, 4))
    assert_same(parameters, filled(plan, 4).parameters)
    assert position == POSITION
