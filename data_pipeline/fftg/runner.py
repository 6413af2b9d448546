"""Annotates many pairs over many processes, in order, and counts the results."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.jsonl import JsonLog, identified
from data_pipeline.core.parallel import ordered_map
from data_pipeline.fftg.annotator import AnnotationTask, Annotator
from jax_vlffd.vocabulary import REGIONS, TYPES

Line = dict[str, Any]

#: Jobs that a process takes at once, and such chunks under way for each process.
_CHUNK: Final = 16
_AHEAD: Final = 3


def open_annotations(path: Path) -> JsonLog[str, str]:
    """Opens an annotation file to go on with; its index has the `key` of the line of each id.

    Of a line that is annotated anew the old one is dropped in the end.

    Raises:
      UserError: another process writes it, or a line in it is damaged.
    """
    return JsonLog(
        path,
        _key_of_line,
        fault="not an annotation with id; remove the line",
        unique=True,
        dumps=functools.partial(json.dumps, ensure_ascii=False),
    )


def _key_of_line(text: bytes) -> tuple[str, str]:
    id_, line = identified(text)
    return id_, str(line.get("key", ""))


def annotate_all(
    annotator: Annotator, jobs: Sequence[AnnotationTask], done: Mapping[str, str], workers: int
) -> Generator[Line | None, None, None]:
    """Annotates jobs and yields their lines in order; None for one whose earlier line still holds.

    Args:
      annotator: is copied into every process.
      jobs: what to annotate.
      done: id -> `key` of lines from earlier runs.
      workers: processes; 1 works in this one.

    Raises:
      UserError: see `Annotator.annotate`; or a process was killed, most likely for memory.
    """
    work = functools.partial(_annotate, annotator)
    todo = ((job, done.get(job.id)) for job in jobs)
    return ordered_map(work, todo, workers, chunk=_CHUNK, ahead=_AHEAD)


def _annotate(annotator: Annotator, todo: tuple[AnnotationTask, str | None]) -> Line | None:
    return annotator.annotate(*todo)


@dataclass
class AnnotationSummary:
    """Counts of a run.

    Attributes:
      total: jobs of this run.
      kept: lines of earlier runs that still hold.
      captioned: new lines with a caption.
      failed: new lines without one.
      codes: codes in `error`, over all jobs of this run.
      regions: forged regions in new lines.
      types: types found in new lines, once a region.
      unseen: new fakes without any visible forgery.
    """

    total: int
    kept: int = 0
    captioned: int = 0
    failed: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    unseen: int = 0

    def add(self, line: Line | None) -> None:
        """Counts one result of `annotate_all`."""
        if line is None:
            self.kept += 1
            return
        if line["error"]:
            self.codes[line["error"].split(":", 1)[0]] += 1
        if not line["caption"]:
            self.failed += 1
            return
        self.captioned += 1
        forged = {name: region for name, region in line["regions"].items() if region["forged"]}
        self.regions.update(forged.keys())
        for region in forged.values():
            self.types.update(region["types"])
        self.unseen += bool(line["fake"]) and not forged

    @property
    def done(self) -> int:
        """Jobs that have been dealt with."""
        return self.kept + self.captioned + self.failed

    def summary(self) -> str:
        """Several lines of text."""
        counts = {
            "regions forged": {name: self.regions[name] for name in REGIONS},
            "types found": {name: self.types[name] for name in TYPES},
            "codes": dict(sorted(self.codes.items())),
        }
        head = (
            f"{self.total} rows: {self.captioned} annotated, {self.kept} already done, "
            f"{self.failed} failed; {self.unseen} fakes without visible forgery"
        )
        parts = [
            f"{title}: " + ", ".join(f"{name} {count}" for name, count in values.items())
            for title, values in counts.items()
            if values
        ]
        return "\n".join([head, *parts])
