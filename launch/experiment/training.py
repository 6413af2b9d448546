"""Trains a run from its first step to its summary, in one process or several.

For the files of a workdir see the command `launch.train`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli.progress import note

if TYPE_CHECKING:
    from data_pipeline.loading.settings import DataSettings
    from jax_vlffd.config import RunConfig
    from jax_vlffd.evaluation.scores import Scores
    from jax_vlffd.explanation import Explainer
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.loop import Clock
    from jax_vlffd.training.processes import SingleProcess
    from jax_vlffd.training.state import TrainPlan
    from launch.experiment.scorer import Scorer


@dataclass(frozen=True)
class Monitoring:
    """Monitoring of a run, which its config does not contain.

    profile: first and last step of a trace; (0, 0) for none. stall: seconds without progress until a warning;
    0 for no warning.
    """

    profile: tuple[int, int] = (0, 0)
    stall: float = 0.0


def train(
    run: RunConfig,
    data: DataSettings,
    workdir: Path,
    values: dict,
    peers: SingleProcess | None = None,
    monitoring: Monitoring | None = None,
) -> None:
    """Trains or continues a run.

    Args:
      run: the settings.
      data: the settings of the data.
      workdir: of the run.
      values: the config that both were made from; it is saved.
      peers: the processes of the run; all of them train.
      monitoring: of the run.

    Raises:
      Preempted: by a signal; the run is saved.
      UserError: the data, the checkpoint or the workdir is not valid for this run; nothing is lost.
    """
    from jax_vlffd.errors import UserError

    if not data.train:
        raise UserError("no training set: give a packed set by --config.data.train=DIR")
    if not data.validation:
        raise UserError(
            "no validation set: give a packed set by --config.data.validation=DIR; its split "
            "'validation' chooses the best checkpoint and calibrates the detector"
        )
    from data_pipeline.loading.loader import TrainLoader
    from jax_vlffd.config import in_steps
    from jax_vlffd.path_containment import check_contained
    from jax_vlffd.training import loop as trainer
    from jax_vlffd.training import sharding
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.heartbeat import Heartbeat, lock
    from jax_vlffd.training.metric_writer import MetricWriter
    from jax_vlffd.training.preemption import Preempted
    from jax_vlffd.training.processes import SingleProcess
    from launch.experiment import (
        agreement,
        explanations,
        initialization,
        remote_workdir,
        training_data,
    )
    from launch.experiment import config as configs
    from launch.experiment import plan as plans
    from launch.experiment import workdir as runs
    from launch.experiment.scorer import Scorer

    peers, monitoring = peers or SingleProcess(), monitoring or Monitoring()
    started = time.time()
    for folder in (workdir, *([Path(run.init.resume)] if run.init.resume else [])):
        if folder.is_dir():
            check_contained(folder)
    if continued := str(workdir) if runs.is_begun(workdir) else run.init.resume:
        run, values = configs.with_saved_resize(run, values, Path(continued))
    main_process, storage = peers.index == 0, remote_workdir.origin(workdir)
    for shared in (storage, storage / runs.CHECKPOINTS):  # may be on another disk
        agreement.check_workdir(peers, shared)
    training_sets = training_data.describe(data)
    source = run.init.clip or run.init.vit
    if runs.is_begun(workdir):
        configs.check_same(workdir, values)
        saved_sets = training_data.check_same(workdir, training_sets)
        training_sets["initial_weights"] = (saved_sets or {}).get("initial_weights")
        training_data.check_same_weights(workdir, source, training_sets["initial_weights"])
    elif source and not run.init.resume:
        training_sets["initial_weights"] = training_data.initial_weights(source)
        run = initialization.with_commit(run, training_sets["initial_weights"]["revision"])
    agreement.check_read(peers, training_data.digests(training_sets))
    judged = validation_methods(data.validation, data.methods)  # checked now, not after an epoch
    tokenizer = initialization.tokenizer_of(run, data, workdir, peers)
    agreement.check_read(peers, {"the tokenizer": tokenizer.digest()})
    run = plans.with_tokenizer(run, tokenizer)
    for line in initialization.count_cut_captions(run, data, tokenizer, new=not continued):
        if main_process:
            note(f"note: {line}; their ends are cut")
    clip = run.model.clip
    index, count = sharding.data_share(sharding.make_mesh(run.mesh))
    loader = TrainLoader(
        data, image_size=clip.vision.image_size, tokenizer=tokenizer,
        text_length=clip.text.context_length, process_index=index, process_count=count,
        mask_grid=plans.mask_grid(run), resize=run.model.resize,
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
    plan = plans.make_plan(run, data, steps=total, warmup_steps=steps(run.optim.warmup, total))
    loop = trainer.LoopConfig(
        steps=total, batch_size=data.batch_size,
        evaluate_every=steps(run.train.evaluate_every, total),
        checkpoint_every=steps(run.train.checkpoint_every, total),
        log_every=run.train.log_every, profile=monitoring.profile,
        utilization_per_image=plans.utilization_per_image(run, data),
    )  # fmt: skip
    scorer = Scorer(plan, data, tokenizer)
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(lock(storage))
            if runs.is_begun(workdir):  # by a run that ended just now
                configs.check_same(workdir, values)
        peers.exchange("locked")
        iterator = stack.enter_context(contextlib.closing(iter(loader)))
        checkpoints = stack.enter_context(
            Checkpoints(storage / runs.CHECKPOINTS, keep=run.train.keep, peers=peers)
        )
        state, clock = initialization.first_state(run, plan, checkpoints, iterator)
        agreement.check_state(peers, state)
        if checkpoints.latest is None and int(state.step) >= total:
            raise UserError(
                f"init.resume: that run is at step {int(state.step)} already, and train.duration is "
                f"{total} steps; give a longer one"
            )
        if main_process:
            tokenizer.save(workdir / runs.TOKENIZER)
            runs.save_config(workdir, values, training_sets.get("initial_weights"))
            training_data.save(workdir, training_sets)
            stack.callback(remote_workdir.publish, workdir)
        heartbeat = stack.enter_context(
            Heartbeat(storage if main_process else None, total=total, stall=monitoring.stall)
        )

        def tick() -> None:
            heartbeat.beat("validating")
            checkpoints.check()
            if peers.should_stop():
                raise Preempted(f"stopped in the last validation, after step {total} of {total}")

        def validate(parameters: Parameters) -> tuple[dict[str, float], Scores]:
            return _validate(scorer, parameters, judged, tick)

        global_iterator = initialization.GlobalIterator(iterator, peers)
        with MetricWriter(
            workdir, start=int(state.step), total=total, due=clock.due, enabled=main_process,
            tensorboard=run.train.tensorboard, publish=lambda: remote_workdir.publish(workdir),
        ) as writer:  # fmt: skip
            state = trainer.train(
                plan, state, global_iterator, lambda parameters: validate(parameters)[0],
                checkpoints, writer, loop, clock, peers, heartbeat,
            )  # fmt: skip
        iterator.close()  # stops workers that read ahead
        parameters, best = _best(plan, checkpoints)
        metrics, scored = validate(parameters)
        skipped = global_iterator.get_state()["bad"]
        sentences = explanations.embed_bank(plan, parameters, tokenizer)  # on every process
        if main_process:
            seconds = time.time() - started
            explainer = explanations.fit(sentences, scored)
            _finish(workdir, plan, clock, best, metrics, scored, explainer, skipped, seconds)


def validation_methods(
    folders: Sequence[str], trained: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Validation set -> the methods that validation uses: those that are trained on, all if empty.

    An untrained method must not influence the choice of the checkpoint or the calibration, or results on unseen
    methods would be invalid.

    Raises:
      UserError: a set has no fakes of those methods, or cannot be read.
    """
    from data_pipeline.packed.reader import PackedSplit
    from jax_vlffd.errors import UserError

    methods = {}
    for folder in folders:
        split = PackedSplit(folder, "validation")
        available = {split.methods[number] for number in set(split.index["method"].tolist())}
        methods[folder] = tuple(name for name in trained if name in available)
        if trained and not methods[folder]:
            raise UserError(
                f"data.validation: {folder} has no fakes of {', '.join(trained)} (data.methods) "
                "in split 'validation'; name another set"
            )
    return methods


