"""Scores annotations against what is known of the forged regions.

  python -m launch.score_annotations --annotations=annotations.jsonl --truth=pairs.csv

Twice: by the flags, and by the regions that the words of the caption name, so that any captions can
be scored that come as JSON lines with `fake` (or `id`) and `caption`. Without --truth it only
checks that the captions name exactly the regions flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.cli import command

FLAGS = flags.FLAGS
flags.DEFINE_string("annotations", None, "JSON lines, as launch.annotate writes them.")
flags.DEFINE_string("truth", None, "CSV with left_eye,right_eye,nose,mouth or eyes,... (0 or 1).")
flags.DEFINE_string("out", None, "JSON file for the figures; they are printed in any case.")
flags.mark_flag_as_required("annotations")


def main(argv: Sequence[str]) -> None:
    """Scores, prints a table, writes the JSON."""
    del argv
    import json
    from pathlib import Path

    from data_pipeline.core.files import atomic_write_text
    from data_pipeline.core.jsonl import read_lines
    from data_pipeline.fftg.scoring import read_truth, score, words_match

    path = Path(FLAGS.annotations)
    lines = read_lines(path, ("id", "fake"))
    report: dict[str, Any] = {"words_match_flags": words_match(lines)}
    if FLAGS.truth:
        report |= score(lines, read_truth(Path(FLAGS.truth)), path.parent)
    if FLAGS.out:
        atomic_write_text(FLAGS.out, json.dumps(report, indent=2) + "\n")
    _print(report)


def _print(report: dict[str, Any]) -> None:
    from launch.cli import table

    match = report["words_match_flags"]
    if match["captions"]:
        print("{match:.1%} of {captions} captions name the flagged regions".format(**match))
    elif "images" not in report:
        print("no captions with flags")
    if "images" not in report:
        return
    print(
        "{images} images ({refused} refused); {missing} rows without annotation, "
        "{unknown} annotations without truth".format(**report)
    )
    names = ("precision", "recall", "f1")
    for title in ("flags", "words"):
        found = report[title]
        if found is None:
            print(f"{title}: the annotations have none")
            continue
        rows = (
            [name, *(f"{figure[key]:.3f}" for key in names)]
            for name, figure in found.items()
            if isinstance(figure, dict)
        )
        table.show(rows, (title, *names))
        print(f"all regions right in {found['exact']:.1%} of images")


if __name__ == "__main__":
    command.run(main)
