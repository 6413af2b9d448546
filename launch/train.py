"""Trains a detector: python -m launch.train --config=configs/X.py --workdir=DIR [--config.key=value].

The same command continues a run that was stopped. In WORKDIR: config.json, checkpoints/, metrics.jsonl,
TensorBoard events, tokenizer/, and at the end calibration.json, summary.json and, with the alignment branch,
explanation.safetensors: the sentences that reasons are made of.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from launch import cli

if TYPE_CHECKING:
    from data_pipeline.loader import TrainIterator
    from data_pipeline.settings import DataSettings
    from data_pipeline.tokenizer import Tokenizer
    from jax_vlffd.config import RunConfig
    from jax_vlffd.evaluation.scores import Scores
    from jax_vlffd.explain import Explainer
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.checkpoint import Checkpoints
    from jax_vlffd.training.state import Plan, TrainState
    from jax_vlffd.training.trainer import Clock
    from launch.runs import Scorer

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, as configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made when missing.")
flags.mark_flags_as_required(["config", "workdir"])

#: Records whose captions a tokenizer is trained on, when the run has none.
_TOKENIZER_RECORDS = 20_000


def main(argv: Sequence[str]) -> None:
    """Trains or continues the run that the flags name."""
    from jax_vlffd.errors import UserError
    from launch import config as configs

    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; config keys are given as --config.key=value")
    run, data = configs.settings(_CONFIG.value)
    workdir = Path(_WORKDIR.value or "")  # required by its flag
    values = json.loads(_CONFIG.value.to_json())
    train(run, data, workdir, values)


def train(run: RunConfig, data: DataSettings, workdir: Path, values: dict) -> None:
    """Trains or continues a run.

    Args:
      run: the settings.
      data: the settings of the data.
      workdir: of the run.
      values: the config that both were made from, to be saved.

    Raises:
      UserError: the data, the checkpoint or the workdir does not fit; nothing is lost.
    """
    from jax_vlffd.errors import UserError

    if not data.train:
        raise UserError("no training set: give a packed set by --config.data.train=DIR")
    if not data.validation:
        raise UserError(
            "no validation set: give a packed set by --config.data.validation=DIR; its split "
            "'validation' chooses the best checkpoint and calibrates the detector"
        )
    import jax

    from data_pipeline.loader import TrainLoader
    from jax_vlffd.config import in_steps
    from jax_vlffd.training import trainer
    from jax_vlffd.training.checkpoint import Checkpoints
    from jax_vlffd.training.telemetry import Telemetry
    from launch import config as configs
    from launch import reasons, runs

    cli.use_compilation_cache()
    started = time.time()
    if runs.is_begun(workdir):
        configs.check_same(workdir, values)
    judged = _judged(data)  # what is wrong with a set is told now, not after an epoch
    tokenizer = _tokenizer(run, data, workdir)
    run = runs.with_tokenizer(run, tokenizer)
    clip = run.model.clip
    loader = TrainLoader(
        data, image_size=clip.vision.image_size, tokenizer=tokenizer,
        text_length=clip.text.context_length,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip

    def steps(duration: str, total: int | None = None) -> int:
        return in_steps(
            duration,
            batch_size=data.batch_size,
            examples_per_epoch=loader.records_per_epoch,
            total=total,
        )

    total = steps(run.train.duration)
    if total < 1:
        raise UserError("train.duration is 0: give '300 steps', '2 epochs' or '1e6 examples'")
    plan = runs.make_plan(run, data, steps=total, warmup_steps=steps(run.optim.warmup, total))
    loop = trainer.LoopConfig(
        steps=total, batch_size=data.batch_size,
        evaluate_every=steps(run.train.evaluate_every, total),
        checkpoint_every=steps(run.train.checkpoint_every, total),
        log_every=run.train.log_every,
    )  # fmt: skip
    main_process = jax.process_index() == 0
    scorer = runs.Scorer(plan, data, tokenizer)
    with (
        contextlib.closing(iter(loader)) as iterator,
        Checkpoints(workdir / runs.CHECKPOINTS, keep=run.train.keep) as checkpoints,
    ):
        state, clock = first_state(run, plan, checkpoints, iterator)
        if checkpoints.latest is None and int(state.step) >= total:
            raise UserError(
                f"init.resume: that run is at step {int(state.step)} already, and train.duration is "
                f"{total} steps; give a longer one"
            )
        if main_process:
            tokenizer.save(workdir / runs.TOKENIZER)
            runs.save_config(workdir, values)
        with Telemetry(
            workdir, start=int(state.step), total=total, enabled=main_process,
            tensorboard=run.train.tensorboard,
        ) as telemetry:  # fmt: skip
            state = trainer.train(
                plan, state, iterator,
                lambda parameters: _validate(scorer, parameters, judged)[0],
                checkpoints, telemetry, loop, clock,
            )  # fmt: skip
        iterator.close()  # its workers read ahead, and nothing more is trained
        parameters, best = _best(plan, checkpoints)
        metrics, scored = _validate(scorer, parameters, judged)
        sentences = reasons.embed_bank(plan, parameters, tokenizer)  # on every process
        if main_process:
            seconds = time.time() - started
            explainer = reasons.fit(sentences, scored)
            _finish(workdir, plan, clock, best, metrics, scored, explainer, iterator.bad, seconds)


def first_state(
    run: RunConfig, plan: Plan, checkpoints: Checkpoints, iterator: TrainIterator
) -> tuple[TrainState, Clock]:
    """Where a run starts: own run > resume > pretrained > random, decided here alone.

    Args:
      run: the settings.
      plan: its static side.
      checkpoints: of its own workdir.
      iterator: brought to the position that belongs to the state.

    Raises:
      UserError: a checkpoint is missing, damaged, or of another model or other data.
    """
    from jax_vlffd.clip import weights
    from jax_vlffd.errors import UserError
    from jax_vlffd.training.checkpoint import Checkpoints
    from jax_vlffd.training.state import initial_state, load_pretrained
    from jax_vlffd.training.trainer import Clock
    from launch import runs

    if checkpoints.latest is not None:
        state, position = checkpoints.restore(plan.abstract, checkpoints.latest)
        iterator.set_state(position["data"])
        return state, Clock(**position["clock"])
    if run.init.resume:
        folder = Path(run.init.resume) / runs.CHECKPOINTS
        if not folder.is_dir():
            raise UserError(f"init.resume: {run.init.resume} is no trained workdir")
        with Checkpoints(folder, read_only=True) as others:
            if others.latest is None:
                raise UserError(f"init.resume: {run.init.resume} has no checkpoint yet")
            state, position = others.restore(plan.abstract, others.latest)
        iterator.set_state(position["data"])
        return state, Clock(**position["clock"])
    source = run.init.clip or run.init.vit
    if not source:
        return initial_state(plan, run.seed), Clock()
    checkpoint = weights.open_checkpoint(source)
    if (checkpoint.clip is None) != bool(run.init.vit):
        kind, key = ("plain ViT", "init.vit") if checkpoint.clip is None else ("CLIP", "init.clip")
        raise UserError(f"{source} is a {kind}; give it as {key}")
    return initial_state(plan, run.seed, load_pretrained(plan, checkpoint)), Clock()


def _tokenizer(run: RunConfig, data: DataSettings, workdir: Path) -> Tokenizer:
    """The run's own; else that of the run it resumes; else the config's; else the checkpoint's; else one
    trained on the captions.

    Nothing is written: a start that fails must not decide the words of the next one.
    """
    from data_pipeline.records import PackedSplit
    from data_pipeline.tokenizer import LEAST_VOCABULARY, Tokenizer, train_tokenizer
    from jax_vlffd.errors import UserError
    from launch import runs

    for folder in (workdir, *([Path(run.init.resume)] if run.init.resume else [])):
        if runs.is_begun(folder):
            return Tokenizer.load(folder / runs.TOKENIZER)
    if data.tokenizer or run.init.clip:
        return Tokenizer.load(data.tokenizer or run.init.clip)

    def captions() -> Iterator[str]:
        for folder, _ in data.train:
            split = PackedSplit(folder, "train")
            for row in range(min(len(split), _TOKENIZER_RECORDS)):
                yield from split[row].captions

    size = run.model.clip.text.vocab_size
    if size < LEAST_VOCABULARY:
        raise UserError(
            f"model.text.vocab_size is {size}, and a tokenizer of its own wants {LEAST_VOCABULARY} at "
            "least; raise it, or name a tokenizer by data.tokenizer"
        )
    with tempfile.TemporaryDirectory() as aside:
        return train_tokenizer(captions(), size, aside)


def _judged(data: DataSettings) -> dict[str, tuple[str, ...]]:
    """The validation sets, and of each the methods that a run is judged by: those it trains on.

    A method that was never trained on must not choose the checkpoint either, or a table of unseen
    methods would be untrue.
    """
    from data_pipeline.records import PackedSplit
    from jax_vlffd.errors import UserError

    judged = {}
    for folder in data.validation:
        split = PackedSplit(folder, "validation")
        there = {split.methods[number] for number in set(split.index["method"].tolist())}
        judged[folder] = tuple(name for name in data.methods if name in there)
        if data.methods and not judged[folder]:
            raise UserError(
                f"data.validation: {folder} has no fakes of {', '.join(data.methods)} (data.methods) "
                "in split 'validation'; name another set"
            )
    return judged


def _validate(
    scorer: Scorer, parameters: Parameters, sets: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], Scores]:
    """Metrics of the validation split over all its sets, and the scores behind them.

    Args:
      scorer: of the run.
      parameters: in the plan's shardings.
      sets: packed set -> the methods whose fakes count, all when empty.
    """
    import numpy as np

    from jax_vlffd.evaluation import metrics
    from jax_vlffd.evaluation.scores import concatenate

    scores = concatenate(
        [
            scorer.score(parameters, folder, "validation", methods=methods)
            for folder, methods in sets.items()
        ]
    )
    logits = scores.logits()
    # log(1 + e^-z) for a fake, log(1 + e^z) for a real
    loss = float(np.logaddexp(0.0, np.where(scores.label == 1, -logits, logits)).mean())
    found = metrics.measure(scores, resamples=0).values
    named = {"auc": "frame_auc", "video_auc": "video_auc", "eer": "eer", "accuracy": "acc"}
    values = {ours: found[theirs] for ours, theirs in named.items()}
    known = {name: float(value) for name, value in values.items() if value is not None}
    return {"loss": loss, **known}, scores


def _best(plan: Plan, checkpoints: Checkpoints) -> tuple[Parameters, int]:
    best = checkpoints.best
    assert best is not None  # the last step has just been saved
    return checkpoints.restore_parameters(plan.abstract.parameters, best), best


def _finish(
    workdir: Path,
    plan: Plan,
    clock: Clock,
    best: int,
    metrics: dict[str, float],
    scored: Scores,
    explainer: Explainer | None,
    skipped: int,
    seconds: float,
) -> None:
    """Calibrates the best checkpoint on the validation split; writes that, the bank and the summary."""
    import jax

    from data_pipeline.files import atomic_write_bytes, atomic_write_text
    from jax_vlffd.evaluation import calibration
    from launch import config as configs
    from launch import runs

    if "auc" in metrics:  # with one class only there is nothing to calibrate
        fitted = calibration.fit(scored.logits(), scored.label)
        atomic_write_text(workdir / runs.CALIBRATION, fitted.to_json())
    if explainer is not None:
        atomic_write_bytes(workdir / runs.EXPLANATION, explainer.to_bytes())
    summary = {
        "best_step": best,
        "validation": metrics,
        "images_skipped": skipped,
        "training_seconds": round(clock.seconds, 1),
        "seconds_since_start": round(seconds, 1),
        "parameters": sum(shape.size for shape in plan.shapes.values()),
        "trainable": sum(plan.shapes[path].size for path in plan.trainable),
        "devices": len(jax.devices()),
        "platform": jax.devices()[0].device_kind,
        "versions": configs.versions(),
    }
    atomic_write_text(workdir / runs.SUMMARY, json.dumps(summary, indent=2) + "\n")
    auc = f"{metrics['auc']:.4f}" if "auc" in metrics else "undefined (one class only)"
    print(f"best checkpoint: step {best}, validation AUC {auc}; {workdir}")


if __name__ == "__main__":
    cli.run(main)