def _validate(
    scorer: Scorer,
    parameters: Parameters,
    sets: Mapping[str, Sequence[str]],
    tick: Callable[[], None],
) -> tuple[dict[str, float], Scores]:
    """Scores the validation sets; returns metrics over all of them, and the scores.

    Args:
      scorer: of the run.
      parameters: in the plan's shardings.
      sets: packed set -> the methods whose fakes count, all when empty.
      tick: called before each batch; may raise.
    """
    import numpy as np

    from jax_vlffd.evaluation import metrics
    from jax_vlffd.evaluation.scores import concatenate

    scores = concatenate(
        [
            scorer.score(parameters, folder, "validation", methods=methods, tick=tick)
            for folder, methods in sets.items()
        ]
    )
    logits = scores.logits()
    # log(1 + e^-z) for a fake, log(1 + e^z) for a real
    loss = float(np.logaddexp(0.0, np.where(scores.label == 1, -logits, logits)).mean())
    measured = metrics.measure(scores, resamples=0).values
    named = {"auc": "frame_auc", "video_auc": "video_auc", "eer": "eer", "accuracy": "acc"}
    values = {name: measured[key] for name, key in named.items()}
    known = {name: float(value) for name, value in values.items() if value is not None}
    return {"loss": loss, **known}, scores


def _best(plan: TrainPlan, checkpoints: Checkpoints) -> tuple[Parameters, int]:
    best = checkpoints.best
    assert best is not None  # the last step has just been saved
    return checkpoints.restore_parameters(plan.abstract.parameters, best), best


def _finish(
    workdir: Path,
    plan: TrainPlan,
    clock: Clock,
    best: int,
    metrics: dict[str, float],
    scored: Scores,
    explainer: Explainer | None,
    skipped: int,
    seconds: float,
) -> None:
    """Calibrates the best checkpoint on the validation scores; writes calibration, bank and summary."""
    import jax

    from jax_vlffd.evaluation import calibration
    from jax_vlffd.file_writing import atomic_write_bytes, atomic_write_text
    from launch.experiment import config as configs
    from launch.experiment import remote_workdir
    from launch.experiment import workdir as runs

    if "auc" in metrics:  # a calibration needs both classes
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
    print(f"best checkpoint: step {best}, validation AUC {auc}; {remote_workdir.origin(workdir)}")
