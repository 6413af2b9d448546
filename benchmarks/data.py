"""Loading speed, compared with a torch DataLoader with Pillow on the same JPEG files, and with decoding alone.

Both return uint8 batches at the model's size, with and without the training augmentations; the peer's use
Pillow and NumPy, with the same probabilities and ranges. Ours also reads records, draws a caption and
tokenizes it, which the peer does not.
"""

from __future__ import annotations

import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from benchmarks.fixtures import copy_files, draw_files, multiply, pack_files, tokenizer

if TYPE_CHECKING:
    from data_pipeline.loading.settings import AugmentSettings

FLAGS = flags.FLAGS
flags.DEFINE_string("jpegs", None, "data: folder of JPEG files to load; drawn faces by default.")
flags.DEFINE_integer("files", 256, "data: drawn JPEG files.", lower_bound=4)
flags.DEFINE_integer(
    "side",
    None,
    "data: side in pixels of drawn files (default 256), or to which --jpegs are resized "
    "(default: no resizing).",
    lower_bound=32,
)
flags.DEFINE_integer("image_size", 224, "data: side of the model's image.", lower_bound=16)
flags.DEFINE_integer("batch", 64, "data: images of a batch.", lower_bound=2)
flags.DEFINE_float("seconds", 3.0, "data: time of each turn of each side.", lower_bound=0.1)
flags.DEFINE_integer(
    "min_records",
    65_536,
    "data: smallest number of records of the packed set, by repeating the files.",
    lower_bound=4,
)
flags.DEFINE_bool("all_cores", True, "data: also measure with a worker on every core.")
flags.DEFINE_integer("turns", 3, "data: turns of each side; the median counts.", lower_bound=1)

TEXT_LENGTH: Final = 77
#: Side of drawn files in pixels, that of the crops of `launch.prepare`.
DRAWN_SIDE: Final = 256
#: Images read before timing starts, so that most shards are open.
_WARM_UP: Final = 512


@dataclass(frozen=True)
class Load:
    """Settings of one loading process.

    folder: of the files and the packed set. kind: 'decode', 'ours' or 'peer'. augmented: with the training
    augmentations. cores: that it may run on. workers: processes that it starts; 0 loads in its own process.
    """

    folder: Path
    kind: str
    augmented: bool
    image_size: int
    batch_size: int
    cores: tuple[int, ...]
    workers: int = 0


class LoadingSide:
    """Loads batches in one process."""

    def __init__(self, load: Load):
        os.sched_setaffinity(0, load.cores)
        self._load = load
        self._batches: Iterator[Any] = _MAKERS[load.kind](load)
        for _ in range(-(-_WARM_UP // load.batch_size) + load.workers):
            next(self._batches)  # starts workers, opens shards

    def describe(self) -> dict[str, Any]:
        """Nothing: the settings are known."""
        return {}

    def rate(self, seconds: float) -> dict[str, float]:
        """Images per second, and per second of CPU time, including its workers'."""
        images, start, cpu_seconds = 0, time.perf_counter(), _cpu_seconds()
        while time.perf_counter() < start + seconds:
            images += next(self._batches)
        cpu_seconds = _cpu_seconds() - cpu_seconds
        return {
            "images_per_second": images / (time.perf_counter() - start),
            "per_core_second": images / max(cpu_seconds, 1e-9),
        }


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its running children."""
    total = time.process_time()
    tick = os.sysconf("SC_CLK_TCK")
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def _decode(load: Load) -> Iterator[int]:
    """Only decodes JPEG files from memory."""
    import cv2

    from data_pipeline.core.images import decode_image

    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted((load.folder / "files").glob("*.jpg"))]
    for data in itertools.cycle(files):
        decode_image(data)
        yield 1


def _ours(load: Load) -> Iterator[int]:
    import cv2

    from data_pipeline.loading.loader import TrainLoader
    from data_pipeline.loading.settings import AugmentSettings, DataSettings

    if len(load.cores) == 1:
        cv2.setNumThreads(1)
    settings = DataSettings(
        train=((str(load.folder / "large"), 1.0),),
        batch_size=load.batch_size,
        workers=load.workers,
        augment=AugmentSettings() if load.augmented else AugmentSettings.none(),
    )
    loader = TrainLoader(
        settings, image_size=load.image_size, tokenizer=tokenizer(load.folder),
        text_length=TEXT_LENGTH,
    )  # fmt: skip
    for batch in iter(loader):
        yield len(batch["image"])


def _peer(load: Load) -> Iterator[int]:
    import torch
    from torch.utils.data import DataLoader

    from data_pipeline.loading.settings import AugmentSettings

    torch.set_num_threads(1)
    files = sorted((load.folder / "files").glob("*.jpg"))
    augment = AugmentSettings() if load.augmented else AugmentSettings.none()
    loader: Any = DataLoader(
        PillowFiles(files, load.image_size, augment),  # type: ignore[arg-type]
        batch_size=load.batch_size, shuffle=True, num_workers=load.workers, drop_last=True,
        persistent_workers=load.workers > 0,
    )  # fmt: skip
    while True:
        for images, _ in loader:
            yield len(images)


_MAKERS: Final[dict[str, Callable[[Load], Iterator[int]]]] = {
    "decode": _decode,
    "ours": _ours,
    "peer": _peer,
}


class PillowFiles:
    """The peer's data set: files, labels, and augmentations by Pillow."""

    def __init__(self, files: list[Path], size: int, augment: AugmentSettings):
        self._files = files * -(-1024 // len(files))  # for a longer epoch
        self._size, self._augment = size, augment

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import numpy as np
        import torch
        from PIL import Image, ImageEnhance, ImageFilter, ImageOps

        a, rng = self._augment, np.random.default_rng(number)
        image: Any = Image.open(self._files[number]).convert("RGB")
        side = min(image.size)
        if rng.random() < a.resize_crop:
            side = max(int(side * rng.uniform(*a.resize_crop_side)), 1)
        left, top = (int(rng.random() * (length - side + 1)) for length in image.size)
        box = (left, top, left + side, top + side)
        image = image.resize((self._size, self._size), Image.Resampling.BICUBIC, box=box)
        if rng.random() < a.flip:
            image = ImageOps.mirror(image)
        if rng.random() < a.color:
            for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = kind(image).enhance(1 + a.color_strength * rng.uniform(-1, 1))
        if rng.random() < a.blur:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*a.blur_sigma)))
        if rng.random() < a.noise:
            noise = rng.normal(0, rng.uniform(*a.noise_std), (self._size, self._size, 3))
            image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        if rng.random() < a.jpeg:
            memory = io.BytesIO()
            image.save(memory, "JPEG", quality=int(rng.integers(*a.jpeg_quality)))
            image = Image.open(memory).convert("RGB")
        pixels = np.array(image)
        if rng.random() < a.cutout:
            height, width = (int(self._size * rng.uniform(*a.cutout_side)) for _ in range(2))
            y, x = int(rng.integers(self._size - height)), int(rng.integers(self._size - width))
            pixels[y : y + height, x : x + width] = (123, 117, 104)
        return torch.from_numpy(pixels), number % 2


