"""The part of `launch.annotate` after the raw lines: their refinement, and the page to review them by.

It is a part of its own so that the flags of the endpoint stand together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data_pipeline.fftg.annotator import Annotator
    from data_pipeline.fftg.refine.requests import LoadImages
    from data_pipeline.fftg.refine.settings import RefineSettings
    from data_pipeline.fftg.review import Pictures

FLAGS = flags.FLAGS
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

#: Flags that are settings by the same name.
_SETTINGS = (
    *("model", "base_url", "concurrency", "rpm", "tpm", "timeout", "retries", "max_usd"),
    *("price_in", "price_out", "temperature", "max_tokens", "prompt_version"),
)


def check_flags() -> RefineSettings | None:
    """Returns the settings of the refinement, None where none is asked for; before any work.

    Raises:
      UserError: flags that do not go together.
    """
    from dataclasses import asdict

    from data_pipeline.fftg.annotator import VERSION
    from data_pipeline.fftg.measure.thresholds import DEFAULT
    from data_pipeline.fftg.refine.settings import RefineSettings
    from jax_vlffd.errors import UserError

    if not (FLAGS.model or FLAGS.base_url or FLAGS.dry_run or FLAGS.batch) and (
        FLAGS.mode == "online"
    ):
        return None
    if (FLAGS.mode == "online") == bool(FLAGS.batch):
        raise UserError("--batch goes with --mode=batch-export or batch-import, and they with it")
    if FLAGS.mode == "batch-export" and len(FLAGS.batch) != 1:
        raise UserError("--mode=batch-export takes one --batch file; it is split if it must be")
    try:
        import openai  # noqa: F401
        import pydantic  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"refinement needs {error.name}: pip install 'jax-vlffd[annotate]'"
        ) from error
    set_flags = {name: FLAGS[name].value for name in _SETTINGS}
    values: dict[str, Any] = {name: v for name, v in set_flags.items() if v is not None}
    return RefineSettings(**values, mask_settings={"version": VERSION, **asdict(DEFAULT)})


def refine_lines(out: Path, settings: RefineSettings) -> None:
    """Refines the lines of an annotation file in place, or does the part that `--mode` names."""
    from data_pipeline.core.jsonl import read_lines
    from data_pipeline.fftg.refine import batch, online

    lines = read_lines(out)
    load = _loader(out.parent)
    if FLAGS.dry_run:
        folder = out.with_name(out.name + ".dry_run")
        written = online.dry_run(lines, folder, out, settings, load)
        print(f"dry run: {len(written)} files in {folder}; nothing was sent")
    elif FLAGS.mode == "batch-export":
        files = batch.export_batch(lines, out, Path(FLAGS.batch[0]), settings, load)
        print("\n".join(f"wrote {path}" for path in files) or "nothing is left to ask")
    elif FLAGS.mode == "batch-import":
        paths = [Path(name) for name in FLAGS.batch]
        print(batch.import_batch(lines, out, paths, settings, load).text())
    else:
        with progress("refining") as update:
            summary = online.refine_annotations(lines, out, settings, load, update)
        print(summary.text())


def review_lines(out: Path, annotator: Annotator) -> None:
    """Writes the page of `--review`."""
    from data_pipeline.core.jsonl import read_lines
    from data_pipeline.fftg.review import write_review

    def show(line: Mapping[str, Any]) -> Pictures | None:
        return _pictures(line, out.parent, annotator)

    shown = write_review(read_lines(out), Path(FLAGS.review), show, FLAGS.review_sample)
    print(f"review: {shown} lines in {FLAGS.review}")


def _loader(root: Path) -> LoadImages:
    from data_pipeline.fftg.images import read_image

    def load(line: Mapping[str, Any]) -> tuple[Any, Any]:
        return read_image(root / line["real"])[0], read_image(root / line["fake"])[0]

    return load


def _pictures(line: Mapping[str, Any], root: Path, annotator: Annotator) -> Pictures | None:
    from data_pipeline.fftg.annotator import AnnotationTask
    from data_pipeline.fftg.review import Pictures

    if line.get("fake") is None or line.get("real") is None:
        return None
    mask = root / line["mask"] if line.get("mask") else None
    pair = annotator.compare(
        AnnotationTask(line["id"], root / line["real"], root / line["fake"], mask)
    )
    return Pictures(pair.real, pair.fake, pair.mask, pair.labels)
