"""Writes a caption with its evidence for every real/fake pair of a CSV.

  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --model=gpt-4o-mini --max_usd=5
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --review=review.html

A second run with the same --out goes on where the first stopped. One line a pair; a pair that
cannot be annotated has a code in `error`, and the others go on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from absl import flags

from launch.annotation import refinement
from launch.cli import command
from launch.cli.flags import shard
from launch.cli.progress import progress

FLAGS = flags.FLAGS
flags.DEFINE_string("pairs", None, "CSV with the columns real and fake (paths relative to it).")
flags.DEFINE_string("out", None, "JSON lines to write or to go on with.")
flags.DEFINE_string("masks", None, "Folder for the forgery masks as PNG; none are written without.")
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("captions", 3, "Wordings of the caption for each image.", lower_bound=1)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes.", lower_bound=1)
flags.DEFINE_string("shard", "0/1", "i/n: annotate every n-th row, beginning with row i.")
flags.DEFINE_string("model", None, "Refine by this model (gpt-4o-mini where only others are set).")
flags.DEFINE_string(
    "base_url", None, "Refine by this OpenAI-compatible endpoint, not OpenAI's own."
)
flags.DEFINE_enum(
    "mode", "online", ["online", "batch-export", "batch-import"], "How replies are had."
)
flags.DEFINE_list("batch", [], "Batch files: one to export to, or those to import.")
flags.DEFINE_bool("dry_run", False, "Write prompts and pictures of a few pairs, send nothing.")
flags.DEFINE_integer("concurrency", 8, "Requests under way at once.")
flags.DEFINE_float("rpm", None, "Requests a minute at most.")
flags.DEFINE_float("tpm", None, "Tokens a minute at most.")
flags.DEFINE_float("timeout", 60.0, "Seconds for one request.")
flags.DEFINE_integer("retries", 5, "Further attempts after a failure that may pass.")
flags.DEFINE_float("max_usd", None, "Stop before all replies of --out cost more.")
flags.DEFINE_float("price_in", None, "US dollars a million prompt tokens.")
flags.DEFINE_float("price_out", None, "US dollars a million completion tokens.")
flags.DEFINE_float("temperature", None, "Sampling temperature; the endpoint's own without.")
flags.DEFINE_integer("max_tokens", 400, "The longest reply, in tokens.")
flags.DEFINE_string("prompt_version", "v1", "Folder of prompts.")
flags.DEFINE_string("review", None, "Write an HTML page to look at a sample of the lines by.")
flags.DEFINE_integer("review_sample", 100, "Lines on that page.", lower_bound=1)

flags.mark_flags_as_required(["pairs", "out"])

#: Flags that are settings by the same name.
_SETTINGS = (
    *("model", "base_url", "concurrency", "rpm", "tpm", "timeout", "retries", "max_usd"),
    *("price_in", "price_out", "temperature", "max_tokens", "prompt_version"),
)


def main(argv: Sequence[str]) -> None:
    """Annotates, prints the summary, then refines."""
    del argv
    from pathlib import Path

    from data_pipeline.fftg.annotator import Annotator
    from data_pipeline.fftg.pairs import check_masks, read_pairs
    from data_pipeline.fftg.runner import AnnotationSummary, annotate_all, open_annotations
    from jax_vlffd.errors import UserError

    values = {name: FLAGS[name].value for name in _SETTINGS}
    way = (FLAGS.mode, FLAGS.batch, FLAGS.dry_run)
    refine_settings = refinement.settings_of(*way, values)
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
    summary = AnnotationSummary(total=len(jobs))
    with open_annotations(out) as log:  # to the end: refinement replaces the file
        annotated = annotate_all(annotator, jobs, log.index, FLAGS.workers)
        with progress("annotating") as update, contextlib.closing(annotated) as lines:
            for line in lines:
                summary.add(line)
                if line is not None:
                    log.append(line)
                update(summary.done, summary.total, f"{summary.failed} failed")
        log.finish()
        print(summary.summary(), flush=True)
        if summary.captioned + summary.kept == 0:
            raise UserError(f"nothing could be annotated; see `error` in {out}")
        if refine_settings is not None:
            refinement.refine_lines(out, refine_settings, *way)
        if FLAGS.review:
            refinement.review_lines(out, annotator, Path(FLAGS.review), FLAGS.review_sample)


if __name__ == "__main__":
    command.run(main)
