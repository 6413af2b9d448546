"""`python -m launch.train` itself: killed and started again, and what it says of bad input."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.writer import write_packed_set
from jax_vlffd.clip.huggingface import save_hf
from jax_vlffd.config import LossConfig
from jax_vlffd.evaluation import metrics
from jax_vlffd.evaluation.scores import from_csv
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from launch.experiment import workdir as runs
from tests.jax_vlffd.training.test_checkpoint import assert_same
from tests.support import processes, said, tiny
from tests.support.packed_sets import make_set
from tests.support.training_runs import history, killed_reading

STEPS = 20
#: The image branch alone: what is tested here does not depend on the others, and it compiles sooner.
IMAGE_ONLY = LossConfig(alignment=0, fusion=0)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def config(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny.settings(
        packed, loss=IMAGE_ONLY, duration=f"{STEPS} steps", evaluate_every="10 steps",
        checkpoint_every="3 steps", keep=30, tensorboard=True,
    )  # fmt: skip
    return tiny.write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.py", *settings)


Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def train(config: Path, environment: dict[str, str]) -> Train:
    """Runs the command to its end, with keys of the config as keywords (dots as `__`)."""

    def start(workdir: Path, **keys: Any) -> subprocess.CompletedProcess[str]:
        given = [f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()]
        return tiny.command(
            "launch.train", f"--config={config}", f"--workdir={workdir}", *given, env=environment
        )

    return start


@pytest.fixture(scope="module")
def trained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("best checkpoint: step ")
    assert f"step {STEPS}/{STEPS}  validation AUC " in done.stderr
    assert said.errors(done.stderr) == [], done.stderr
    return workdir


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line, status 1, with these parts."""
    assert done.returncode == 1, done.stderr
    error = said.errors(done.stderr)
    assert len(error) == 1, done.stderr
    assert error[0].startswith("error: ")
    for part in parts:
        assert part in error[0]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }


# --- killed and started again ---


