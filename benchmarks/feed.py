"""Whether training and evaluation on loaded batches are as fast as on one fixed batch.

Steps overlap as in training: the host prepares the next batch while the device works. Between its turns the
loader fills its buffer (`data.prefetch` batches of each worker): a turn should be much longer than that.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
    from data_pipeline.loading.settings import DataSettings
    from data_pipeline.loading.tokenizer import Tokenizer
    from jax_vlffd.config import RunConfig
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.state import TrainPlan

FLAGS = flags.FLAGS
flags.DEFINE_integer("in_a_row", 10, "feed: steps of each turn.", lower_bound=1)


def measure() -> dict[str, Any]:
    """The rate with the loader over the rate with a fixed batch; the set is that of `bench data`."""
    from benchmarks import step as bench_step
    from benchmarks.data import make_sets
    from launch.experiment import config as configs

    bench_step.settings()  # checks the config
    run, data = configs.settings(FLAGS.config)
    run = dataclasses.replace(
        run, loss=dataclasses.replace(run.loss, local=0.0)
    )  # the set has no masks
    with tempfile.TemporaryDirectory() as name:
        make_sets(Path(name))
        figures = compare(run, data, Path(name), turns=FLAGS.turns, steps=FLAGS.in_a_row)
    return {"bench": "feed", "model": bench_step.describe(run), **figures}


def compare(
    run: RunConfig, data: DataSettings, folder: Path, *, turns: int, steps: int
) -> dict[str, Any]:
    """Measures both in turn; `folder` is as made by `make_sets`."""
    import jax

    from benchmarks.fixtures import tokenizer
    from data_pipeline.loading.loader import TrainLoader
    from jax_vlffd.training.processes import SingleProcess
    from jax_vlffd.training.sharding import to_devices
    from jax_vlffd.training.state import initial_state
    from jax_vlffd.training.step import batch_fields, make_train_step, truncate_texts
    from launch.experiment import plan as plans

    words = tokenizer(folder)
    run = plans.with_tokenizer(run, words)
    data = dataclasses.replace(data, train=((str(folder / "large"), 1.0),))
    clip = run.model.clip
    loader = TrainLoader(
        data, image_size=clip.vision.image_size, tokenizer=words,
        text_length=clip.text.context_length,
    )  # fmt: skip
    plan = plans.make_plan(run, data, steps=1_000_000, devices=jax.devices()[:1])
    step = make_train_step(plan)
    state = initial_state(plan, run.seed)
    real = iter(loader)
    one = {name: value.copy() for name, value in next(real).items()}

    sources: dict[str, Iterator[Any]] = {"real": real, "fixed": itertools.repeat(one)}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    waiting_shares: list[float] = []
    for turn in range(turns + 1):  # the first warms up
        for name, source in sources.items():
            start, waiting = time.perf_counter(), 0.0
            for _ in range(steps if turn else 2):
                requested = time.perf_counter()
                batch = next(source)
                waiting += time.perf_counter() - requested
                fields = {field: batch[field] for field in batch_fields(run.loss)}
                fields, _ = truncate_texts(fields, plan.spec, SingleProcess())
                state, metrics = step(state, to_devices(fields, plan.mesh))
            jax.block_until_ready(metrics)
            if turn:
                seconds[name].append((time.perf_counter() - start) / steps)
                if name == "real":
                    waiting_shares.append(waiting / steps / seconds[name][-1])
    real.close()
    evaluating = _evaluation(plan, state.parameters, words, folder, data, turns, steps)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "batch_size": data.batch_size,
        "workers": data.workers,
        "real_ms": round(1e3 * medians["real"], 2),
        "fixed_ms": round(1e3 * medians["fixed"], 2),
        "rate_over_fixed": round(medians["fixed"] / medians["real"], 4),
        "waiting_for_data": round(statistics.median(waiting_shares), 4),
        **evaluating,
    }


def _evaluation(
    plan: TrainPlan,
    parameters: Parameters,
    words: Tokenizer,
    folder: Path,
    data: DataSettings,
    turns: int,
    steps: int,
) -> dict[str, float]:
    """The same for evaluation, with the same number of workers."""
    from data_pipeline.loading.loader import EvalLoader
    from jax_vlffd.training.loop import evaluate
    from jax_vlffd.training.step import make_eval_step

    clip = plan.spec.model.clip
    loader = EvalLoader(
        folder / "large", "train", image_size=clip.vision.image_size, tokenizer=words,
        text_length=clip.text.context_length, batch_size=data.batch_size, workers=data.workers,
        prefetch=data.prefetch,
    )  # fmt: skip
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    one = next(batches)
    step = make_eval_step(plan)
    seconds: dict[str, list[float]] = {"real": [], "fixed": []}
    for turn in range(turns + 1):  # the first warms up
        for name, source in (("real", batches), ("fixed", itertools.repeat(one))):
            start = time.perf_counter()
            evaluate(step, parameters, itertools.islice(source, steps if turn else 2), plan)
            if turn:
                seconds[name].append((time.perf_counter() - start) / steps)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "evaluation_real_ms": round(1e3 * medians["real"], 2),
        "evaluation_fixed_ms": round(1e3 * medians["fixed"], 2),
        "evaluation_rate_over_fixed": round(medians["fixed"] / medians["real"], 4),
    }
