"""Writes a caption with its evidence for every real/fake pair of a CSV.

  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --model=gpt-4o-mini --max_usd=5
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --review=review.html

A second run with the same --out goes on where the first stopped. One line a pair; a pair that
cannot be annotated has a code in `error`, and the others go on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from launch.annotation import refinement
from launch.cli import command

if TYPE_CHECKING:
    from data_pipeline.fftg.runner import AnnotationSummary

Line = dict[str, Any]

#: Between two lines of progress where there is no terminal.
_REPORT_SECONDS: Final = 10.0

FLAGS = flags.FLAGS
flags.DEFINE_string("pairs", None, "CSV with the columns real and fake (paths relative to it).")
flags.DEFINE_string("out", None, "JSON lines to write or to go on with.")
flags.DEFINE_string("masks", None, "Folder for the forgery masks as PNG; none are written without.")
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("captions", 3, "Wordings of the caption for each image.", lower_bound=1)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes.", lower_bound=1)
flags.DEFINE_string("shard", "0/1", "i/n: annotate every n-th row, beginning with row i.")
flags.mark_flags_as_required(["pairs", "out"])
flags.adopt_module_key_flags(refinement)  # or --help would not show them


def main(argv: Sequence[str]) -> None:
    """Annotates, then prints the summary."""
    del argv
    from pathlib import Path

    from data_pipeline.fftg.annotator import Annotator
    from data_pipeline.fftg.pairs import check_masks, read_pairs
    from data_pipeline.fftg.runner import AnnotationSummary, annotate_all, open_annotations, shard
    from jax_vlffd.errors import UserError

    refine_settings = refinement.check_flags()
    out = Path(FLAGS.out)
    jobs = read_pairs(Path(FLAGS.pairs))[shard(FLAGS.shard)]
    if FLAGS.masks:
        check_masks(Path(FLAGS.masks), jobs)
    annotator = Annotator(
        detector=FLAGS.detector,
        wordings=FLAGS.captions,
        root=out.parent,
        masks=Path(FLAGS.masks) if FLAGS.masks else None,
    )
    tally = AnnotationSummary(total=len(jobs))
    with open_annotations(out) as log:  # to the end: refinement replaces the file
        lines = annotate_all(annotator, jobs, log.index, FLAGS.workers)
        for line in _shown(lines, tally):
            if line is not None:
                log.append(line)
        log.finish()
        print(tally.summary(), flush=True)
        if tally.captioned + tally.kept == 0:
            raise UserError(f"nothing could be annotated; see `error` in {out}")
        if refine_settings is not None:
            refinement.refine_lines(out, refine_settings)
        if FLAGS.review:
            refinement.review_lines(out, annotator)


def _shown(lines: Iterator[Line | None], tally: AnnotationSummary) -> Iterator[Line | None]:
    """Passes lines through, counts them, and shows how far the run is."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if not sys.stdout.isatty():
        last = time.monotonic()
        for line in lines:
            tally.add(line)
            yield line
            if time.monotonic() - last > _REPORT_SECONDS:
                last = time.monotonic()
                print(f"{tally.done}/{tally.total} rows, {tally.failed} failed", flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=tally.total, failed=0)
        for line in lines:
            tally.add(line)
            yield line
            bar.update(task, completed=tally.done, failed=tally.failed)


if __name__ == "__main__":
    command.run(main)
