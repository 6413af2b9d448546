"""Runs of training in this process, held against one whole run: resume to the bit, where a run starts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.clip.huggingface import save_hf, to_hf
from jax_vlffd.config import InitConfig, LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training import loop
from jax_vlffd.training import step as steps
from jax_vlffd.training.checkpoints import Checkpoints
from jax_vlffd.training.metric_writer import read_history
from jax_vlffd.training.state import TrainPlan, TrainState, initial_state
from launch.experiment import config as configs
from launch.experiment import initialization
from launch.experiment import plan as plans
from launch.experiment import workdir as runs
from tests.jax_vlffd.training.test_checkpoint import assert_same
from tests.support import tiny
from tests.support.training_runs import RATES, Whole, contents, history, killed, run

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the compiled steps, which are the same in every run of this module."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def whole(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    workdir = tmp_path_factory.mktemp("whole")
    functions: dict[str, Any] = {}
    plans = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((loop, "make_train_step"), (steps, "make_eval_step")):
            make = getattr(module, name)

            def record(plan: TrainPlan, make: Callable = make, name: str = name) -> Any:
                plans.append(plan)
                functions[name] = make(plan)
                return functions[name]

            patch.setattr(module, name, record)
        run(workdir, packed)
    return Whole(workdir, plans[0], functions)


# --- a run that nothing disturbs ---


def test_a_run_compiles_each_step_once(whole: Whole) -> None:
    """With validations and saves in between, and the best checkpoint read back at the end."""
    sizes = {name: function._cache_size() for name, function in whole.functions.items()}
    assert sizes == {"make_train_step": 1, "make_eval_step": 1}


def test_every_step_is_logged_once_and_every_validation(whole: Whole) -> None:
    lines = read_history(whole.workdir)
    trained = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "validation/auc" in line] == [4, 8]
    for line in trained:
        assert {
            "train/loss_image", "train/loss_alignment", "train/loss_fusion", "train/accuracy_image",
            "train/accuracy_fusion", "train/accuracy_fusion_without_image",
            "train/auc_fusion_without_image", "train/gradient_norm", "train/parameter_norm",
            "train/learning_rate", *RATES,
        } <= line.keys()  # fmt: skip


def test_a_run_leaves_what_it_promises(whole: Whole) -> None:
    assert {path.name for path in whole.workdir.iterdir()} == {
        "calibration.json", "checkpoints", "config.json", "explanation.safetensors", "heartbeat.json",
        "metrics.jsonl", "summary.json", "tokenizer", "training_data.json",
    }  # fmt: skip
    summary = json.loads((whole.workdir / "summary.json").read_text())
    scored = {
        x["step"]: x["validation/auc"] for x in history(whole.workdir) if "validation/auc" in x
    }
    assert summary["best_step"] == max(scored, key=lambda step: (scored[step], step))
    assert summary["validation"]["auc"] == pytest.approx(max(scored.values()), rel=1e-6)
    assert summary["parameters"] == sum(value.size for value in tiny.start().values())
    assert summary["trainable"] == summary["parameters"] - 1  # logit_bias is the sigmoid loss's
    assert {"jax", "flax", "python"} <= summary["versions"].keys()
    assert configs.read_saved(whole.workdir) is not None
    Tokenizer.load(whole.workdir / "tokenizer")


def test_a_trained_run_is_read_back_and_scores_the_same(whole: Whole, packed: Path) -> None:
    result = runs.load_run(whole.workdir)
    summary = json.loads((whole.workdir / "summary.json").read_text())
    assert result.step == summary["best_step"]
    scores = result.score(packed, "validation")
    assert len(scores.label) == 8
    logits = scores.logits()
    loss = np.logaddexp(0, np.where(scores.label == 1, -logits, logits)).mean()
    assert loss == pytest.approx(summary["validation"]["loss"], rel=1e-5)
    assert result.calibration is not None


# --- resume ---


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_ends_the_same_to_the_bit(
    whole: Whole, packed: Path, tmp_path: Path
) -> None:
    # Before the first step, in two saves, a step past a save, then after the last validation.
    kills = [("read", 0), ("save", 3), ("read", 5), ("save", 6), ("save", 8)]
    for place, step in kills:
        with killed(place, step):
            run(tmp_path, packed)
    run(tmp_path, packed)
    for step in (3, 4, 6, 8):
        ours, position = contents(tmp_path, whole.plan, step)
        expected, wanted = contents(whole.workdir, whole.plan, step)
        assert_same(ours, expected)
        assert position["data"] == wanted["data"]
        assert position["clock"].keys() == wanted["clock"].keys()
    assert history(tmp_path) == history(whole.workdir)
    for name in ("calibration.json", "config.json"):
        assert (tmp_path / name).read_text() == (whole.workdir / name).read_text()


@pytest.mark.slow
def test_a_run_whose_texts_change_in_length_ends_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    cut = loop.truncate_texts

    def watched(*arguments: Any) -> tuple[dict[str, np.ndarray], int]:
        batch, length = cut(*arguments)
        assert batch["tokens"].shape[1] == length
        lengths.append(length)
        return batch, length

    monkeypatch.setattr(loop, "truncate_texts", watched)
    clip = dataclasses.replace(tiny.CLIP, text=dataclasses.replace(tiny.TEXT, context_length=24))
    model = dataclasses.replace(tiny.model(pad_to_multiple_of=1), clip=clip)
    packed = tiny.pack_set(tmp_path / "set", captions=12)  # "10" and "11" are a token longer

    loss = LossConfig(fusion=0)

    def train(name: str) -> None:
        run(tmp_path / name, packed, model=model, loss=loss)

    train("whole")
    whole = lengths.copy()
    assert len(whole) == 8
    assert len(set(whole)) > 1
    assert max(whole) < 24
    with killed("read", 5):
        train("killed")
    train("killed")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    plan = plans.make_plan(*tiny.settings(packed, model=model, loss=loss), steps=STEPS)
    ours, theirs = (contents(tmp_path / name, plan, STEPS)[0] for name in ("killed", "whole"))
    assert_same(ours, theirs)


def test_a_finished_run_is_left_as_it_is(whole: Whole, packed: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(whole.workdir, workdir)
    run(workdir, packed, log_every=5, keep=3)  # what only changes the computing may differ
    assert history(workdir) == history(whole.workdir)
    before, after = (json.loads((d / "summary.json").read_text()) for d in (whole.workdir, workdir))
    for summary in (before, after):
        summary.pop("seconds_since_start")
    assert before == after


def test_a_workdir_of_another_config_is_refused(whole: Whole, packed: Path, tmp_path: Path) -> None:
    before = (whole.workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run of another config \(seed 0 -> 1\)"):
        run(whole.workdir, packed, seed=1)
    assert (whole.workdir / "config.json").read_bytes() == before


# --- where a run starts ---


class Standing:
    """A data iterator that only remembers where it was sent."""

    position: dict[str, Any] | None = None

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = state


def first(
    whole: Whole, workdir: Path, init: InitConfig, plan: TrainPlan | None = None
) -> tuple[TrainState, Standing, loop.Clock]:
    settings, _ = tiny.settings(Path("/set"), init=init, seed=0)
    data = Standing()
    with Checkpoints(workdir / runs.CHECKPOINTS) as checkpoints:
        state, clock = initialization.first_state(settings, plan or whole.plan, checkpoints, data)  # type: ignore[arg-type]
    return state, data, clock


@pytest.fixture(scope="module")
def pretrained(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of the tiny shape, as Hugging Face writes it."""
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(5)
    values = {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in tiny.start().items()}
    save_hf(folder, values, whole.plan.spec.model.clip)
    return folder


