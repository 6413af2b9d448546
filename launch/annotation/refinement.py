"""Refines the raw lines of `launch.annotate`, and writes the page to review them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli.progress import note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from data_pipeline.fftg.annotator import Annotator
    from data_pipeline.fftg.refine.requests import LoadImages
    from data_pipeline.fftg.refine.settings import RefineSettings


def settings_of(
    mode: str, batch_files: Sequence[str], dry_run: bool, values: Mapping[str, Any]
) -> RefineSettings | None:
    """Returns the settings of the refinement, or None if no flag asks for it.

    Args:
      mode: 'online', 'batch-export' or 'batch-import'.
      batch_files: one file to export to, or files to import.
      dry_run: whether prompts are written and nothing is sent.
      values: of `RefineSettings` by name; None leaves the default.

    Raises:
      UserError: flags that do not go together, or a package is not installed.
    """
    from data_pipeline.fftg.measure.thresholds import DEFAULT
    from data_pipeline.fftg.measure.versions import VERSION
    from data_pipeline.fftg.refine.settings import RefineSettings
    from jax_vlffd.errors import UserError

    online = mode == "online"
    if online and not (values["model"] or values["base_url"] or dry_run or batch_files):
        return None
    if online == bool(batch_files):
        raise UserError(
            "--batch and --mode=batch-export or batch-import go together: give both or neither"
        )
    if mode == "batch-export" and len(batch_files) != 1:
        raise UserError(
            "--mode=batch-export takes one --batch file, which is split if it gets too large"
        )
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"refinement needs {error.name}: pip install 'jax-vlffd[annotate]'"
        ) from error
    present: dict[str, Any] = {name: v for name, v in values.items() if v is not None}
    return RefineSettings(**present, mask_settings={"version": VERSION, **DEFAULT.for_key()})


def refine_lines(
    out: Path, settings: RefineSettings, mode: str, batch_files: Sequence[str], dry_run: bool
) -> None:
    """Refines the lines of an annotation file in place, or runs the step that `mode` names."""
    from data_pipeline.fftg.refine import batch, online
    from jax_vlffd.jsonl import read_lines

    lines = read_lines(out)
    load = _loader(out.parent)
    if dry_run:
        folder = out.with_name(out.name + ".dry_run")
        written = online.dry_run(lines, folder, out, settings, load, note=print)
        print(f"dry run: {len(written)} files in {folder}; nothing was sent")
    elif mode == "batch-export":
        files = batch.export_batch(lines, out, Path(batch_files[0]), settings, load, note)
        print("\n".join(f"wrote {path}" for path in files) or "no requests are left")
    elif mode == "batch-import":
        paths = [Path(name) for name in batch_files]
        print(batch.import_batch(lines, out, paths, settings, load, note).text())
    else:
        with progress("refining") as update:
            summary = online.refine_annotations(lines, out, settings, load, update, note)
        print(summary.text())


def review_lines(out: Path, annotator: Annotator, page: Path, sample: int) -> None:
    """Writes the review page of a sample of an annotation file's lines."""
    from data_pipeline.fftg.annotator import AnnotationTask
    from data_pipeline.fftg.review import Pictures, write_review
    from jax_vlffd.jsonl import read_lines

    root = out.parent

    def show(line: Mapping[str, Any]) -> Pictures | None:
        outside = str(line.get("error")).startswith("path_outside")  # refused, so never read
        if line.get("fake") is None or line.get("real") is None or outside:
            return None
        mask = root / line["mask"] if line.get("mask") else None
        task = AnnotationTask(line["id"], root / line["real"], root / line["fake"], mask)
        pair = annotator.compare(task)
        return Pictures(pair.real, pair.fake, pair.mask, pair.labels)

    shown = write_review(read_lines(out), page, show, sample)
    print(f"review: {shown} lines in {page}")


def _loader(root: Path) -> LoadImages:
    from data_pipeline.fftg.images import read_image
    from jax_vlffd.errors import UserError

    def load(line: Mapping[str, Any]) -> tuple[Any, Any]:
        names = line.get("real"), line.get("fake")
        if not all(isinstance(name, str) for name in names):
            raise UserError("the line does not name a real and a fake")
        return read_image(root / str(names[0]))[0], read_image(root / str(names[1]))[0]

    return load
