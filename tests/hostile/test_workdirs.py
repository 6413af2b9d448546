"""Workdirs and exports made by somebody else: no file in one has another place read or written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest

from data_pipeline.core.files import read_object
from jax_vlffd.errors import UserError
from jax_vlffd.inference.trained import read_calibration
from jax_vlffd.path_containment import check_contained
from launch.experiment.config import read_saved
from tests.support import processes, tiny, tiny_export

SECRET = "what nobody else should see"
SETTINGS = {"duration": "4 steps", "evaluate_every": "4 steps"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with files that a workdir may want."""
    for name in (".bashrc", ".ssh/authorized_keys", "calibration.json", "checkpoints/9/x"):
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)
    return tmp_path / "home"


@pytest.fixture
def run(packed: Path, tmp_path: Path) -> Path:
    """A workdir with a checkpoint, which names a set that is there."""
    return tiny_export.make_workdir(tmp_path / "run", packed, **SETTINGS)


def every_command(run: Path, packed: Path, out: Path) -> list[tuple[str, ...]]:
    """The commands that open a workdir, of which all but `train` only read it."""
    recipe = tiny.write_recipe(out / "tiny.py", *tiny.settings(packed, **SETTINGS))
    data = f"--data=own={packed}"
    return [
        ("train", f"--config={recipe}", f"--workdir={run}"),
        ("evaluate", f"--workdir={run}", data, "--split=validation", f"--out={out / 'eval'}"),
        ("export", f"--workdir={run}", f"--out={out / 'export'}"),
        ("score_reasons", f"--workdir={run}", data, "--split=validation", f"--validation={packed}"),
        ("predict", f"--checkpoint={run}", "--crops", str(packed.parent / "train" / "real_0.png")),
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_file_that_names_another_place_is_only_a_file(
    run: Path, home: Path, packed: Path, tmp_path: Path
) -> None:
    (run / ".bashrc").write_text("theirs")
    (run / ".ssh").mkdir()
    (run / ".ssh/authorized_keys").write_text("theirs")
    (run / ".origin").write_text(str(home))
    before = content(home)
    shutil.rmtree(run / "checkpoints")
    for command, *arguments in every_command(run, packed, tmp_path)[:2]:
        done = tiny.command(
            f"launch.{command}", *arguments, env=tiny.environment() | {"HOME": str(home)}
        )
        assert done.returncode == 0, done.stderr
    # What was trained lies in the workdir itself.
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"4"}
    assert {k: v for k, v in content(home).items() if not k.startswith(".cache")} == before


LINKS = [
    "calibration.json",
    "metrics.jsonl.new",
    "checkpoints",
    "explanation.txt",
    "tokenizer/vocab.json",
]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *((name, (number, number + 1)) for number, name in enumerate(LINKS)),
        *(pytest.param(name, (0, 5), marks=pytest.mark.campaign) for name in LINKS),
    ],
)
def test_a_link_out_of_a_workdir_is_refused_by_every_command(
    name: str, chosen: tuple[int, int], run: Path, home: Path, packed: Path, tmp_path: Path
) -> None:
    """The sample has each link once and each command once."""
    path, target = run / name, home / (name if (home / name).exists() else ".bashrc")
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)
    before = content(home)
    for command, *arguments in every_command(run, packed, tmp_path)[slice(*chosen)]:
        log = tmp_path / f"{command}.log"
        process = processes.start(f"launch.{command}", arguments, log, tmp_path / "compiled")
        assert processes.status(process) == 1, log.read_text()
        assert log.read_text().count("\n") == 1, log.read_text()
        assert f"{path} is a link out of {run}" in log.read_text()
    assert content(home) == before
    assert not any(SECRET.encode() in data for data in content(tmp_path / "export").values())


def test_pipes_are_refused_and_links_within_are_followed(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "one"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/up").symlink_to("..")
    (folder / "gone").symlink_to("nothing")
    (tmp_path / "way").symlink_to(folder)
    check_contained(folder)
    check_contained(tmp_path / "way")
    (folder / "round").symlink_to("round")
    os.mkfifo(folder / "inner/pipe")
    for name in ("round", "inner/pipe"):
        with pytest.raises(UserError, match=name):
            check_contained(folder)
        (folder / name).unlink()
    (folder / "inner/key").symlink_to("../../home/.bashrc")
    with pytest.raises(UserError, match="inner/key is a link out of"):
        check_contained(folder)


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "summary.json"])
def test_a_giant_is_not_read_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as sparse:
        sparse.truncate(8 << 30)
    reader = {
        "config.json": read_saved, "calibration.json": read_calibration,
        "summary.json": lambda _: read_object(path),
    }[name]  # fmt: skip
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            assert reader(tmp_path) is None
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_links_of_the_hub_cache_are_no_way_out(tmp_path: Path, home: Path) -> None:
    snapshot = tmp_path / "models--me--it" / "snapshots" / ("0123" * 10)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    blob = snapshot.parents[1] / "blobs" / ("abcd" * 16)
    blob.touch()
    (snapshot / "config.json").symlink_to(f"../../blobs/{blob.name}")
    check_contained(snapshot)
    other = snapshot.with_name("run")  # a folder that only looks like the cache
    other.mkdir()
    (other / "config.json").symlink_to(blob)
    with pytest.raises(UserError, match=r"config\.json is a link out of"):
        check_contained(other)
    (snapshot / "other").symlink_to("../../refs")
    with pytest.raises(UserError, match="other is a link out of"):
        check_contained(snapshot)