@pytest.mark.slow
def test_without_a_source_the_parameters_are_those_of_the_seed(
    whole: Whole, tmp_path: Path
) -> None:
    state, data, _ = first(whole, tmp_path, InitConfig())
    assert int(state.step) == 0
    assert data.position is None
    assert_same(state, initial_state(whole.plan, seed=0))


@pytest.mark.slow
def test_pretrained_weights_fill_the_towers_and_the_rest_is_of_the_seed(
    whole: Whole, pretrained: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    state, data, _ = first(whole, tmp_path, InitConfig(clip=str(pretrained)))
    assert (int(state.step), data.position) == (0, None)
    result = to_hf({k: np.asarray(v) for k, v in state.parameters.items()}, tiny.CLIP)
    stored = load_file(pretrained / "model.safetensors")
    assert result.keys() == stored.keys()
    assert_same(result, stored)
    seeded = initial_state(whole.plan, seed=0).parameters
    for path in ("image_head/weight", "fusion/mlp/fc1/weight", "fusion_head/weight", "logit_bias"):
        np.testing.assert_array_equal(state.parameters[path], seeded[path])
    for leaf in jax.tree.leaves(state.optimizer):
        assert not np.asarray(leaf).any()
    assert jax.tree.map(lambda x: x.sharding, state) == whole.plan.sharding


def test_a_resumed_run_continues_the_whole_state_of_another(whole: Whole, tmp_path: Path) -> None:
    state, data, clock = first(whole, tmp_path, InitConfig(resume=str(whole.workdir)))
    expected, position = contents(whole.workdir, whole.plan, STEPS)
    assert_same(state, expected)
    assert data.position == position["data"]
    assert vars(clock) == position["clock"]
    assert data.position["step"] == STEPS


def test_its_own_checkpoint_comes_before_any_other(
    whole: Whole, pretrained: Path, tmp_path: Path
) -> None:
    own = tmp_path / runs.CHECKPOINTS
    shutil.copytree(whole.workdir / runs.CHECKPOINTS, own)
    shutil.rmtree(own / "8")
    init = InitConfig(resume=str(whole.workdir), clip=str(pretrained))
    state, data, _ = first(whole, tmp_path, init)
    assert int(state.step) == 6
    assert data.position is not None
    assert data.position["step"] == 6
    state, _, _ = first(whole, tmp_path / "new", init)
    assert int(state.step) == STEPS  # resume comes before pretrained


def test_a_run_of_another_model_is_not_resumed_though_its_shapes_fit(
    whole: Whole, tmp_path: Path
) -> None:
    settings, _ = tiny.settings(Path("/set"), init=InitConfig(resume=str(whole.workdir)))
    vision = dataclasses.replace(tiny.VISION, activation="quick_gelu", heads=4)
    clip = dataclasses.replace(settings.model.clip, vision=vision)
    other = dataclasses.replace(settings.model, clip=clip)
    settings = dataclasses.replace(settings, model=other)
    error = "is of another model .vision.heads 2 -> 4, vision.activation 'gelu' -> 'quick_gelu'"
    with Checkpoints(tmp_path / "new") as checkpoints, pytest.raises(UserError, match=error):
        initialization.first_state(settings, whole.plan, checkpoints, Standing())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("resume", "init.resume: /nowhere/run is not a trained workdir"),
        ("clip", "/nowhere/run: no such folder"),
        ("vit", "/nowhere/run: no such folder"),
    ],
)
def test_a_source_that_is_not_there_is_named(
    key: str, message: str, whole: Whole, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        first(whole, tmp_path, InitConfig(**{key: "/nowhere/run"}))


def test_a_source_of_another_kind_or_shape_is_reported(
    whole: Whole, pretrained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is a CLIP; give it as init\.clip"):
        first(whole, tmp_path, InitConfig(vit=str(pretrained)))
    with pytest.MonkeyPatch.context() as patch:
        deeper = dataclasses.replace(tiny.VISION, layers=3, activation="quick_gelu")
        patch.setattr(tiny, "CLIP", dataclasses.replace(tiny.CLIP, vision=deeper))
        other = tiny.plan()
    with pytest.raises(UserError) as caught:
        first(whole, tmp_path, InitConfig(clip=str(pretrained)), other)
    message = str(caught.value)
    assert str(pretrained) in message
    assert "vision.layers 3 != 2, vision.activation quick_gelu != gelu" in message
    (tmp_path / "begun" / runs.CHECKPOINTS).mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        first(whole, tmp_path, InitConfig(resume=str(tmp_path / "begun")))


@pytest.mark.slow
def test_resuming_another_run_goes_on_where_it_stood(
    whole: Whole, packed: Path, tmp_path: Path
) -> None:
    """With its tokenizer, from its step on; and a run that has no step left to do is refused."""
    init = InitConfig(resume=str(whole.workdir))
    with pytest.raises(UserError, match=r"is at step 8 already, and train.duration is 8 steps"):
        run(tmp_path / "short", packed, init=init)
    assert not (tmp_path / "short" / "config.json").exists()
    run(tmp_path / "long", packed, init=init, duration="10 steps", model=tiny.model(unroll=1))
    steps_done = [line["step"] for line in history(tmp_path / "long") if "train/loss" in line]
    assert steps_done == [9, 10]
    assert (tmp_path / "long/tokenizer/vocab.json").read_bytes() == (
        whole.workdir / "tokenizer/vocab.json"
    ).read_bytes()


def test_a_failed_start_decides_nothing(packed: Path, tmp_path: Path) -> None:
    """After a mistake in the config, the same workdir takes the corrected one."""
    with pytest.raises(UserError, match=r"batch of 9 does not divide .* 8 or 16 would"):
        run(tmp_path, packed, batch_size=9)
    text = dataclasses.replace(tiny.TEXT, vocab_size=300, eos_id=299)
    small = dataclasses.replace(tiny.model(), clip=dataclasses.replace(tiny.CLIP, text=text))
    with pytest.raises(UserError, match="vocab_size is 300, and a tokenizer of its own wants 514"):
        run(tmp_path, packed, model=small)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- what stops a run ---


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    whole: Whole, packed: Path, tmp_path: Path
) -> None:
    make = loop.make_train_step

    def spoilt(plan: TrainPlan) -> Callable:
        step = make(plan)

        def take(state: TrainState, batch: Any) -> Any:
            if int(state.step) == 5:
                blown = {
                    k: jax.device_put(v * np.inf, v.sharding) for k, v in state.parameters.items()
                }
                state = dataclasses.replace(state, parameters=blown)
            return step(state, batch)

        return take

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_train_step", spoilt)
        with pytest.raises(
            UserError, match=r"loss and gradient_norm and parameter_norm of step 6 is"
        ):
            run(tmp_path, packed)
    with Checkpoints(tmp_path / runs.CHECKPOINTS, read_only=True) as checkpoints:
        assert checkpoints.latest == 4
    run(tmp_path, packed)
    assert_same(
        contents(tmp_path, whole.plan, STEPS)[0], contents(whole.workdir, whole.plan, STEPS)[0]
    )
