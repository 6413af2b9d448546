"""A side of a comparison: a model that runs one kind of step, in its own process.

Processes separate memory, threads and compiled programs; the two sides take turns, so that other load
on the machine affects both. Both draw the same parameters and the same batch from the same seed.
"""

from __future__ import annotations

import os
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from jax_vlffd.config import ModelConfig, RunConfig

#: Measured steps: training, the image tower forward and backward, the detector.
TASKS = ("train", "tower", "detect")


@dataclass(frozen=True)
class Job:
    """The step of a side.

    run: model, losses, tuning, optimizer. batch_size: images. task: one of TASKS. peer_compile: whether
    the peer uses torch.compile.
    """

    run: RunConfig
    batch_size: int
    task: str = "train"
    peer_compile: bool = False


class Side(Protocol):
    """Methods of a side; all values can be pickled."""

    def describe(self) -> dict[str, Any]:
        """Device, versions, seconds of compilation, and bytes requested by the program."""

    def check(self) -> dict[str, float]:
        """Results of the first steps, to compare with the other side; advances the state."""

    def run(self, steps: int) -> list[float]:
        """Seconds of each step, from a batch on the host to a finished result."""

    def peak(self) -> dict[str, float]:
        """Peak memory in bytes so far, of the device or, on the CPU, of the process."""

    def matmul(self) -> float:
        """Best FLOP/s of a plain matrix product in the job's dtype."""


class SideProcess(AbstractContextManager["SideProcess"]):
    """A context manager for a side in its own process, made there by `make(job)`.

    Args:
      make: a class or function at module level.
      job: its argument; can be pickled.
      daemon: False if the side starts processes.

    Raises:
      UserError: the side could not be made, or failed; with its error.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        job: Any,
        daemon: bool = True,
    ):
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_end, make, job), daemon=daemon)
        self._process.start()
        child_end.close()
        self.about: dict[str, Any] = self._receive()

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method of the side."""
        self._pipe.send((name, arguments))
        return self._receive()

    def _receive(self) -> Any:
        from jax_vlffd.errors import UserError

        try:
            fault, value = self._pipe.recv()
        except EOFError:
            fault, value = "its process ended; it may have run out of memory", None
        if fault:
            raise UserError(f"one side of the bench failed: {fault}")
        return value

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, make: Callable[[Any], Any], job: Any) -> None:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the other side needs memory too
    try:
        side = make(job)
        pipe.send(("", side.describe()))
        while True:
            name, arguments = pipe.recv()
            pipe.send(("", getattr(side, name)(*arguments)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        text = " ".join(str(error).split())[:500] or type(error).__name__
        if type(error).__name__ != "UserError":  # a bug or out of memory: add the position
            last = traceback.extract_tb(error.__traceback__)[-1]
            text += f" ({os.path.basename(last.filename)}:{last.lineno})"
        pipe.send((text, None))


def alternate(sides: Mapping[str, SideProcess], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of every step of each side, measured in turn; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            taken = side.call("run", steps if number else 1)
            if number:
                seconds[name] += taken
    return seconds


def summary(seconds: Sequence[float], images: int) -> dict[str, Any]:
    """Median, spread and rate of a side's steps."""
    median = statistics.median(seconds)
    return {
        "ms": round(1e3 * median, 2),
        "ms_min": round(1e3 * min(seconds), 2),
        "ms_max": round(1e3 * max(seconds), 2),
        "images_per_second": round(images / median, 3),
        "steps": len(seconds),
    }


def draw_parameters(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws parameters of our model with NumPy, the same for both sides: path -> fp32."""
    import numpy as np

    from jax_vlffd.model import graph_and_shapes

    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for path, shape in sorted(graph_and_shapes(config)[1].items()):
        if path == "logit_scale":
            value = np.full((), config.clip.logit_scale_init, np.float32)
        elif "layernorm" in path or path.endswith("bias") or "lora_b" in path:
            value = np.full(shape.shape, float(path.endswith("scale")), np.float32)
        else:
            spread = 0.02 if "embedding" in path else shape.shape[-1] ** -0.5
            value = np.float32(spread) * rng.standard_normal(shape.shape, dtype=np.float32)
        values[path] = value
    return values


def draw_batch(config: ModelConfig, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch on the host: noise over blocks of color, texts of many lengths, few caption keys."""
    import numpy as np

    rng = np.random.default_rng(seed)
    side, text = config.clip.vision.image_size, config.clip.text
    tokens = np.full((size, text.context_length), text.eos_id, np.int32)
    for row, end in zip(tokens, rng.integers(2, text.context_length, size), strict=True):
        row[:end] = rng.integers(0, text.eos_id, end)
    blocks = rng.integers(0, 256, (size, 4, 4, 3)).repeat(side // 4 + 1, 1).repeat(side // 4 + 1, 2)
    noise = rng.integers(-40, 40, (size, side, side, 3))
    label = np.arange(size, dtype=np.int32) % 2
    return {
        "image": np.clip(blocks[:, :side, :side] + noise, 0, 255).astype(np.uint8),
        "label": label,
        "tokens": tokens,
        "fused_tokens": tokens.copy(),
        "caption_key": (label * rng.integers(1, 4, size)).astype(np.int32),
        "forged_patches": label[:, None]
        * rng.random((size, config.clip.vision.grid**2), np.float32),
    }


def best_rate(once: Callable[[], Any], flops: float, seconds: float = 1.0) -> float:
    """The best FLOP/s of a call, measured for about `seconds`."""
    once()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - start)
    return flops / best


def reset_peak() -> None:
    """Resets the process's peak of resident memory, where Linux allows it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return


def process_peak() -> float:
    """Peak resident memory of the process in bytes since `reset_peak`."""
    import resource

    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kilobytes = next(line.split()[1] for line in file if line.startswith("VmHWM"))
        return float(kilobytes) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
