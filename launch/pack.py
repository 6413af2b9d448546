"""Packs annotated pairs into a TFDS folder that training and evaluation read.

    python -m launch.pack --annotations=FILE[,FILE] --out=DIR [--split=NAME] [--overwrite]

Every fake is stored once with its captions, regions and mask, every real once; images stay encoded
as they are. The split is the line's own, else --split, else --shares by a hash that keeps each
person and each video in one split. Who is seen follows from the names of videos; where lines have
none, --by_face looks at the faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch.cli import command
from launch.cli.outputs import FOLDER
from launch.cli.progress import note, progress

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "annotations",
    None,
    "Annotation files (JSON lines), separated by commas; one with a comma in double quotes.",
)
flags.DEFINE_string("out", None, "Folder of the packed set.")
flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "Split of the lines that state none."
)
flags.DEFINE_list(
    "shares",
    ["80", "10", "10"],
    "Per cent of train, validation and test, where no split is stated.",
)
flags.DEFINE_bool("by_face", False, "Keep reals that show one face in one split (dlib).")
flags.DEFINE_bool("overwrite", False, "Replace a packed set that is already at --out.")
flags.mark_flags_as_required(["annotations", "out"])


def main(argv: Sequence[str]) -> None:
    """Packs and prints the counts."""
    del argv
    from data_pipeline.packed.builder import pack

    if FLAGS.split:
        command.check_unused(["shares"], "with --split, which takes all lines that state none")
    shares = _shares(FLAGS.shares)
    with progress("packing") as update:
        card = pack(
            [Path(file) for file in FLAGS.annotations],
            Path(FLAGS.out),
            split=FLAGS.split,
            overwrite=FLAGS.overwrite,
            progress=update,
            shares=shares,
            faces=_faces if FLAGS.by_face else None,
            note=note,
        )
    _print_card(card)


def _shares(texts: Sequence[str]) -> tuple[float, ...]:
    from jax_vlffd.errors import UserError

    try:
        shares = tuple(float(text) for text in texts)
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(share >= 0 for share in shares) or abs(sum(shares) - 100) > 1e-6:
        raise UserError(f"--shares={','.join(texts)}: give three numbers that add up to 100")
    return shares


def _faces(pictures: list[Path]) -> Sequence[int]:
    """Groups the reals by face and says what came of it."""
    from data_pipeline.faces.identity import group_by_face

    with progress("comparing faces") as update:
        groups, unknown = group_by_face(pictures, update)
    rest = f"; no face was found in {unknown}, which stay together" if unknown else ""
    note(f"{len(pictures)} reals show {len(set(groups))} faces{rest}")
    return groups


def _print_card(card: dict[str, Any]) -> None:
    for split, content in card["splits"].items():
        print(
            f"{split}: {content['records']} records, {content['real']} real, "
            f"{content['fake']} fake, {content['captions']} captions, {content['masks']} masks"
        )
    for code, count in card["skipped"].items():
        print(f"left out: {count} pairs with the error {code}")
    if unnamed := card["reals_told_by_content"]:
        note(
            f"note: no line names the video of {unnamed} reals, so one person may be in several "
            "splits; --by_face keeps each face in one"
        )
    missing = {"train", "validation", "test"} - set(card["splits"])
    if missing and len(card["splits"]) == 1 and "by a hash" in card["split_rule"]:
        note(
            "note: everything is in one split, because all videos are connected by shared people "
            "or there are too few; state a `split` in the lines or give --split"
        )
    shards = "1 shard" if card["shards"] == 1 else f"{card['shards']} shards"
    print(f"wrote {shards}, {card['bytes']} bytes, to {FLAGS.out}")


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER}, reads=["annotations"])
