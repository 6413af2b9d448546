"""The training loop: step, log one step late, validate, save, and only then take the next batch.

A run that is asked to stop does so after a step, or between two batches of a validation, and saves first. An
interrupted validation runs again before the next step, so that a stopped run ends like any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.model import Parameters
from jax_vlffd.training.checkpoints import BEST_METRIC, Checkpoints
from jax_vlffd.training.heartbeat import Heartbeat
from jax_vlffd.training.metric_writer import MetricWriter
from jax_vlffd.training.preemption import Preempted
from jax_vlffd.training.processes import SingleProcess
from jax_vlffd.training.sharding import to_devices
from jax_vlffd.training.state import TrainPlan, TrainState
from jax_vlffd.training.step import batch_fields, make_train_step, truncate_texts

#: Metrics of a step that end the run when they are not finite.
WATCHED = ("loss", "gradient_norm", "parameter_norm")


class DataIterator(Protocol):
    """Batches of NumPy arrays, with a position that can be restored."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """The next batch of this process's share."""

    def get_state(self) -> dict[str, Any]:
        """A JSON-able position."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a position."""


Validate = Callable[[Parameters], Mapping[str, float]]


@dataclass(frozen=True)
class LoopConfig:
    """The loop's schedule, in steps; 0 means only at the end.

    steps: the last step. batch_size: global. evaluate_every, checkpoint_every: a save follows every
    validation. log_every: steps between logged lines. utilization_per_image: tokens of a text
    -> the share of the devices' peak FLOP/s that one image per second takes, by the model's FLOPs; 0 where the
    peak is unknown. profile: first and last step of a trace; (0, 0) takes none.
    """

    steps: int
    batch_size: int
    evaluate_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 1
    utilization_per_image: Callable[[int], float] = lambda text_length: 0.0
    profile: tuple[int, int] = (0, 0)


@dataclass
class Clock:
    """A run's training time and best validation; saved with every checkpoint.

    seconds: of training. best, best_step: the highest validation AUC and its step. due: the validation of the
    saved step was interrupted, and runs when the run resumes.
    """

    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    due: bool = False


def train(
    plan: TrainPlan,
    state: TrainState,
    data: DataIterator,
    validate: Validate,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    config: LoopConfig,
    clock: Clock,
    peers: SingleProcess | None = None,
    heartbeat: Heartbeat | None = None,
) -> TrainState:
    """Trains from `state.step` to `config.steps`.

    Args:
      plan: the run's static side.
      state: fresh or restored; donated.
      data: positioned at the batch after `state.step`.
      validate: parameters -> metrics of the validation split, among them 'auc'; may raise Preempted.
      checkpoints: the run's.
      writer: of the metrics.
      config: the schedule.
      clock: updated in place.
      peers: the other processes, and whether to stop.
      heartbeat: updated before each phase.

    Returns:
      The last state.

    Raises:
      Preempted: the run was asked to stop, and was saved.
      UserError: a loss, a gradient or a parameter is not finite; the last good checkpoint is kept.
    """
    peers = peers or SingleProcess()
    heartbeat = heartbeat or Heartbeat(None, total=config.steps, stall=0)
    step_fn = make_train_step(plan)
    fields = batch_fields(plan.spec.loss)
    step = int(state.step)
    pending: tuple[int, Mapping[str, jax.Array], int] | None = None
    meter = _Meter(config.batch_size, config.utilization_per_image)
    trace = _Trace(config.profile, writer)
    validated: Mapping[str, float] | None = None

    def save(evaluate: bool, stopping: bool) -> bool:
        """Validates if `evaluate`, and saves; returns whether to stop."""
        nonlocal validated
        metrics = None
        if evaluate and not stopping:
            heartbeat.beat("validating", step)
            try:
                validated = metrics = validate(state.parameters)
            except Preempted:
                stopping = True
            else:
                _update_best(clock, metrics, step)
                writer.write(step, {f"validation/{k}": v for k, v in metrics.items()})
                writer.show(step, _summary(metrics), force=True)
        clock.due = evaluate and metrics is None
        heartbeat.beat("saving", step)
        began = time.perf_counter()
        position = {"data": data.get_state(), "clock": vars(clock)}
        writer.sync()  # the metrics of a saved step are on disk before its checkpoint
        checkpoints.save(state, position, metrics)
        meter.save_seconds = time.perf_counter() - began
        return stopping

    stopping = peers.should_stop()
    if clock.due and not stopping:
        stopping = save(True, False)
    meter.restart()
    while step < config.steps and not stopping:
        heartbeat.beat("waiting for data", step)
        with meter.waiting():
            batch = next(data)
        heartbeat.beat("training", step)
        batch, length = truncate_texts({f: batch[f] for f in fields}, plan.spec, peers)
        trace.before(step + 1)
        state, metrics = step_fn(state, to_devices(batch, plan.mesh))
        step += 1
        # The device runs this step while the host reads the metrics of the previous one.
        if pending is not None:
            _log(pending, writer, config, meter, validated)
        pending = (step, metrics, length)
        trace.after(step, metrics)

        checkpoints.check()
        last = step == config.steps
        evaluate = last or _due(step, config.evaluate_every)
        stopping = peers.should_stop() | checkpoints.reached_preemption(step)
        if evaluate or stopping or _due(step, config.checkpoint_every):
            _log(pending, writer, config, meter, validated)
            pending = None
            clock.seconds += meter.lap()
            stopping = save(evaluate, stopping)
            meter.restart()
    trace.stop()
    checkpoints.wait()
    if stopping:
        raise Preempted(f"stopped at step {step} of {config.steps}")
    return state


