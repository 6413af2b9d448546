"""Predicts verdicts with reasons for images and videos.

  python -m launch.predict --checkpoint=DIR [--out=FILE.jsonl] [--overlay=DIR] [--html=FILE.html] PATH...

PATHs are images, videos, folders and globs; --list names a file of further paths. Every face is detected,
cropped as in training and classified. The same command again continues where the first stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command
from launch.cli.outputs import FILE, FOLDER

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "A trained workdir, or an exported folder.", required=True)
flags.DEFINE_string("out", "", "JSON lines file to write or to continue.")
flags.DEFINE_string("overlay", "", "Folder for a PNG of each face with its heat maps.")
flags.DEFINE_string("html", "", "File for a self-contained report on all inputs.")
flags.DEFINE_bool(
    "maps", None, "Draw heat maps. By default only for models that learned from forgery masks: the maps of "
    "others are meaningless.",
)  # fmt: skip
flags.DEFINE_string("list", "", "File of further paths, one per line, relative to its folder.")
flags.DEFINE_bool("crops", False, "The inputs are face crops already, as in packed sets.")
flags.DEFINE_integer("frames", 16, "Frames per video, evenly spaced.", lower_bound=1)
flags.DEFINE_integer(
    "most_frames", 20_000, "Use only this many first frames of a video.", lower_bound=1
)
flags.DEFINE_integer("batch_size", 32, "Faces per batch.", lower_bound=1)
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("smallest", 40, "Minimum size of a classified face, in pixels.", lower_bound=1)
flags.DEFINE_integer("size", 256, "Side of a crop in pixels.", lower_bound=16, upper_bound=4096)
flags.DEFINE_float(
    "margin", None, "Width of a crop relative to ArcFace's template. By default faces are placed as in the "
    "model's training, or with 1.3 if that is unknown.", lower_bound=1,
)  # fmt: skip
flags.DEFINE_bool(
    "align", None, "Rotate faces upright; --align=false crops without rotation. By default as in training."
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Classifies the inputs."""
    from collections import Counter

    from data_pipeline.core import discovery
    from jax_vlffd.errors import UserError

    if FLAGS.crops:
        cropping_flags = ("detector", "size", "margin", "align", "smallest")
        command.check_unused(cropping_flags, "with --crops: nothing is detected or cropped")
    if not (FLAGS.overlay or FLAGS.html):
        command.check_unused(["maps"], "without --overlay or --html")
    names: list[str | Path] = [
        *argv[1:],
        *(discovery.read_list(Path(FLAGS.list)) if FLAGS.list else []),
    ]
    if not names:
        raise UserError("no inputs: give images, videos or folders, or a file of paths with --list")
    ignored: Counter[str] = Counter()
    paths = discovery.find_files(names, ignored)
    command.use_compilation_cache()
    from jax_vlffd.inference.detector import Detector
    from launch.prediction import run

    cropping = run.Cropping(FLAGS.detector, FLAGS.size, FLAGS.margin, FLAGS.align, FLAGS.smallest)
    run.predict(
        paths,
        Detector.from_pretrained(FLAGS.checkpoint, batch_size=FLAGS.batch_size),
        None if FLAGS.crops else cropping,
        run.Outputs(FLAGS.out, FLAGS.overlay, FLAGS.html, FLAGS.maps),
        frames=FLAGS.frames,
        max_frames=FLAGS.most_frames,
        batch_size=FLAGS.batch_size,
        ignored=ignored,
    )


if __name__ == "__main__":
    command.run(
        main,
        positional=True,
        writes={"out": FILE, "overlay": FOLDER, "html": FILE},
        reads=["list", "checkpoint"],
    )
