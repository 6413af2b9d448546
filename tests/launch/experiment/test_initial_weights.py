"""Which pretrained weights a run began with: recorded, shown in the card, compared when it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_vlffd.config import InitConfig, LossConfig
from jax_vlffd.errors import UserError
from launch.experiment import export, training_data
from launch.experiment import workdir as runs
from tests.support.hf_files import write_clip
from tests.support.hub_server import Hub, serving
from tests.support.training_runs import run

ID = "someone/clip"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "cache", monkeypatch) as it:
        yield it


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("weights") / "clip")


def changed(clip: Path, folder: Path) -> Path:
    """A copy with one other number in its weights."""
    shutil.copytree(clip, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"] += np.float32(1e-3)
    save_file(tensors, folder / "model.safetensors")
    return folder


def begin(workdir: Path, packed: Path, source: str) -> None:
    run(
        workdir, packed, init=InitConfig(clip=source), loss=LossConfig(alignment=0, fusion=0),
        duration="2 steps", evaluate_every="2 steps",
    )  # fmt: skip


def recorded(workdir: Path) -> dict[str, Any]:
    content = json.loads((workdir / runs.CONFIG).read_text())["initial_weights"]
    trained = training_data.read(workdir)
    assert trained is not None
    assert content == trained["initial_weights"]
    return content  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_run_from_the_hub_keeps_its_commit(
    server: Hub, clip: Path, packed: Path, tmp_path: Path
) -> None:
    """`main` moves on; the run goes on all the same, and refuses the other commit by name."""
    workdir = tmp_path / "run"
    first = server.push(ID, clip)
    begin(workdir, packed, ID)
    weights = recorded(workdir)
    assert (weights["source"], weights["revision"]) == (ID, first)
    assert weights["files"] == training_data.initial_weights(str(clip))["files"]

    export.export(workdir, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"from {ID} at commit {first}" in card.replace("\\", "")
    for digest in weights["files"].values():
        assert digest in card

    second = server.push(ID, changed(clip, tmp_path / "other"))
    server.asked.clear()
    for source in (ID, f"{ID}@{first}", f"{ID}@{second}", str(clip), ""):
        begin(workdir, packed, source)  # the second commit is not at hand, and is not downloaded
        assert recorded(workdir) == weights
    assert not server.asked
    training_data.initial_weights(ID)  # somebody downloads it
    for source in (ID, f"{ID}@{second}"):
        with pytest.raises(UserError) as caught:
            begin(workdir, packed, source)
        assert str(caught.value).startswith(
            f"{ID}@{second} is not what {workdir} was begun with, {ID}@{first} (model.safetensors differs)"
        )
    begin(workdir, packed, f"{ID}@{first}")


@pytest.mark.slow
def test_a_changed_folder_is_refused_when_a_run_would_go_on(
    clip: Path, packed: Path, tmp_path: Path
) -> None:
    workdir, folder = tmp_path / "run", tmp_path / "clip"
    shutil.copytree(clip, folder)
    begin(workdir, packed, str(folder))
    before = sorted(path.name for path in (workdir / runs.CHECKPOINTS).iterdir())
    shutil.rmtree(folder)
    begin(workdir, packed, str(folder))  # trained weights need it no more
    changed(clip, folder)
    with pytest.raises(UserError, match=rf"{folder} is not what {workdir} was begun with"):
        begin(workdir, packed, str(folder))
    assert sorted(path.name for path in (workdir / runs.CHECKPOINTS).iterdir()) == before


@pytest.mark.parametrize(
    "weights", [[], 1, {}, {"source": 1}, {"source": "a", "revision": 1, "files": {}},
                {"source": "a", "revision": None, "files": {"b": 1}},
                {"source": "a", "revision": None, "files": [1]}],
)  # fmt: skip
def test_a_damaged_record_is_refused(weights: Any, tmp_path: Path) -> None:
    content = {"version": 1, "train": [], "validation": [], "initial_weights": weights}
    (tmp_path / training_data.FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=training_data.FILE):
        training_data.read(tmp_path)