def evaluate(
    eval_step: Callable[..., dict[str, jax.Array]],
    parameters: Parameters,
    batches: Iterator[Mapping[str, np.ndarray]],
    plan: TrainPlan,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Scores every record once; every process returns the same.

    Args:
      eval_step: of `make_eval_step`.
      parameters: in the plan's shardings.
      batches: of this process, the same number on each; padding has `valid` False.
      plan: the run's static side.
      tick: called before each batch, on every process equally often; may raise.

    Returns:
      `logits` fp32 [n, 2], `label` and `index` int32 [n] of the valid records, ordered by index.
    """
    parts: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] | None = None
    for batch in batches:
        tick()
        fields = {
            "image": batch["image"],
            "label": batch["label"],
            "index": batch["index"].astype(np.int32),
            "valid": batch["valid"],
        }
        current = eval_step(parameters, to_devices(fields, plan.mesh))
        if pending is not None:
            parts.append(jax.device_get(pending))
        pending = current
    if pending is not None:
        parts.append(jax.device_get(pending))
    if not parts:
        raise UserError("there is nothing to evaluate: the split is empty")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    valid = joined.pop("valid")
    order = np.argsort(joined["index"][valid], kind="stable")
    return {name: value[valid][order] for name, value in joined.items()}


class _Meter:
    """Images per second, the share of time spent waiting for data, and `mfu`, since the last restart.

    `mfu` counts the model's own FLOPs, without recomputation. `save_seconds` is how long the newest save
    blocked the loop; the rest of a save runs in the background.
    """

    def __init__(self, batch_size: int, utilization_per_image: Callable[[int], float]):
        self._batch_size, self._utilization_per_image = batch_size, utilization_per_image
        self.save_seconds = 0.0
        self.restart()

    def restart(self) -> None:
        self._start = time.perf_counter()
        self._waited, self._steps, self._work = 0.0, 0, 0.0

    def lap(self) -> float:
        return time.perf_counter() - self._start

    def waiting(self) -> _Meter:
        return self

    def __enter__(self) -> None:
        self._wait_start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._wait_start

    def count(self, text_length: int) -> None:
        self._steps += 1
        self._work += self._batch_size * self._utilization_per_image(text_length)

    def rates(self) -> dict[str, float]:
        passed = max(self.lap(), 1e-9)
        speed = self._steps * self._batch_size / passed
        use = {"mfu": self._work / passed} if self._work else {}
        waits = {"data_wait": self._waited / passed, "save_seconds": self.save_seconds}
        return {"images_per_second": speed, **waits, **use}


class _Trace:
    """Traces a range of steps by JAX's profiler."""

    def __init__(self, span: tuple[int, int], writer: MetricWriter):
        self._span, self._writer, self._tracing = span, writer, False

    def before(self, step: int) -> None:
        if self._span[0] <= step <= self._span[1] and not self._tracing:
            jax.profiler.start_trace(str(self._writer.workdir / "profile"))
            self._tracing = True

    def after(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        if self._tracing and step >= self._span[1]:
            jax.block_until_ready(metrics)  # else the trace would end before the step
            self.stop()
            self._writer.show(step, "wrote the trace to profile/", force=True)

    def stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _log(
    pending: tuple[int, Mapping[str, jax.Array], int],
    writer: MetricWriter,
    config: LoopConfig,
    meter: _Meter,
    validated: Mapping[str, float] | None,
) -> None:
    step, metrics, length = pending
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    meter.count(
        length
    )  # done, not only begun: else the first line after a save counts one too many
    wrong = [name for name in WATCHED if not math.isfinite(values[name])]
    if wrong:
        raise UserError(
            f"{' and '.join(wrong)} of step {step} is not finite; the last good checkpoint is kept: go on "
            "from it in another workdir by init.resume, with a lower optim.learning_rate or with optim.clip"
        )
    rates = meter.rates()
    if _due(step, config.log_every) or step == config.steps:
        writer.write(step, {f"train/{k}": v for k, v in (values | rates).items()})
    auc = "" if validated is None else f"  {_summary(validated)}"
    writer.show(
        step,
        f"loss {values['loss']:.3f}{auc}  {rates['images_per_second']:.0f} images/s  "
        f"waiting {rates['data_wait']:.0%}",
    )


def _summary(validated: Mapping[str, float]) -> str:
    return f"validation AUC {validated[BEST_METRIC]:.4f}" if BEST_METRIC in validated else ""


def _update_best(clock: Clock, validated: Mapping[str, float], step: int) -> None:
    auc = validated.get(BEST_METRIC)
    if auc is not None and (clock.best is None or auc > clock.best):
        clock.best, clock.best_step = auc, step