def make_sets(folder: Path) -> list[Path]:
    """Makes `files` by the flags, packs them as `packed`, and repeated as `large`; returns the files."""
    if FLAGS.jpegs:
        files = copy_files(Path(FLAGS.jpegs), folder / "files", FLAGS.side)
    else:
        side = FLAGS.side or DRAWN_SIDE
        files = draw_files(folder / "files", FLAGS.files // 2 * 2, side)
    pack_files(folder, files)
    # Grain's shuffle is slow in sets of a few hundred records, and real sets have more.
    multiply(folder / "packed", folder / "large", -(-FLAGS.min_records // len(files)))
    return files


def measure() -> dict[str, Any]:
    """Measures rates on one core and on all, with and without augmentation, and their ratios.

    Raises:
      UserError: torch is missing, or the folder has too few JPEG files.
    """
    from jax_vlffd.errors import UserError

    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"the peer needs torch ({error}); run: pip install 'jax-vlffd[parity]'"
        ) from None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_sets(folder)
        size = statistics.fmean(file.stat().st_size for file in files)
        cores = tuple(os.sched_getaffinity(0))
        rates = {"one_core": _rates(folder, cores[:1], 0)}
        if FLAGS.all_cores:
            rates["all_cores"] = _rates(folder, cores, len(cores))
    one = rates["one_core"]
    return {
        "bench": "data",
        "files": len(files),
        "side": FLAGS.side or (None if FLAGS.jpegs else DRAWN_SIDE),
        "bytes_per_file": round(size),
        "image_size": FLAGS.image_size,
        "batch_size": FLAGS.batch,
        "peer": f"torch {torch.__version__} DataLoader, Pillow",
        **rates,
        "share_of_decoding": _ratio(one["ours_plain"], one["decode"]),
        "rate_over_peer_plain": _ratio(one["ours_plain"], one["peer_plain"]),
        "rate_over_peer_augmented": _ratio(one["ours_augmented"], one["peer_augmented"]),
    }


def _rates(folder: Path, cores: tuple[int, ...], workers: int) -> dict[str, dict[str, float]]:
    """The rate of every kind of loading, measured in turn."""
    import contextlib

    from benchmarks.process import SideProcess

    kinds = [("ours", False), ("peer", False), ("ours", True), ("peer", True)]
    loads = {
        f"{kind}_{'augmented' if augmented else 'plain'}": Load(
            folder, kind, augmented, FLAGS.image_size, FLAGS.batch, cores, workers
        )
        for kind, augmented in kinds
    }
    if len(cores) == 1:
        loads = {
            "decode": Load(folder, "decode", False, FLAGS.image_size, 1, cores),
            **loads,
        }
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in loads}
    for _ in range(FLAGS.turns):
        for name, load in loads.items():
            # A new process each turn: a loader that reads ahead would work while others are measured.
            with contextlib.ExitStack() as stack:
                side = stack.enter_context(SideProcess(LoadingSide, load, daemon=False))
                rates[name].append(side.call("rate", FLAGS.seconds))
    return {
        name: {
            key: round(statistics.median(rate[key] for rate in samples), 1)
            for key in ("images_per_second", "per_core_second")
        }
        for name, samples in rates.items()
    }


def _ratio(ours: dict[str, float], peer: dict[str, float]) -> float:
    return round(ours["per_core_second"] / peer["per_core_second"], 3)
