"""Batches through Grain: an endless, resumable stream for training, a finite one for evaluation.

A batch is a dict of NumPy arrays, one process's share of b examples:

    image         uint8 [b, H, W, 3], RGB; normalized later, on the device
    tokens        int32 [b, T], the caption
    fused_tokens  int32 [b, T], the caption view of the fusion branch
    label         int32 [b], 0 real, 1 fake
    caption_key   int32 [b], equal for captions that mean the same
    valid         bool  [b], False for padding and, in evaluation, for an image that does not decode
    index         int64 [b], number of the record (-1 for padding)
    bad           int32 [b], images skipped on the way to this example because they do not decode
    bad_index     int64 [b], number of the last one skipped (-1 for none)
    forged_patches  float32 [b, G * G], in training where it is asked for: how much of each patch the
                  forgery mask covers, 0 to 1; -1 for a fake whose mask is not known

Training is a pure function of the settings and the step: step k holds the same examples, with the
same augmentations and captions, whatever the number of processes and workers. Process p of P holds
the p-th block of the step's global batch. So a position in the data is a step, nothing more, and a
run resumes on another number of workers or hosts. With `paired`, examples 2i and 2i + 1 are a fake
and its real; they share flip and crop, so that they still match pixel by pixel before the other
augmentations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags, logging

from data_pipeline.core.parallel import end_with_parent, without_interrupts
from data_pipeline.loading.examples import Batch, LoadBatch, LoadRow, LoadUnit
from data_pipeline.loading.sampling import Mixture, select_rows
from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.record import Record
from jax_vlffd.errors import UserError
from jax_vlffd.settings import Resize

#: Of Grain's error where a worker ended, and how often a run starts its workers anew.
_KILLED = "Worker process was terminated unexpectedly"
_MAX_KILLED = 3
#: Fewest images that the share of undecodable ones is computed over, so that one of the first does
#: not count as a hundred percent.
_MIN_SEEN = 1000


class TrainLoader:
    """Endless batches; iterating gives a `TrainIterator` at step 0.

    Args:
        settings: `batch_size` is that of all processes together.
        image_size: side of the model's image.
        tokenizer: the model's.
        text_length: tokens a caption.
        process_index: this process, from 0.
        process_count: processes that train together.
        mask_grid: patches along a side of the model's image, for `forged_patches`; 0 leaves them out.
        resize: the model's.

    Raises:
        UserError: a set is missing, empty or unsuitable, or the batch does not divide.

    Attributes:
        records_per_epoch: examples in an epoch (see `Mixture`); an epoch takes
            `records_per_epoch / settings.batch_size` steps.
        batch_size: examples in this process's share of a step.
    """

    def __init__(
        self,
        settings: DataSettings,
        *,
        image_size: int,
        tokenizer: Tokenizer,
        text_length: int,
        process_index: int = 0,
        process_count: int = 1,
        mask_grid: int = 0,
        resize: Resize = "antialiased",
    ) -> None:
        self._mixture = Mixture(settings)
        if mask_grid:
            self._mixture.check_masks()
        self._settings = settings
        self._process = (process_index, process_count)
        unit_size = self._mixture.unit_size
        self.batch_size = _share(settings.batch_size, process_count, unit_size)
        self.records_per_epoch = self._mixture.records_per_epoch
        units = self._mixture.units(settings.seed)
        load = LoadBatch(
            units,
            LoadUnit(self._mixture, settings, image_size, mask_grid, resize),
            count=self.batch_size // unit_size,
            size=self.batch_size,
            image_size=image_size,
            tokenizer=tokenizer,
            text_length=text_length,
            seed=settings.seed % 2**32,
        )
        # Far more than any run takes, and few enough that Grain's numbers of units do not overflow.
        steps = len(units) // settings.batch_size
        if not steps:
            raise UserError(f"data.batch_size is {settings.batch_size}: no run takes that many")
        self._batches = grain.MapDataset.range(steps).map(load)

    def __iter__(self) -> TrainIterator:
        return TrainIterator(self)

    def batches(self, start: int) -> Iterator[Batch]:
        """Reads the share of this process from step `start` on."""
        index, count = self._process
        share = self._batches[start * count + index :: count]
        return iter(_read(share, self._settings.workers, self._settings.prefetch))

    @property
    def fingerprint(self) -> str:
        """A digest of what decides the order: sets, weights, seed, batch size, selection."""
        names = ("seed", "batch_size", "balance", "paired", "methods")
        content: list[Any] = [getattr(self._settings, name) for name in names]
        content += [weight for _, weight in self._settings.train]
        content += [len(split) for split in self._mixture.splits]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def describe(self, index: int) -> str:
        """Names a record of a batch for a message."""
        return self._mixture.describe(index)

    @property
    def max_bad_share(self) -> float:
        """The highest share of undecodable images that a run accepts."""
        return self._settings.max_bad_share


class TrainIterator(grain.DatasetIterator):
    """Batches from a position on; its state is a small dict for JSON, its step alike everywhere.

    It is a Grain iterator, so Orbax and Grain's checkpoint handlers take it as it is.

    Attributes:
        step: steps taken so far.
        seen: images read by this process so far.
        bad: of these, images that did not decode and were replaced.
    """

    def __init__(self, loader: TrainLoader) -> None:
        super().__init__()
        self._loader = loader
        self._inner: Any = None
        self.step = self.seen = self.bad = self._killed = 0

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            UserError: more images than `max_bad_share` do not decode, or workers are killed repeatedly.
        """
        batch = self._read()
        self.step += 1
        bad = int(batch["bad"].sum())
        self.seen += len(batch["bad"]) + bad
        if bad:
            self._report(bad, int(batch["bad_index"].max()))
        return batch

    def _read(self) -> Batch:
        """The batch of this step; workers that were killed are started anew, a few times."""
        while True:
            self.start_prefetch()
            try:
                return _next(self._inner)
            except RuntimeError as error:
                if _KILLED not in str(error):
                    raise
                self._close_inner()
                self._killed += 1
                if self._killed > _MAX_KILLED:
                    raise UserError(
                        f"workers of the loader were killed {self._killed} times, most likely for memory: "
                        "start again with fewer data.workers; the run goes on from its last checkpoint"
                    ) from error
                logging.warning("a worker of the loader was killed; the loader starts anew")

    def _report(self, bad: int, index: int) -> None:
        self.bad += bad
        name = self._loader.describe(index)
        logging.warning("skipped an image that does not decode: %s (%d so far)", name, self.bad)
        if self.bad > self._loader.max_bad_share * max(self.seen, _MIN_SEEN):
            raise UserError(
                f"{self.bad} of {self.seen} images do not decode, the last is {name}: pack the set "
                f"again from sound images, or raise data.max_bad_share "
                f"({self._loader.max_bad_share})"
            )

    def get_state(self) -> dict[str, Any]:
        """Position, counts, and the fingerprint of the data they belong to."""
        return {
            "step": self.step,
            "seen": self.seen,
            "bad": self.bad,
            "fingerprint": self._loader.fingerprint,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position.

        Raises:
            UserError: the state belongs to other data, another seed or another batch size.
        """
        if state["fingerprint"] != self._loader.fingerprint:
            raise UserError(
                "the saved position belongs to other data: it continues only with the same sets, "
                "weights, seed, batch size, balance, pairing and methods; restore those, or start "
                "in a new workdir"
            )
        self._close_inner()
        self.step, self.seen, self.bad = (int(state[name]) for name in ("step", "seen", "bad"))

    def start_prefetch(self) -> None:
        """Starts the workers before the first batch is asked for."""
        if self._inner is None:
            with without_interrupts():
                self._inner = self._loader.batches(self.step)
                self._inner.start_prefetch()

    def close(self) -> None:
        """Ends the workers."""
        self._close_inner()
        super().close()

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None


class EvalLoader:
    """Every selected record of a split exactly once over all processes; can be iterated again.

    Every process gets the same number of batches, the last ones padded with `valid` False. `index`
    is the record's row in the split. An image that does not decode comes with `valid` False and
    `bad` 1.

    Attributes:
        records: records over all processes.
        batch_size: examples in this process's share of a batch.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        *,
        image_size: int,
        tokenizer: Tokenizer,
        text_length: int,
        batch_size: int,
        captions: str = "all",
        fused_caption: str = "full",
        methods: Iterable[str] = (),
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        corrupt: Callable[[np.ndarray], np.ndarray] | None = None,
        resize: Resize = "antialiased",
    ) -> None:
        self._split = PackedSplit(os.fspath(folder), split)
        rows = select_rows(self._split, tuple(methods))
        self.records = len(rows)
        self.batch_size = _share(batch_size, process_count, 1)
        self._steps = -(-self.records // batch_size)
        self._reading = (workers, prefetch)
        load = LoadBatch(
            range(self._steps * batch_size),
            LoadRow(self._split, rows, image_size, captions, fused_caption, corrupt, resize),
            count=self.batch_size,
            size=self.batch_size,
            image_size=image_size,
            tokenizer=tokenizer,
            text_length=text_length,
            seed=0,
        )
        steps = grain.MapDataset.range(self._steps * process_count)
        self._batches = steps.map(load)[process_index::process_count]

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        with without_interrupts():
            iterator = iter(_read(self._batches, *self._reading))
        try:
            while (batch := _next(iterator)) is not None:
                yield batch
        finally:
            iterator.close()

    def metadata(self, index: Iterable[int]) -> Iterator[Record]:
        """The records of some `index` values (not padding), read one by one when asked for.

        They come without image and mask, so that those of a whole set fit in memory.
        """
        for row in index:
            yield dataclasses.replace(self._split[int(row)], image=b"", mask=b"")


def _share(batch_size: int, process_count: int, unit_size: int) -> int:
    step = process_count * unit_size
    if batch_size < 1 or batch_size % step:
        low = batch_size // step * step
        sizes = f"{low} or {low + step}" if low > 0 else f"{step}"
        pairs = " whole pairs each" if unit_size == 2 else ""
        raise UserError(
            f"a batch of {batch_size} does not divide among {process_count} processes{pairs}: "
            f"take {sizes}"
        )
    return batch_size // process_count


def _read(batches: grain.MapDataset, workers: int, prefetch: int) -> grain.IterDataset:
    """Reads ahead, in threads of this process or in worker processes."""
    if workers == 0:
        threads = min(prefetch, _cores())  # more only take turns
        return batches.to_iter_dataset(grain.ReadOptions(threads, prefetch))
    if (
        not flags.FLAGS.is_parsed()
    ):  # Grain reads flags of its own; outside a command none are parsed
        flags.FLAGS.mark_as_parsed()
    # A worker that reads more than one batch ahead of its own queue only holds memory.
    return batches.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
        worker_init_fn=_start_worker,
    )


def _next(iterator: Any) -> Any:
    """The next batch, None at the end. Ctrl-C does not reach the workers, which Grain starts here."""
    with without_interrupts():
        return next(iterator, None)


def _cores() -> int:
    """Cores that this process may run on; macOS reports only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(index: int, count: int) -> None:
    """Keeps a worker to its own core, since there are as many as cores are wanted, and to its parent's life."""
    del index, count
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends Ctrl-C to all, and the run has to be saved
    end_with_parent()
    cv2.setNumThreads(1)
