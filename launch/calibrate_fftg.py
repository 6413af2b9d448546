"""Fits the annotator's thresholds on forgeries planted over real faces, and writes a report.

  python -m launch.calibrate_fftg --faces=DIR[,DIR] --heldout=DIR[,DIR] --report=docs/fftg_calibration.md

The images of --faces are real faces to fit on, those of --heldout other faces to report on. --videos are real
videos to measure the noise of H.264 on. The report also says how often edits of known regions are identified.
It has the values for `data_pipeline/fftg/measure/thresholds.py`, which this command does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command
from launch.cli.outputs import FILE

FLAGS = flags.FLAGS
flags.DEFINE_list("faces", None, "Folders of real faces to fit on.")
flags.DEFINE_list("heldout", None, "Folders of other real faces, to report on.")
flags.DEFINE_list("videos", [], "Real videos to encode again as H.264 with CRF 40.")
flags.DEFINE_integer(
    "plants", 1500, "Number of forgeries to fit on, and to report on.", lower_bound=50
)
flags.DEFINE_integer("seed", 0, "Seed of all random choices.")
flags.DEFINE_string(
    "report", "docs/fftg_calibration.md", "Markdown file to write; plots go beside it."
)
flags.mark_flags_as_required(["faces", "heldout"])


def main(argv: Sequence[str]) -> None:
    """Fits, measures on held-out faces and writes the report."""
    del argv
    from jax_vlffd.errors import UserError
    from launch.annotation.calibration import TYPES, calibrate, write_report

    faces, heldout, videos = (
        [Path(name) for name in names] for names in (FLAGS.faces, FLAGS.heldout, FLAGS.videos)
    )
    for video in videos:
        if not video.is_file():
            raise UserError(f"--videos: {video} is not a file")
    result = calibrate(faces, heldout, videos, FLAGS.plants, FLAGS.seed)
    print("fitted:", {kind: result.fitted.threshold(kind) for kind in TYPES})
    report = Path(FLAGS.report)
    write_report(report, result)
    print(f"macro F1 on held-out faces: {result.macro_f1:.3f}; {report}")


if __name__ == "__main__":
    command.run(main, writes={"report": FILE}, reads=["faces", "heldout", "videos"])
