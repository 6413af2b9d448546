"""Annotates many pairs in parallel processes, in order, and counts the results."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.parallel import ordered_map
from data_pipeline.fftg.annotator import AnnotationTask, Annotator
from data_pipeline.fftg.refine.earlier import EarlierLine, earlier_line
from jax_vlffd.jsonl import JsonLog, identified
from jax_vlffd.vocabulary import REGIONS, TYPES

Line = dict[str, Any]

#: Tasks per chunk, and chunks submitted ahead for each process.
_CHUNK: Final = 16
_AHEAD: Final = 3


def open_annotations(path: Path) -> JsonLog[str, EarlierLine]:
    """Opens an annotation file for appending; its index maps each id to what decides its line.

    The old line of a pair that is annotated again is dropped when the log is finished.

    Raises:
      UserError: another process is writing it, or a line in it is damaged.
    """
    return JsonLog(
        path,
        _parse,
        fault="not an annotation with id; remove the line",
        unique=True,
        dumps=functools.partial(json.dumps, ensure_ascii=False),
    )


def _parse(text: bytes) -> tuple[str, EarlierLine]:
    id_, line = identified(text)
    return id_, earlier_line(line)


def annotate_all(
    annotator: Annotator,
    tasks: Sequence[AnnotationTask],
    done: Mapping[str, EarlierLine],
    workers: int,
) -> Generator[Line | None, None, None]:
    """Annotates pairs and yields their lines in order; None where the earlier line is still valid.

    Args:
      annotator: copied into every process.
      tasks: the pairs to annotate.
      done: the lines of earlier runs, by id.
      workers: number of processes; 1 works in this process.

    Raises:
      UserError: see `Annotator.annotate`; or a process was killed, most likely for memory.
    """
    work = functools.partial(_annotate, annotator)
    arguments = ((task, done.get(task.id)) for task in tasks)
    return ordered_map(work, arguments, workers, chunk=_CHUNK, ahead=_AHEAD)


def _annotate(
    annotator: Annotator, arguments: tuple[AnnotationTask, EarlierLine | None]
) -> Line | None:
    return annotator.annotate(*arguments)


@dataclass
class AnnotationSummary:
    """Counts of a run.

    Attributes:
      total: pairs of this run.
      unchanged: lines of earlier runs that are still valid.
      captioned: new lines with a caption.
      failed: new lines without a caption.
      codes: codes in `error` of new lines.
      regions: forged regions in new lines.
      types: detected types in new lines, once per region.
      hidden: new fakes without visible forgery.
    """

    total: int
    unchanged: int = 0
    captioned: int = 0
    failed: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def add(self, line: Line | None) -> None:
        """Counts one result of `annotate_all`."""
        if line is None:
            self.unchanged += 1
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
        self.hidden += bool(line["fake"]) and not forged

    @property
    def done(self) -> int:
        """Number of pairs processed so far."""
        return self.unchanged + self.captioned + self.failed

    def summary(self) -> str:
        """The counts as text, several lines."""
        counts = {
            "regions forged": {name: self.regions[name] for name in REGIONS},
            "types found": {name: self.types[name] for name in TYPES},
            "codes": dict(sorted(self.codes.items())),
        }
        head = (
            f"{self.total} rows: {self.captioned} annotated, {self.unchanged} already done, "
            f"{self.failed} failed; {self.hidden} fakes without visible forgery"
        )
        parts = [
            f"{title}: " + ", ".join(f"{name} {count}" for name, count in values.items())
            for title, values in counts.items()
            if values
        ]
        return "\n".join([head, *parts])
