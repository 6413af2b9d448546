"""Writes a caption with its evidence for every real/fake pair of a CSV.

  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --model=gpt-4o-mini --max_usd=5
  python -m launch.annotate --pairs=pairs.csv --out=annotations.jsonl --review=review.html

A second run with the same --out continues where the first stopped. Each pair has one line; one that cannot be
annotated has a code in `error`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from absl import flags

from launch.annotation import refinement
from launch.cli import command
from launch.cli.flags import shard
from launch.cli.outputs import FILE, FOLDER
from launch.cli.progress import note, progress

FLAGS = flags.FLAGS
flags.DEFINE_string("pairs", None, "CSV with the columns real and fake (paths relative to it).")
flags.DEFINE_string("out", None, "JSON lines file to write or to continue.")
flags.DEFINE_string(
    "masks", None, "Folder to write the forgery masks to, as PNG; none are written by default."
)
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("captions", 3, "Captions per image.", lower_bound=1)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Number of processes.", lower_bound=1)
flags.DEFINE_string("shard", "0/1", "i/n: annotate every n-th row, starting with row i.")
flags.DEFINE_string(
    "model",
    None,
    "Model that refines captions (gpt-4o-mini if only other flags ask for it).",
)
flags.DEFINE_string(
    "base_url", None, "OpenAI-compatible endpoint for the refinement instead of OpenAI's."
)
flags.DEFINE_enum(
    "mode", "online", ["online", "batch-export", "batch-import"], "Where replies come from."
)
flags.DEFINE_list("batch", [], "Batch files: one to export to, or several to import.")
flags.DEFINE_bool("dry_run", False, "Write the prompts and images of a few pairs; send nothing.")
flags.DEFINE_integer("concurrency", 8, "Maximum number of requests in flight.")
flags.DEFINE_float("rpm", None, "Maximum requests per minute.")
flags.DEFINE_float("tpm", None, "Maximum tokens per minute.")
flags.DEFINE_float("timeout", 60.0, "Seconds for one request.")
flags.DEFINE_integer("retries", 5, "Retries after a transient failure.")
flags.DEFINE_float("max_usd", None, "Stop before all replies of --out together cost more.")
flags.DEFINE_float("price_in", None, "US dollars per million prompt tokens.")
flags.DEFINE_float("price_out", None, "US dollars per million completion tokens.")
flags.DEFINE_float(
    "temperature", None, "Sampling temperature; the endpoint's default if not given."
)
flags.DEFINE_integer("max_tokens", 400, "Maximum length of a reply, in tokens.")
flags.DEFINE_string("prompt_version", "v1", "Version of the prompts.")
flags.DEFINE_bool(
    "reannotate",
    False,
    "Annotate again, and refine anew, what an older version of the annotator had refined.",
)
flags.DEFINE_string("review", None, "HTML page to write for reviewing a sample of the lines.")
flags.DEFINE_integer("review_sample", 100, "Lines on that page.", lower_bound=1)

flags.mark_flags_as_required(["pairs", "out"])

#: Flags with the names of refinement settings.
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
    from data_pipeline.fftg.refine.earlier import older_text
    from data_pipeline.fftg.runner import AnnotationSummary, annotate_all, open_annotations
    from jax_vlffd.errors import UserError

    values = {name: FLAGS[name].value for name in _SETTINGS}
    mode = (FLAGS.mode, FLAGS.batch, FLAGS.dry_run)
    refine_settings = refinement.settings_of(*mode, values)
    if refine_settings is None:
        command.check_unused(_SETTINGS, "without --model or --base_url: no caption is refined")
    if not FLAGS.review:
        command.check_unused(["review_sample"], "without --review")
    out = Path(FLAGS.out)
    tasks = read_pairs(Path(FLAGS.pairs))[shard(FLAGS.shard)]
    if FLAGS.masks:
        check_masks(Path(FLAGS.masks), tasks)
    annotator = Annotator(
        detector=FLAGS.detector,
        wordings=FLAGS.captions,
        root=out.parent,
        masks=Path(FLAGS.masks) if FLAGS.masks else None,
        keep_paid=not FLAGS.reannotate,
    )
    summary = AnnotationSummary(total=len(tasks))
    with open_annotations(out) as log:  # open to the end: refinement replaces the file
        earlier = [log.index[task.id] for task in tasks if task.id in log.index]
        if remark := older_text(earlier, FLAGS.reannotate, refine_settings is not None):
            note(remark)
        annotated = annotate_all(annotator, tasks, log.index, FLAGS.workers)
        with progress("annotating") as update, contextlib.closing(annotated) as lines:
            for line in lines:
                summary.add(line)
                if line is not None:
                    log.append(line)
                update(summary.done, summary.total, f"{summary.failed} failed")
        log.finish()
        print(summary.summary(), flush=True)
        if summary.captioned + summary.unchanged == 0:
            raise UserError(f"nothing could be annotated; see `error` in {out}")
        if refine_settings is not None:
            refinement.refine_lines(out, refine_settings, *mode)
        if FLAGS.review:
            refinement.review_lines(out, annotator, Path(FLAGS.review), FLAGS.review_sample)


if __name__ == "__main__":
    command.run(
        main,
        writes={"out": FILE, "masks": FOLDER, "review": FILE},
        reads=["pairs"],
    )
