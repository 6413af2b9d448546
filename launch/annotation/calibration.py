"""Fits the annotator's thresholds on forgeries planted over real faces, and reports on held-out ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.core.files import atomic_write_text
from data_pipeline.faces.detection import open_detector
from data_pipeline.fftg.measure import calibration
from data_pipeline.fftg.measure.calibration import TYPES, Outcome, Plant, Portrait, Quiet
from data_pipeline.fftg.measure.forged_regions import region_threshold
from data_pipeline.fftg.measure.thresholds import DEFAULT, Settings
from jax_vlffd.reports.charts import Axis, Series, line_chart, standalone
from launch.cli.progress import note, track


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found.

    Attributes:
      seed: of all that is random.
      faces: how many were fitted on.
      heldout: how many others were reported on.
      fitted: the settings with fitted thresholds.
      alone: held-out plants of one type, judged by the thresholds in use.
      pairs: the same of two types in one region.
      quiet: the regions of pairs without forgery, four a pair.
    """

    seed: int
    faces: int
    heldout: int
    fitted: Settings
    alone: list[Outcome]
    pairs: list[Outcome]
    quiet: list[list[Quiet]]

    @property
    def macro_f1(self) -> float:
        """On held-out faces, by the thresholds in use."""
        return calibration.figures(self.alone)["macro"]["f1"]


def calibrate(
    faces: Sequence[Path], heldout: Sequence[Path], videos: Sequence[Path], plants: int, seed: int
) -> Calibrated:
    """Fits thresholds, and judges held-out plants by those in use.

    Args:
      faces: folders of real faces to fit on.
      heldout: folders of others.
      videos: real videos to encode again as H.264, for the noise of it.
      plants: forgeries to fit on, and to report on.
      seed: of all that is random.

    Raises:
      UserError: a folder has no faces, or a video cannot be read.
    """
    face_detector = open_detector("dlib")
    own, others = (
        calibration.portraits(faces, face_detector),
        calibration.portraits(heldout, face_detector),
    )
    note(f"{len(own)} faces to fit on, {len(others)} held out")

    def plant(
        work: str, on: Sequence[Portrait], count: int, seed: int, each: int = 1
    ) -> Iterator[Plant]:
        return track(calibration.plant_all(on, count, seed, each), work, count)

    fitted = calibration.fit_types(list(plant("planting", own, plants, seed)), DEFAULT)
    alone = calibration.judge(plant("judging one type", others, plants, seed + 1), DEFAULT)
    pairs = calibration.judge(plant("judging two", others, plants // 2, seed + 2, 2), DEFAULT)
    quiet = calibration.measure_noise(calibration.reencoded(others), DEFAULT)
    for video in videos:
        quiet += calibration.measure_noise(calibration.encoded_again(video, face_detector), DEFAULT)
    return Calibrated(seed, len(own), len(others), fitted, alone, pairs, quiet)


def write_report(report: Path, found: Calibrated) -> None:
    """Writes the report as Markdown, and its plots beside it."""
    _write_plots(report, found.alone, found.quiet)
    atomic_write_text(report, _markdown(report, found))


def _write_plots(report: Path, outcomes: list[Outcome], quiet: list[list[Quiet]]) -> None:
    """One plot of each type's scores by what was planted, and one of mask against noise."""
    for kind in TYPES:
        series = []
        for planted in TYPES:
            values = sorted(
                max(outcome.scores[kind], 0.0) / DEFAULT.threshold(kind)
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
    line = [255 * region_threshold((level, level), 0.0, DEFAULT) for level in levels]
    chart = line_chart(
        "Mask without forgery",
        [_highest(s.name, list(s.x), list(s.y)) for s in series]
        + [Series("threshold", levels, line)],
        Axis("noise of the pair", (0.0, 5.0)),
        Axis("mean of the mask, gray levels (largest per bin)", (0.0, 2.0)),
    )
    atomic_write_text(_plot(report, "mask"), standalone(chart))


def _highest(name: str, x: list[float], y: list[float]) -> Series:
    """The largest value in each bin of a fifth of a unit, as a line."""
    bins: dict[int, float] = {}
    for at, value in zip(x, y, strict=True):
        bins[int(5 * at)] = max(bins.get(int(5 * at), 0.0), value)
    return Series(name, [0.2 * b + 0.1 for b in sorted(bins)], [bins[b] for b in sorted(bins)])


def _plot(report: Path, name: str) -> Path:
    return report.with_name(f"{report.stem}_{name}.svg")


def _markdown(report: Path, found: Calibrated) -> str:
    alone, pairs, quiet = found.alone, found.pairs, found.quiet
    rows = [
        "# Calibration of the annotator",
        "",
        f"Written by `launch.calibrate_fftg` (seed {found.seed}). Forgeries of one type are planted in",
        f"one region of real faces ({found.faces} to fit on, {found.heldout} others to report on),",
        "at strengths from 0 (just visible) to 1 (plain); a third of the faces is reduced to 90 px, and",
        "half of the fakes is stored as JPEG of quality 75 to 95. No edited or generated picture is used.",
        "",
        "## Thresholds of the types",
        "",
        "| type | fitted here | in use |",
        "| --- | --- | --- |",
    ]
    rows += [f"| {k} | {found.fitted.threshold(k):g} | {DEFAULT.threshold(k):g} |" for k in TYPES]
    rows += ["", f"## One type planted, {len(alone)} held-out plants, thresholds in use", ""]
    rows += _figure_rows(calibration.figures(alone))
    rows += ["", "Share of the plants (rows) in whose region each type is found:", ""]
    rows += _confusion_rows(calibration.confusion(alone))
    rows += ["", f"## Two types planted in one region, {len(pairs)} held-out plants", ""]
    rows += _figure_rows(calibration.figures(pairs))
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


def _figure_rows(figured: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| type | precision | recall | F1 |", "| --- | --- | --- | --- |"]
    for kind, row in figured.items():
        rows.append(f"| {kind} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} |")
    return rows


def _confusion_rows(table: dict[str, dict[str, float]]) -> list[str]:
    columns = list(next(iter(table.values())))
    rows = ["| planted | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for kind, row in table.items():
        rows.append(f"| {kind} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |")
    return rows
