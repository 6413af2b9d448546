"""Growth of the cost of an image with batch, image size and depth, and of a packed set with its records.

`growth` varies one of the three at a time from the config's value, in our training step. `records` opens packed
sets up to a given size, and reads from one.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from benchmarks.fixtures import multiply, pack_small
from benchmarks.process import Job, SideProcess, alternate

if TYPE_CHECKING:
    from jax_vlffd.config import RunConfig

FLAGS = flags.FLAGS
flags.DEFINE_list("batches", ["1", "4", "16", "64"], "growth: images of a batch.")
flags.DEFINE_list(
    "sizes", ["112", "224", "336"], "growth: sides of the image, multiples of the patch."
)
flags.DEFINE_list("depths", ["3", "6", "12"], "growth: layers of the image tower.")
flags.DEFINE_integer(
    "records", 10_000_000, "records: upper limit of the records.", lower_bound=1000
)
flags.DEFINE_integer("read", 200_000, "records: records that are read.", lower_bound=200)
flags.DEFINE_string("plots", None, "growth, records: folder for the plots, growth_*.svg.")

#: Records of the shard that larger sets repeat.
SHARD_RECORDS: Final = 50_000
#: Number of memory measurements.
MEASUREMENTS: Final = 10


def measure() -> dict[str, Any]:
    """Measures all three tables; writes plots if --plots is set."""
    from benchmarks import step as bench_step

    run, size = bench_step.settings()
    curves = step_growth(
        run, size,
        batches=_positive_integers(FLAGS.batches), sizes=_positive_integers(FLAGS.sizes),
        depths=_positive_integers(FLAGS.depths), repeats=FLAGS.repeats,
    )  # fmt: skip
    if FLAGS.plots:
        plot_steps(curves, Path(FLAGS.plots))
    return {"bench": "growth", "model": bench_step.describe(run), **curves}


def step_growth(
    run: RunConfig,
    batch_size: int,
    *,
    batches: Sequence[int],
    sizes: Sequence[int],
    depths: Sequence[int],
    repeats: int,
) -> dict[str, list[dict[str, float]]]:
    """Milliseconds per image of a training step by batch, by image size, and by depth.

    Raises:
      UserError: a size is not a multiple of the patch.
    """
    clip = run.model.clip

    def with_vision(**changes: Any) -> RunConfig:
        vision = dataclasses.replace(clip.vision, **changes)
        model = dataclasses.replace(run.model, clip=dataclasses.replace(clip, vision=vision))
        return dataclasses.replace(run, model=model)

    return {
        "batch": [_cost(run, n, n, repeats) for n in batches],
        "image_size": [_cost(with_vision(image_size=n), batch_size, n, repeats) for n in sizes],
        "depth": [_cost(with_vision(layers=n), batch_size, n, repeats) for n in depths],
    }


def _cost(run: RunConfig, batch_size: int, value: int, repeats: int) -> dict[str, float]:
    from benchmarks import jax_side
    from benchmarks import step as bench_step

    job = Job(run, batch_size)
    with SideProcess(jax_side.Ours, job) as side:
        seconds = statistics.median(alternate({"one": side}, 1, repeats)["one"])
        flops = bench_step.flops_per_image(job)
        return {
            "value": value,
            "ms_per_image": round(1e3 * seconds / batch_size, 3),
            "gflops_per_image": round(flops / 1e9, 4),
            "gflops_per_second": round(flops * batch_size / seconds / 1e9, 2),
            "program_mb": round((side.about["program_bytes"] or 0) / 1e6, 1),
            "compile_s": side.about["compile_s"],
        }


def records_growth(folder: Path, limit: int) -> list[dict[str, float]]:
    """Seconds to open a set and until its first batch, and memory, for sets of growing size."""
    shard = pack_small(folder / "one", min(SHARD_RECORDS, limit))
    points = []
    for copies in sorted({max(limit // SHARD_RECORDS // step, 1) for step in (1000, 100, 10, 1)}):
        large = multiply(shard, folder / f"of_{copies}", copies)
        with SideProcess(ReadingSide, large) as side:
            points.append(side.call("open"))
    return points


def measure_records() -> dict[str, Any]:
    """Measures opening large sets, and memory while records are read in training order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = records_growth(folder, FLAGS.records)
        shard = folder / "one"
        large = multiply(shard, folder / "read", max(FLAGS.read // SHARD_RECORDS, 1))
        with SideProcess(ReadingSide, large) as side:
            read = side.call("read", FLAGS.read)
    if FLAGS.plots:
        plot_records(opened, Path(FLAGS.plots))
    return {"bench": "records", "opening": opened, "reading": read}


class ReadingSide:
    """Opens a packed set and reads from it, in a process of its own."""

    def __init__(self, folder: Path):
        from data_pipeline.loading.loader import TrainLoader  # noqa: F401 - so that opening does not include the import
        from data_pipeline.loading.tokenizer import train_tokenizer

        self._folder = folder
        with tempfile.TemporaryDirectory() as aside:
            self._tokenizer = train_tokenizer(["This is a real face."], 600, Path(aside))

    def describe(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def _loader(self) -> Any:
        from data_pipeline.loading.loader import TrainLoader
        from data_pipeline.loading.settings import AugmentSettings, DataSettings

        settings = DataSettings(
            train=((str(self._folder), 1.0),), batch_size=200, paired=True,
            augment=AugmentSettings.none(),
        )  # fmt: skip
        return TrainLoader(settings, image_size=16, tokenizer=self._tokenizer, text_length=16)

    def open(self) -> dict[str, float]:
        """Opens the set: seconds, and resident memory in MB."""
        before, start = _resident(), time.perf_counter()
        loader = self._loader()
        opened = time.perf_counter() - start
        iterator = iter(loader)
        next(iterator)
        first = time.perf_counter() - start
        figures = {
            "records": loader.records_per_epoch,
            "shards": len(list(self._folder.glob("*.array_record*"))),
            "open_s": round(opened, 3),
            "first_batch_s": round(first, 3),
            "resident_mb": round((_resident() - before) / 1e6, 1),
        }
        iterator.close()
        return figures

    def read(self, records: int) -> dict[str, Any]:
        """Reads records; returns resident memory in MB at regular intervals."""
        iterator, start = iter(self._loader()), time.perf_counter()
        memory = []
        for number in range(records // 200):
            next(iterator)
            if (number + 1) % max(records // 200 // MEASUREMENTS, 1) == 0:
                memory.append(round(_resident() / 1e6, 1))
        return {
            "records": records,
            "records_per_second": round(records / (time.perf_counter() - start), 1),
            "resident_mb": memory,
        }


def _resident() -> float:
    """Bytes of the process's anonymous memory, without mapped files, whose pages can be dropped."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(float(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def plot_steps(curves: dict[str, list[dict[str, float]]], folder: Path) -> None:
    """Writes growth_batch.svg, growth_image_size.svg and growth_depth.svg."""
    from jax_vlffd.file_writing import atomic_write_text
    from jax_vlffd.reports.charts import Axis, Series, line_chart, standalone

    for name, label in (
        ("batch", "images of a batch"),
        ("image_size", "side of the image, pixels"),
        ("depth", "layers of the image tower"),
    ):
        points = curves[name]
        x, y = ([point[key] for point in points] for key in ("value", "ms_per_image"))
        # The cost by FLOPs alone, at the rate of the largest point.
        last = points[-1]["ms_per_image"] / points[-1]["gflops_per_image"]
        by_flops = [point["gflops_per_image"] * last for point in points]
        chart = line_chart(
            f"Cost of an image by {label}",
            [Series("measured", x, y, marks=True), Series("by FLOPs alone", x, by_flops)],
            Axis(label), Axis("ms per image", (0.0, 1.1 * max(*y, *by_flops))),
        )  # fmt: skip
        atomic_write_text(folder / f"growth_{name}.svg", standalone(chart))


def plot_records(points: list[dict[str, float]], folder: Path) -> None:
    """Writes growth_records.svg."""
    import math

    from jax_vlffd.file_writing import atomic_write_text
    from jax_vlffd.reports.charts import Axis, Series, line_chart, standalone

    x = [math.log10(point["records"]) for point in points]
    ticks = [(n, f"10^{n}") for n in range(math.floor(min(x)), math.ceil(max(x)) + 1)]
    lines = [
        Series("open", x, [p["open_s"] for p in points], marks=True),
        Series("first batch", x, [p["first_batch_s"] for p in points], marks=True),
    ]
    chart = line_chart(
        "Opening a set by its records", lines, Axis("records", None, ticks), Axis("seconds")
    )
    atomic_write_text(folder / "growth_records.svg", standalone(chart))


def _positive_integers(values: Sequence[str]) -> list[int]:
    from jax_vlffd.errors import UserError

    try:
        numbers = [int(value) for value in values]
    except ValueError:
        raise UserError(f"{','.join(values)}: give integers") from None
    if not numbers or min(numbers) < 1:
        raise UserError(f"{','.join(values)}: give integers of at least 1")
    return numbers
