"""Scores annotations against ground-truth forged regions.

  python -m launch.score_annotations --annotations=annotations.jsonl --truth=pairs.csv

Flags and captions are scored separately, captions by the regions that their words name. So the captions of any
JSON lines file with `fake` (or `id`) and `caption` can be scored. Without --truth it only checks that the
captions name exactly the flagged regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.cli import command
from launch.cli.outputs import FILE

FLAGS = flags.FLAGS
flags.DEFINE_string("annotations", None, "JSON lines, as launch.annotate writes them.")
flags.DEFINE_string("truth", None, "CSV with left_eye,right_eye,nose,mouth or eyes,... (0 or 1).")
flags.DEFINE_string("out", None, "JSON file to write the metrics to; they are printed as well.")
flags.DEFINE_string(
    "methods", None, "CSV with fake,method: reports how much the types say of the method."
)
flags.mark_flag_as_required("annotations")


def main(argv: Sequence[str]) -> None:
    """Scores, prints a table, writes the JSON."""
    del argv
    import json
    from pathlib import Path

    from data_pipeline.fftg.informativeness import informativeness, methods_of
    from data_pipeline.fftg.scoring import read_truth, score, words_match
    from jax_vlffd.file_writing import atomic_write_text
    from jax_vlffd.jsonl import read_lines

    path = Path(FLAGS.annotations)
    lines = read_lines(path, ("id", "fake"))
    report: dict[str, Any] = {"words_match_flags": words_match(lines)}
    if FLAGS.truth:
        report |= score(lines, read_truth(Path(FLAGS.truth)), path.parent)
    if FLAGS.methods:
        methods = methods_of(lines, Path(FLAGS.methods), path.parent)
        report["types"] = informativeness(lines, methods)
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
    if "types" in report:
        types = report["types"]
        names = tuple(types["methods"]["all"]["shares"])
        rows = (
            [
                name,
                *(f"{values['shares'][key]:.3f}" for key in names),
                f"{values['without_type']:.3f}",
                f"{values['entropy_bits']:.2f}",
            ]
            for name, values in types["methods"].items()
        )
        table.show(rows, ("method", *names, "no type", "entropy"))
        print(f"the types tell {types['mutual_information_bits']:.2f} bits of the method")
    if "images" not in report:
        return
    print(
        "{images} images ({refused} refused); {missing} rows without annotation, "
        "{unknown} annotations without truth".format(**report)
    )
    names = ("precision", "recall", "f1")
    for title in ("flags", "words"):
        metrics = report[title]
        if metrics is None:
            print(f"{title}: not scored, as some annotations have none")
            continue
        rows = (
            [name, *(f"{values[key]:.3f}" for key in names)]
            for name, values in metrics.items()
            if isinstance(values, dict)
        )
        table.show(rows, (title, *names))
        print(f"all regions right in {metrics['exact']:.1%} of images")


if __name__ == "__main__":
    command.run(main, writes={"out": FILE}, reads=["annotations", "truth", "methods"])
