"""Fits the annotator's thresholds on forgeries planted over real faces, and writes a report.

  python -m launch.calibrate_fftg --faces=DIR[,DIR] --heldout=DIR[,DIR]
  --report=docs/fftg_calibration.md

The pictures of --faces are real faces to fit on, those of --heldout others to report on. --videos
are real videos to measure the noise of H.264 on. The report names the
values for `data_pipeline/fftg/measure/thresholds.py`; nothing is changed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command

FLAGS = flags.FLAGS
flags.DEFINE_list("faces", None, "Folders of real faces to fit on.")
flags.DEFINE_list("heldout", None, "Folders of other real faces, to report on.")
flags.DEFINE_list("videos", [], "Real videos to encode again as H.264 with crf 40.")
flags.DEFINE_integer("plants", 1500, "Forgeries to fit on, and to report on.", lower_bound=50)
flags.DEFINE_integer("seed", 0, "Of all that is random.")
flags.DEFINE_string("report", "docs/fftg_calibration.md", "Markdown file; plots go beside it.")
flags.mark_flags_as_required(["faces", "heldout"])


def main(argv: Sequence[str]) -> None:
    """Fits, measures on held-out faces and writes the report."""
    del argv
    from jax_vlffd.errors import UserError
    from launch.annotation.calibration import TYPES, calibrate, write_report

    faces, heldout, videos = (
        [Path(p) for p in f] for f in (FLAGS.faces, FLAGS.heldout, FLAGS.videos)
    )
    for video in videos:
        if not video.is_file():
            raise UserError(f"--videos: {video} is not a file")
    found = calibrate(faces, heldout, videos, FLAGS.plants, FLAGS.seed)
    print("fitted:", {kind: found.fitted.threshold(kind) for kind in TYPES})
    report = Path(FLAGS.report)
    write_report(report, found)
    print(f"macro F1 on held-out faces: {found.macro_f1:.3f}; {report}")


if __name__ == "__main__":
    command.run(main)
