"""Verdicts with reasons for pictures and videos.

  python -m launch.predict --checkpoint=DIR [--out=FILE.jsonl] [--overlay=DIR] [--html=FILE.html] PATH...

PATHs are pictures, videos, folders and globs; --list names a file of further paths. Every face is found,
cropped as in training and judged. The same command again goes on where the first stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "A trained workdir, or an exported folder.", required=True)
flags.DEFINE_string("out", "", "File of JSON lines to write or to go on with.")
flags.DEFINE_string("overlay", "", "Folder for a PNG of each face with its heat maps.")
flags.DEFINE_string("html", "", "File for a self-contained report on all that is given.")
flags.DEFINE_bool(
    "maps", None, "Draw heat maps. Unless given, of a model that learned from forgery masks alone: others' "
    "maps mean nothing.",
)  # fmt: skip
flags.DEFINE_string("list", "", "File of further paths, one a line, relative to its folder.")
flags.DEFINE_bool("crops", False, "The pictures are face crops already, as packed sets hold them.")
flags.DEFINE_integer("frames", 16, "Frames of a video, evenly spaced.", lower_bound=1)
flags.DEFINE_integer(
    "most_frames", 20_000, "Of a video, the first so many frames are looked at.", lower_bound=1
)
flags.DEFINE_integer("batch_size", 32, "Faces that are judged together.", lower_bound=1)
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("smallest", 40, "Smallest face that is judged, in pixels.", lower_bound=1)
flags.DEFINE_integer("size", 256, "Side of a crop in pixels.", lower_bound=16, upper_bound=4096)
flags.DEFINE_float(
    "margin", None, "Width of a crop over that of ArcFace's template. Unless given, faces lie in their crops "
    "as in the model's training; 1.3 where that is not known.", lower_bound=1,
)  # fmt: skip
flags.DEFINE_bool(
    "align", None, "Turn faces upright; --align=false crops without rotation. Unless given, as in the training."
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Judges what the paths name."""
    from data_pipeline.core import discovery
    from jax_vlffd.errors import UserError

    given = [*argv[1:], *(discovery.read_list(Path(FLAGS.list)) if FLAGS.list else [])]
    if not given:
        raise UserError("nothing to look at: give pictures, videos or folders, or a file by --list")
    paths = discovery.find(given)
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
        most_frames=FLAGS.most_frames,
        batch_size=FLAGS.batch_size,
    )


if __name__ == "__main__":
    command.run(main, positional=True)