def kill_at(step: int, workdir: Path, config: Path, environment: dict[str, str]) -> None:
    """Runs the command, which gets a kill -9 as it reads the batch after a step, whatever it writes then."""
    done = processes.run(
        "launch.train", [f"--config={config}", f"--workdir={workdir}"], environment, tiny.ROOT,
        timeout=600, prepare=functools.partial(killed_reading, step),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max(line["step"] for line in read_history(workdir)) <= step
    assert not (workdir / runs.SUMMARY).exists()


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_if_it_had_not_been(
    trained: Path, config: Path, train: Train, environment: dict[str, str], tmp_path: Path
) -> None:
    kill_at(7, tmp_path, config, environment)
    kill_at(14, tmp_path, config, environment)
    done = train(tmp_path)
    assert done.returncode == 0, done.stderr
    assert history(tmp_path) == history(trained)
    logged = [line["step"] for line in history(tmp_path) if "train/loss" in line]
    assert logged == list(range(1, STEPS + 1))
    for name in (runs.CALIBRATION, runs.CONFIG, "tokenizer/vocab.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    plan = tiny.plan(loss=IMAGE_ONLY)
    for step in (15, 18, STEPS):
        result = []
        for workdir in (tmp_path, trained):
            with Checkpoints(workdir / runs.CHECKPOINTS, read_only=True) as checkpoints:
                result.append(checkpoints.restore(plan.abstract, step)[0])
        assert_same(*result)


# --- a set that does not serve ---


def test_a_set_that_is_not_there_leaves_nothing(train: Train, packed: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    refused(
        train(workdir, data__train="/nowhere/set"),
        "/nowhere/set does not exist; make the packed set with `python -m launch.pack`",
    )
    assert not workdir.exists()
    refused(train(workdir, data__validation=tmp_path), f"{tmp_path} is not a packed set")
    refused(train(workdir, data__train=packed.parent), f"{packed.parent} is not a packed set")
    assert not workdir.exists()


def test_an_empty_split_is_reported(train: Train, packed: Path, tmp_path: Path) -> None:
    only_train = make_set(tmp_path / "set", 2)
    refused(
        train(tmp_path / "run", data__validation=only_train),
        f"{only_train} has no records in split 'validation' (it has: train)",
    )
    refused(
        train(tmp_path / "run", data__methods="NeuralTextures"),
        "no fakes of NeuralTextures (data.methods) in split 'validation'",
        str(packed),
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_set_without_captions_is_told_and_the_remedy_works(
    train: Train, packed: Path, tmp_path: Path
) -> None:
    def bare(split: str) -> list:
        rows = PackedSplit(packed, split)
        records = [(dataclasses.replace(rows[n], captions=()), -1) for n in range(len(rows))]
        return [lambda: iter(records)]

    (tmp_path / "set").mkdir()
    made = write_packed_set(tmp_path / "set", {s: bare(s) for s in ("train", "validation")})
    keys = {"data__train": made, "data__validation": made, "train__duration": "1 steps"}
    message = "has no caption: annotate its set with `python -m launch.annotate`"
    refused(train(tmp_path / "run", **keys), message, "or set data.captions=label_only")
    # Nothing was trained yet, so the same workdir takes the corrected config.
    done = train(tmp_path / "run", **keys, data__captions="label_only")
    assert done.returncode == 0, done.stderr


def test_a_cut_shard_is_reported(train: Train, packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(packed, tmp_path / "set"))
    shard = next(copy.glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    refused(train(tmp_path / "run", data__train=copy), str(copy), "pack")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_images_that_do_not_decode_are_skipped_counted_and_too_many_stop_the_run(
    train: Train, tmp_path: Path
) -> None:
    packed = tiny.pack_set(tmp_path / "set", bad=(1, 2))
    keys = {"data__train": packed, "data__validation": packed, "train__duration": "12 steps"}
    workdir = tmp_path / "run"
    done = train(workdir, **keys, data__max_bad_share=0.004)
    refused(
        done, "images do not decode, the last is 'Deepfakes_", "raise data.max_bad_share (0.004)"
    )
    assert done.stderr.count("skipped an image that does not decode: ") >= 2
    # The share is no part of the result: the same workdir goes on with another.
    done = train(workdir, **keys, data__max_bad_share=0.5)
    assert done.returncode == 0, done.stderr
    assert f"of {packed} (train)" in done.stderr
    assert json.loads((workdir / runs.SUMMARY).read_text())["images_skipped"] >= 4


# --- weights that do not serve ---


@pytest.fixture
def clip(tmp_path: Path, trained: Path) -> Path:
    """A random CLIP of the tiny shape and the tokenizer of the trained run, in one folder."""
    folder = tmp_path / "clip"
    shutil.copytree(trained / "tokenizer", folder)
    values = {path: np.asarray(value) for path, value in tiny.start().items()}
    text = dataclasses.replace(tiny.TEXT, eos_id=Tokenizer.load(folder).eos_id)
    save_hf(folder, values, dataclasses.replace(tiny.CLIP, text=text))
    return folder


@pytest.mark.slow
def test_a_pretrained_clip_is_taken_with_its_tokenizer(
    train: Train, clip: Path, tmp_path: Path
) -> None:
    done = train(tmp_path / "run", init__clip=clip, train__duration="1 steps")
    assert done.returncode == 0, done.stderr
    assert files(clip).items() >= files(tmp_path / "run/tokenizer").items()


def test_weights_that_do_not_serve_are_named_and_the_corrected_start_goes_on(
    train: Train, clip: Path, tmp_path: Path
) -> None:
    workdir, weights = tmp_path / "run", clip / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[: len(sound) // 2])
    refused(train(workdir, init__clip=clip), str(weights), "not a whole safetensors file")
    weights.unlink()
    refused(train(workdir, init__clip=clip), str(clip), "model.safetensors is missing")
    (clip / "pytorch_model.bin").write_bytes(b"")
    refused(train(workdir, init__clip=clip), "pickled weights", "convert them once")
    weights.write_bytes(sound)
    settings = json.loads((clip / "config.json").read_text())
    settings["vision_config"]["num_hidden_layers"] = 3
    (clip / "config.json").write_text(json.dumps(settings))
    refused(
        train(workdir, init__clip=clip),
        "vision.layers 2 != 3",
        "choose the recipe or the checkpoint",
    )
    settings["vision_config"]["num_hidden_layers"] = 2
    (clip / "config.json").write_text(json.dumps(settings))
    (clip / "vocab.json").unlink()
    refused(train(workdir, init__clip=clip), "holds no tokenizer")
    assert not files(workdir)


# --- a rate that blows the parameters up ---


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_not_saved_and_the_remedy_works(
    train: Train, tmp_path: Path
) -> None:
    keys = {"optim__schedule": "constant", "optim__clip": 0, "train__duration": "6 steps"}
    assert train(tmp_path / "good", **keys, optim__learning_rate=1e-4).returncode == 0
    keys["train__duration"] = "12 steps"
    blown = tmp_path / "blown"
    refused(
        train(
            blown, **keys, optim__learning_rate=1e25, init__resume=tmp_path / "good",
            train__checkpoint_every="1 steps",
        ),
        "parameter_norm of step 7 is not finite; the last good checkpoint is kept: go on from it",
    )  # fmt: skip
    assert not runs.is_begun(blown)
    # What was refused has left nothing that stands in the way.
    done = train(blown, **keys, optim__learning_rate=1e-4, init__resume=tmp_path / "good")
    assert done.returncode == 0, done.stderr
    assert [x["step"] for x in history(blown) if "train/loss" in x] == [7, 8, 9, 10, 11, 12]


# --- a workdir that does not serve ---


def test_a_workdir_of_another_config_is_left_as_it_is(train: Train, trained: Path) -> None:
    before = files(trained)
    refused(
        train(trained, optim__learning_rate=0.5, data__batch_size=4),
        f"{trained} holds a run of another config",
        "data.batch_size 8 -> 4, optim.learning_rate 0.001 -> 0.5",
        "use another --workdir",
    )
    assert files(trained) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_put_aside_aloud_and_the_one_before_goes_on(
    train: Train, trained: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = workdir / runs.CHECKPOINTS / str(STEPS)
    for file in (newest / "rest").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert f"warning: {newest}: the checkpoint is damaged" in done.stderr
    assert f"moved to {workdir / 'damaged_checkpoints'}" in done.stderr
    assert "warning: going on from step 18" in done.stderr
    assert history(workdir) == history(trained)
    assert [path.name for path in (workdir / "damaged_checkpoints").iterdir()] == [f"{STEPS}.0"]


def test_methods_that_are_not_trained_on_do_not_judge(train: Train, tmp_path: Path) -> None:
    """The validation split has Face2Face alone."""
    done = train(tmp_path / "run", data__methods="Deepfakes")
    refused(done, "data.validation: ", "has no fakes of Deepfakes (data.methods)")
    assert not files(tmp_path / "run")


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_scores(
    trained: Path, packed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = tiny.command(
        "launch.evaluate", f"--workdir={trained}", f"--data=set={packed}", "--split=train",
        f"--out={tmp_path}", "--bootstrap=0", "--matrix", env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,) = from_csv((tmp_path / "scores.csv").read_text(), "scores.csv").values()
    assert jax.device_count() == 8
    run = runs.load_run(trained)
    eight = run.score(packed, "train")
    assert len(one) == len(eight) == 24
    assert one.id.tolist() == eight.id.tolist()
    np.testing.assert_allclose(one.logits(), eight.logits(), atol=1e-5)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["matrix"][0]["trained_on"] == ["Deepfakes", "FaceSwap"]
    error = report["sets"]["set"]
    for name, value in metrics.measure(eight, run.calibration, resamples=0).values.items():
        assert error[name] == pytest.approx(value, abs=1e-6), name
    swaps = run.scorer.score(run.parameters, packed, "train", methods=("FaceSwap",))
    assert set(swaps.method.tolist()) == {"real", "FaceSwap"}


def test_a_broken_config_is_named(train: Train, trained: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    (workdir / runs.CONFIG).write_text("{")
    refused(train(workdir), f"{workdir / runs.CONFIG} is not JSON", "another workdir")


def test_a_resume_from_nowhere_is_reported(train: Train, tmp_path: Path) -> None:
    refused(
        train(tmp_path / "run", init__resume=tmp_path / "gone"),
        f"init.resume: {tmp_path / 'gone'} is not a trained workdir",
    )
    assert not files(tmp_path / "run")
