"""Crops the faces of a data set as it lies on disk, a fake as its real.

  python -m launch.prepare --dataset=faceforensics --root=DIR --out=DIR [--compression=c23]
  python -m launch.prepare --dataset=deepfakebench --root=DIR --json=FF-DF.json --out=DIR
  python -m launch.prepare --dataset=folder --root=DIR --out=DIR

Writes crops and landmarks in DeepfakeBench's layout, its JSON, and pairs.csv for launch.annotate.
The same command again goes on where the first stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from absl import flags

from launch.cli import command
from launch.cli.flags import shard
from launch.cli.outputs import FOLDER
from launch.cli.progress import note, progress

if TYPE_CHECKING:
    from data_pipeline.datasets import Collection

#: Spelled out, because importing the adapters would slow --help; a test compares.
_DATASETS: Final = (
    *("faceforensics", "dfd", "deepfakebench", "celeb_df_v1", "celeb_df_v2", "celeb_df_pp"),
    *("dfdc", "dfdc_preview", "wild_deepfake", "ffiw", "uadfv", "df40", "folder"),
)

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", None, _DATASETS, "What lies at --root.")
flags.DEFINE_string("root", None, "Folder of the data set, or a JSON of DeepfakeBench.")
flags.DEFINE_string("out", None, "Folder to write or to go on with.")
flags.DEFINE_string("json", None, "DeepfakeBench's JSON; its frames are sought under --root.")
flags.DEFINE_enum(
    "compression", None, ["raw", "c23", "c40"], "Of the FaceForensics++ family; c23 unless given."
)
flags.DEFINE_list("methods", None, "Forgery methods to take, with their reals; all unless given.")
flags.DEFINE_integer("frames", 32, "Frames of each video, evenly spaced.", lower_bound=1)
flags.DEFINE_integer("size", 256, "Side of a crop in pixels.", lower_bound=16, upper_bound=4096)
flags.DEFINE_float("margin", 1.3, "Width of a crop over that of ArcFace's template.", lower_bound=1)
flags.DEFINE_bool("align", True, "Turn faces upright; --align=false crops without rotation.")
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes.", lower_bound=1)
flags.DEFINE_string(
    "shard", "0/1", "i/n: do every n-th real with its fakes, beginning with the i-th."
)
flags.mark_flags_as_required(["dataset", "root", "out"])


def main(argv: Sequence[str]) -> None:
    """Prepares, writes the tables and prints the summary."""
    del argv
    from pathlib import Path

    from data_pipeline.faces.alignment import CropSettings
    from data_pipeline.preparation import store
    from data_pipeline.preparation.runner import Preparer, prepare_all, video_groups
    from jax_vlffd.errors import UserError

    own = shard(FLAGS.shard)
    started = time.monotonic()
    collection = _collection()
    for text in collection.notes:
        note(f"note: {text}")
    for reason, count in collection.left_out.items():
        note(f"left out: {count} ({reason})")
    out = Path(FLAGS.out)
    inputs = [Path(name) for name in (FLAGS.root, FLAGS.json) if name]
    store.check_out(out, inputs, collection.videos)
    compression = collection.videos[0].compression if collection.videos else ""
    store.check_settings(
        out,
        {"dataset": FLAGS.dataset, "compression": compression, "frames": FLAGS.frames}
        | {"size": FLAGS.size, "margin": FLAGS.margin, "align": FLAGS.align}
        | {"detector": FLAGS.detector},
    )
    settings = CropSettings(FLAGS.size, FLAGS.margin, FLAGS.align)
    preparer = Preparer(out, FLAGS.frames, settings, FLAGS.detector)
    every = video_groups(collection.videos)
    todo = every[own]
    total = sum(len(group.videos) for group in todo)
    done = crops = failed = 0
    work = prepare_all(preparer, todo, FLAGS.workers)
    with progress("preparing") as update, contextlib.closing(work) as groups:
        for prepared in groups:
            done += len(prepared)
            crops += sum(len(outcome.frames) for outcome in prepared)
            failed += sum(bool(outcome.failed) for outcome in prepared)
            update(done, total, f"{crops} crops, {failed} failed")
    videos = [video for group in every for video in group.videos]
    outcomes, rows = store.write_all(out, videos)
    print(store.summary(videos, outcomes, collection.expected))
    missing = len(videos) - len(outcomes)
    if missing:
        print(f"{missing} of {len(videos)} videos are left to other shards; the tables are partial")
    if not rows and not missing:
        raise UserError(f"no frame of --root={FLAGS.root} could be prepared; the reasons are above")
    print(f"wrote {rows} rows to {out / 'pairs.csv'} in {time.monotonic() - started:.0f} s")


def _collection() -> Collection:
    """The videos that the flags ask for."""
    from dataclasses import replace
    from pathlib import Path

    from data_pipeline import datasets
    from data_pipeline.datasets import deepfakebench
    from jax_vlffd.errors import UserError

    root = Path(FLAGS.root)
    compression = FLAGS.compression or "c23"
    if FLAGS.json and FLAGS.dataset != "deepfakebench":
        raise UserError("--json goes with --dataset=deepfakebench only")
    if FLAGS.json:
        collection = deepfakebench.read(Path(FLAGS.json), root, compression)
    elif FLAGS.dataset in datasets.COMPRESSED:
        collection = datasets.COMPRESSED[FLAGS.dataset](root, compression)
    elif FLAGS.compression:
        raise UserError(f"--compression means nothing for --dataset={FLAGS.dataset}; leave it out")
    else:
        collection = datasets.PLAIN[FLAGS.dataset](root)
    if FLAGS.methods is None:
        return collection
    methods = {video.method for video in collection.videos if video.label}
    unknown = [name for name in FLAGS.methods if name not in methods]
    if unknown:
        raise UserError(
            f"--methods: '{unknown[0]}' is not there; found: {', '.join(sorted(methods))}"
        )
    fakes = [video for video in collection.videos if video.label and video.method in FLAGS.methods]
    sets = {video.dataset for video in fakes}
    reals = [video for video in collection.videos if not video.label and video.dataset in sets]
    wanted = {(name, method) for name in sets for method in (*FLAGS.methods, "real")}
    expected = {key: count for key, count in collection.expected.items() if key in wanted}
    return replace(collection, videos=(*reals, *fakes), expected=expected)


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER}, reads=["root", "json"])
