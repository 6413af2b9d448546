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
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.cli import command

if TYPE_CHECKING:
    from data_pipeline.fftg.measure.calibration import Outcome, Quiet
    from data_pipeline.fftg.measure.thresholds import Settings

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
    from data_pipeline.faces.detection import open_detector
    from data_pipeline.fftg.measure import calibration
    from data_pipeline.fftg.measure.thresholds import DEFAULT
    from jax_vlffd.errors import UserError

    for video in FLAGS.videos:
        if not Path(video).is_file():
            raise UserError(f"--videos: {video} is no file")
    face_detector = open_detector("dlib")
    faces = calibration.portraits([Path(name) for name in FLAGS.faces], face_detector)
    others = calibration.portraits([Path(name) for name in FLAGS.heldout], face_detector)
    print(f"{len(faces)} faces to fit on, {len(others)} held out", flush=True)
    plants = list(calibration.plant_all(faces, FLAGS.plants, FLAGS.seed))
    fitted = calibration.fit_types(plants, DEFAULT)
    print("fitted:", {kind: fitted.threshold(kind) for kind in calibration.TYPES}, flush=True)
    alone = calibration.judge(
        list(calibration.plant_all(others, FLAGS.plants, FLAGS.seed + 1)), DEFAULT
    )
    pairs = calibration.judge(
        list(calibration.plant_all(others, FLAGS.plants // 2, FLAGS.seed + 2, together=2)), DEFAULT
    )
    quiet = calibration.measure_noise(calibration.reencoded(others), DEFAULT)
    for video in FLAGS.videos:
        quiet += calibration.measure_noise(
            calibration.encoded_again(Path(video), face_detector), DEFAULT
        )
    report = Path(FLAGS.report)
    _write_plots(report, alone, quiet, DEFAULT)
    from data_pipeline.core.files import atomic_write_text

    counts = {"fit": len(faces), "heldout": len(others)}
    atomic_write_text(report, _report(report, counts, fitted, alone, pairs, quiet))
    print(f"macro F1 on held-out faces: {calibration.figures(alone)['macro']['f1']:.3f}; {report}")


def _write_plots(
    report: Path, outcomes: list[Outcome], quiet: list[list[Quiet]], settings: Settings
) -> None:
    """One plot of each type's scores by what was planted, and one of mask against noise."""
    from data_pipeline.core.files import atomic_write_text
    from data_pipeline.fftg.measure.calibration import TYPES
    from data_pipeline.fftg.measure.forged_regions import region_threshold
    from jax_vlffd.reports.charts import Axis, Series, line_chart, standalone

    for kind in TYPES:
        series = []
        for planted in TYPES:
            values = sorted(
                max(outcome.scores[kind], 0.0) / settings.threshold(kind)
                for outcome in outcomes
                if outcome.plant.types == (planted,) and outcome.scores
            )
            heights = [(i + 1) / len(values) for i in range(len(values))]
            series.append(Series(f"{planted} planted", [min(v, 4.0) for v in values], heights))
        chart = line_chart(
            f"Scores of {kind}",
            series,
            Axis(f"score of {kind} / its threshold", (0.0, 4.0)),
            Axis("share of plants at or below", (0.0, 1.0)),
        )
        atomic_write_text(_plot(report, kind), standalone(chart))
    series = []
    for name in sorted({region.name for pair in quiet for region in pair}):
        points = sorted((r.noise, r.score) for pair in quiet for r in pair if r.name == name)
        # Points only: each is a line of no length, broken off from the next.
        series.append(Series(name, [p[0] for p in points], [p[1] for p in points], marks=True))
    levels = [0.05 * i for i in range(101)]
    line = [255 * region_threshold((level, level), 0.0, settings) for level in levels]
    chart = line_chart(
        "Mask without forgery",
        [_highest(s.name, list(s.x), list(s.y)) for s in series]
        + [Series("threshold", levels, line)],
        Axis("noise of the pair", (0.0, 5.0)),
        Axis("mean of the mask, grey levels (largest per bin)", (0.0, 2.0)),
    )
    atomic_write_text(_plot(report, "mask"), standalone(chart))


def _highest(name: str, x: list[float], y: list[float]) -> Any:
    """The largest value in each bin of a fifth of a unit, as a line."""
    from jax_vlffd.reports.charts import Series

    bins: dict[int, float] = {}
    for at, value in zip(x, y, strict=True):
        bins[int(5 * at)] = max(bins.get(int(5 * at), 0.0), value)
    return Series(name, [0.2 * b + 0.1 for b in sorted(bins)], [bins[b] for b in sorted(bins)])


def _plot(report: Path, name: str) -> Path:
    return report.with_name(f"{report.stem}_{name}.svg")


def _report(
    report: Path,
    counts: dict[str, int],
    fitted: Settings,
    alone: list[Outcome],
    pairs: list[Outcome],
    quiet: list[list[Quiet]],
) -> str:
    from data_pipeline.fftg.measure.calibration import TYPES, confusion, figures
    from data_pipeline.fftg.measure.thresholds import DEFAULT

    rows = [
        "# Calibration of the annotator",
        "",
        f"Written by `launch.calibrate_fftg` (seed {FLAGS.seed}). Forgeries of one type are planted in",
        f"one region of real faces ({counts['fit']} to fit on, {counts['heldout']} others to report on),",
        "at strengths from 0 (just visible) to 1 (plain); a third of the faces is reduced to 90 px, and",
        "half of the fakes is stored as JPEG of quality 75 to 95. No edited or generated picture is used.",
        "",
        "## Thresholds of the types",
        "",
        "| type | fitted here | in use |",
        "| --- | --- | --- |",
    ]
    rows += [f"| {k} | {fitted.threshold(k):g} | {DEFAULT.threshold(k):g} |" for k in TYPES]
    rows += ["", f"## One type planted, {len(alone)} held-out plants, thresholds in use", ""]
    rows += _figure_rows(figures(alone))
    rows += ["", "Share of the plants (rows) in whose region each type is found:", ""]
    rows += _confusion_rows(confusion(alone))
    rows += ["", f"## Two types planted in one region, {len(pairs)} held-out plants", ""]
    rows += _figure_rows(figures(pairs))
    rows += ["", "## Pairs without forgery", "", "| stored as | pairs | with a forged region |"]
    rows += ["| --- | --- | --- |"]
    names = sorted({pair[0].name for pair in quiet})
    for name in names:
        mine = [pair for pair in quiet if pair[0].name == name]
        wrong = sum(any(region.forged for region in pair) for pair in mine)
        rows.append(f"| {name} | {len(mine)} | {wrong} |")
    wrong = sum(any(region.forged for region in pair) for pair in quiet)
    rows.append(f"| all | {len(quiet)} | {wrong} ({wrong / len(quiet):.1%}) |")
    rows += [
        "",
        "The largest mean of the mask at each level of noise, under the threshold in use:",
        "",
    ]
    rows += [f"![mask without forgery]({_plot(report, 'mask').name})", ""]
    rows += [
        "## Distributions of the scores",
        "",
        "A line left of 1 is never found, right of 1 always.",
    ]
    rows += [f"\n![scores of {kind}]({_plot(report, kind).name})" for kind in TYPES]
    return "\n".join(rows) + "\n"


def _figure_rows(found: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| type | precision | recall | F1 |", "| --- | --- | --- | --- |"]
    for kind, row in found.items():
        rows.append(f"| {kind} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} |")
    return rows


def _confusion_rows(table: dict[str, dict[str, float]]) -> list[str]:
    columns = list(next(iter(table.values())))
    rows = ["| planted | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for kind, row in table.items():
        rows.append(f"| {kind} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |")
    return rows


if __name__ == "__main__":
    command.run(main)
