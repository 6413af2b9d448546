"""Our side of a comparison: the jitted steps that training and evaluation run."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.process import (
    Job,
    best_rate,
    draw_batch,
    draw_parameters,
    process_peak,
    reset_peak,
)
from data_pipeline.loading.settings import DataSettings
from jax_vlffd.model import bind, normalize
from jax_vlffd.training.sharding import to_devices
from jax_vlffd.training.state import TrainPlan, TrainState
from jax_vlffd.training.step import batch_fields, make_eval_step, make_train_step
from launch.experiment import plan as plans


class Ours:
    """Runs one of our steps; a `process.Side`."""

    def __init__(self, job: Job):
        self._job = job
        config = job.run.model
        data = DataSettings(batch_size=job.batch_size)
        run = dataclasses.replace(job.run, optim=dataclasses.replace(job.run.optim, warmup=""))
        self._plan = plans.make_plan(run, data, steps=1_000_000, devices=jax.devices()[:1])
        batch = draw_batch(config, job.batch_size)
        values = draw_parameters(config)
        if job.task == "train":
            self._state: Any = _state(self._plan, values)
            self._batch = {name: batch[name] for name in batch_fields(run.loss)}
            step: Any = make_train_step(self._plan)
        elif job.task == "detect":
            self._state = jax.device_put(values, self._plan.sharding.parameters)
            rows = np.arange(job.batch_size, dtype=np.int32)
            self._batch = {
                "image": batch["image"], "label": batch["label"], "index": rows,
                "valid": np.ones(job.batch_size, bool),
            }  # fmt: skip
            step = make_eval_step(self._plan)
        else:
            self._state = jax.device_put(values, self._plan.sharding.parameters)
            self._batch = {"image": batch["image"]}
            step = jax.jit(_tower_step(self._plan))
        del values
        start = time.perf_counter()
        self._step = step.lower(self._state, to_devices(self._batch, self._plan.mesh)).compile()
        self._compile_s = time.perf_counter() - start
        reset_peak()

    def describe(self) -> dict[str, Any]:
        """See `process.Side`."""
        memory = self._step.memory_analysis()
        program_bytes = None
        if memory is not None:
            program_bytes = sum(
                getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp")
            ) - getattr(memory, "alias_size_in_bytes", 0)
        return {
            "name": f"jax {jax.__version__}",
            "device": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "compile_s": round(self._compile_s, 2),
            "program_bytes": program_bytes,
            "trainable": sum(self._plan.shapes[path].size for path in self._plan.trainable),
        }

    def check(self) -> dict[str, float]:
        """See `process.Side`: losses and gradient norms of two steps, or a sum over the outputs."""
        if self._job.task == "detect":
            return {"output": float(np.abs(np.asarray(self._once()["logits"])).sum())}
        if self._job.task == "tower":
            value, gradient = self._once()
            squares = sum(float(jnp.sum(jnp.square(leaf))) for leaf in gradient.values())
            return {"loss": float(value), "gradient_norm": squares**0.5}
        checked = {}
        for number in (1, 2):
            metrics = self._once()
            for name in ("loss", "gradient_norm"):
                checked[f"{name}_{number}"] = float(metrics[name])
        return checked

    def run(self, steps: int) -> list[float]:
        """See `process.Side`."""
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            jax.block_until_ready(self._once())
            seconds.append(time.perf_counter() - start)
        return seconds

    def _once(self) -> Any:
        out = self._step(self._state, to_devices(self._batch, self._plan.mesh))
        if self._job.task == "train":
            self._state, out = out
        return out

    def peak(self) -> dict[str, float]:
        """See `process.Side`."""
        stats = jax.devices()[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            return {"device_bytes": float(stats["peak_bytes_in_use"])}
        return {"process_bytes": process_peak()}

    def matmul(self) -> float:
        """See `process.Side`."""
        exact = self._job.run.model.compute.dtype == "float32"
        dtype = jnp.float32 if exact else jnp.bfloat16
        size = 2048 if jax.default_backend() == "cpu" else 8192
        left, right = jnp.ones((2, size, size), dtype)
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest" if exact else None))
        return best_rate(lambda: product(left, right).block_until_ready(), 2.0 * size**3)


def _state(plan: TrainPlan, values: dict[str, np.ndarray]) -> TrainState:
    parameters = jax.device_put(values, plan.sharding.parameters)
    start = jax.jit(plan.optimizer.init, out_shardings=plan.sharding.optimizer)
    trainable = {path: parameters[path] for path in plan.trainable}
    step = jax.device_put(np.zeros((), np.int32), plan.sharding.step)
    return TrainState(step, parameters, start(trainable))


def _tower_step(plan: TrainPlan) -> Any:
    """(parameters, batch) -> mean square of the pooled features, and its gradient."""
    config = plan.spec.model

    def step(parameters: dict[str, Any], batch: dict[str, Any]) -> Any:
        frozen = {k: v for k, v in parameters.items() if not k.startswith("vision/")}
        trainable = {k: v for k, v in parameters.items() if k.startswith("vision/")}
        images = normalize(batch["image"], config.image_mean, config.image_std)

        def loss(trainable: dict[str, Any]) -> Any:
            pooled = bind(plan.graph, {**frozen, **trainable}).encode_image(images).pooled
            return jnp.square(pooled.astype(jnp.float32)).mean()

        return jax.value_and_grad(loss)(trainable)

    return step
