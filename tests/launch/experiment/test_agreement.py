"""Hosts that have other files under the same paths, and sets that change under a run: refused, by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data_pipeline.loading.tokenizer import train_tokenizer
from data_pipeline.packed.builder import pack
from jax_vlffd.config import InitConfig, LossConfig
from jax_vlffd.errors import UserError
from launch.experiment import training_data
from launch.experiment import workdir as runs
from tests.support import processes, tiny
from tests.support.hf_files import write_clip
from tests.support.packed_sets import write_annotations
from tests.support.training_runs import run

LOSS = LossConfig(alignment=0, fusion=0)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of relative paths, and folders `a` and `b` that hold a set and a CLIP each under those paths."""
    made = tmp_path_factory.mktemp("hosts")
    (made / "a").mkdir()
    tiny.pack_set(made / "a").rename(made / "a" / "set")
    write_clip(made / "a" / "clip")
    shutil.copytree(made / "a", made / "b")
    settings = tiny.settings(
        Path("set"),
        init=InitConfig(clip="clip"),
        loss=LOSS,
        duration="2 steps",
        evaluate_every="2 steps",
    )
    tiny.write_recipe(made / "tiny.py", *settings)
    return made


def error(hosts: Path, workdir: str | Path, tmp_path: Path, expected: int = 1) -> list[str]:
    """Trains on two hosts, whose working directories are `a` and `b`; returns what each printed."""
    started = processes.start_hosts(
        2, "launch.train", [f"--config={hosts / 'tiny.py'}", f"--workdir={workdir}"], tmp_path / "logs",
        hosts.parent / "compiled", cwds=[hosts / "a", hosts / "b"],
    )  # fmt: skip
    result = [processes.status(process, 120) for process in started]
    lines = [(tmp_path / "logs" / str(number)).read_text() for number in range(2)]
    assert result == [expected] * 2, lines
    return lines


@pytest.fixture
def changed(hosts: Path, tmp_path: Path) -> Path:
    """A copy of the hosts' folders, for one test to change."""
    return Path(shutil.copytree(hosts, tmp_path / "hosts"))


def test_other_weights_on_one_host_end_both_before_the_first_step(
    changed: Path, tmp_path: Path
) -> None:
    file = changed / "b" / "clip" / "model.safetensors"
    tensors = load_file(file)
    name = "visual_projection.weight"
    save_file({**tensors, name: tensors[name] + np.float32(1e-3)}, file)
    for text in error(changed, tmp_path / "run", tmp_path):
        assert "process 1 (" in text
        assert "has other files than process 0: clip/model.safetensors" in text
        assert "Traceback" not in text
    assert not runs.is_begun(tmp_path / "run")


def test_another_set_on_one_host_ends_both_before_the_first_step(
    changed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(changed / "b" / "set")
    files = [
        write_annotations(tmp_path / "train", 8, split="train", seed=7),
        write_annotations(tmp_path / "validation", 4, ("Face2Face",), split="validation"),
    ]
    pack(files, changed / "b" / "set")
    for text in error(changed, tmp_path / "run", tmp_path):
        assert "process 1 (" in text
        assert "has other files than process 0: train set set, validation set set" in text
    assert not runs.is_begun(tmp_path / "run")


def test_other_records_under_the_same_checksums_end_both(changed: Path, tmp_path: Path) -> None:
    (shard,) = (changed / "b" / "set").glob("*-train.array_record-*")
    data = bytearray(shard.read_bytes())
    data[-70_000:] = bytes(70_000)
    shard.write_bytes(data)
    for text in error(changed, tmp_path / "run", tmp_path):
        assert "process 1 (" in text
        assert "has other files than process 0: train set set, validation set set" in text


def test_another_tokenizer_on_one_host_ends_both(changed: Path, tmp_path: Path) -> None:
    train_tokenizer(["Words of another set."], tiny.TEXT.vocab_size, changed / "b" / "clip")
    for text in error(changed, tmp_path / "run", tmp_path):
        assert "process 1 (" in text
        assert "has other files than process 0: the tokenizer" in text
    assert not runs.is_begun(tmp_path / "run")


def test_a_workdir_that_the_hosts_do_not_share_ends_both(hosts: Path, tmp_path: Path) -> None:
    for text in error(hosts, "run", tmp_path):
        assert "process 1 (" in text
        assert "does not see the folder run that process 0 writes" in text
    assert not (hosts / "b" / "run").exists()


@pytest.mark.slow
def test_a_workdir_keeps_the_digests_of_the_weights_that_it_began_with(
    hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hosts / "a")
    for _ in range(2):  # the second goes on
        run(
            tmp_path / "run",
            Path("set"),
            init=InitConfig(clip="clip"),
            loss=LOSS,
            duration="2 steps",
        )
        content = training_data.read(tmp_path / "run")
        assert content is not None
        assert content["initial_weights"] == training_data.initial_weights("clip")
        assert content["initial_weights"]["files"].keys() == {"config.json", "model.safetensors"}
        assert content["initial_weights"]["revision"] is None


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_set_that_was_packed_anew_is_named_when_a_run_would_go_on(
    split: str, tmp_path: Path
) -> None:
    """With as many records as before; a workdir that keeps no digests goes on as it did."""
    sets = {name: tiny.pack_set(tmp_path / name) for name in ("train", "validation")}
    given = {"validation": (str(sets["validation"]),)}
    run(tmp_path / "run", sets["train"], loss=LOSS, duration="2 steps", **given)
    shutil.rmtree(sets[split])
    files = [
        write_annotations(tmp_path / "new" / "train", 8, split="train", seed=7),
        write_annotations(
            tmp_path / "new" / "validation", 4, ("Face2Face",), split="validation", seed=7
        ),
    ]
    pack(files, sets[split])
    before = sorted((tmp_path / "run" / runs.CHECKPOINTS).iterdir())
    with pytest.raises(
        UserError, match=f"data.{split}: {sets[split]} is not the set that"
    ) as caught:
        run(tmp_path / "run", sets["train"], loss=LOSS, duration="2 steps", **given)
    assert "\n" not in str(caught.value)
    assert sorted((tmp_path / "run" / runs.CHECKPOINTS).iterdir()) == before
    (tmp_path / "run" / training_data.FILE).unlink()
    run(tmp_path / "run", sets["train"], loss=LOSS, duration="2 steps", **given)
