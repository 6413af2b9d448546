"""Packs annotated pairs into a TFDS folder that training and evaluation read.

    python -m launch.pack --annotations=FILE[,FILE] --out=DIR [--split=NAME] [--overwrite]

Every fake is stored once with its captions, regions and mask, every real once; images stay encoded
as they are. The split is the line's own, else --split, else 80/10/10 by a hash that keeps each
person and each video in one split.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
flags.DEFINE_list("annotations", None, "Annotation files (JSON lines), separated by commas.")
flags.DEFINE_string("out", None, "Folder of the packed set.")
flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "Split of the lines that state none."
)
flags.DEFINE_bool("overwrite", False, "Replace a packed set that is already at --out.")
flags.mark_flags_as_required(["annotations", "out"])


def main(argv: Sequence[str]) -> None:
    """Packs and prints the counts."""
    del argv
    from data_pipeline.packing import pack

    with _progress() as progress:
        card = pack(
            [Path(file) for file in FLAGS.annotations],
            Path(FLAGS.out),
            split=FLAGS.split,
            overwrite=FLAGS.overwrite,
            progress=progress,
        )
    _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    for split, content in card["splits"].items():
        print(
            f"{split}: {content['records']} records, {content['real']} real, "
            f"{content['fake']} fake, {content['captions']} captions, {content['masks']} masks"
        )
    for code, count in card["skipped"].items():
        print(f"left out: {count} pairs with the error {code}")
    missing = {"train", "validation", "test"} - set(card["splits"])
    if missing and len(card["splits"]) == 1 and card["split_rule"].startswith("80/10/10"):
        print(
            "note: everything is in one split, because all videos are connected by shared people "
            "or there are too few; state a `split` in the lines or give --split"
        )
    print(f"wrote {card['shards']} shards, {card['bytes']} bytes, to {FLAGS.out}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; otherwise a line at every tenth."""
    if not sys.stderr.isatty():
        yield (
            lambda done, total: (
                print(f"packed {done} of {total}", file=sys.stderr, flush=True)
                if done * 10 // total != (done - 1) * 10 // total
                else None
            )
        )
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("packing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    cli.run(main)
