"""Fits the annotator's thresholds on forgeries planted over real faces, and reports on held-out faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.faces.detection import open_detector
from data_pipeline.fftg import calibration
from data_pipeline.fftg.calibration import (
    TYPES,
    Plant,
    PlantResult,
    Portrait,
    UnforgedRegion,
)
from data_pipeline.fftg.measure.forged_regions import region_threshold
from data_pipeline.fftg.measure.thresholds import DEFAULT, AnnotatorSettings
from data_pipeline.fftg.measure.type_thresholds import type_thresholds
from data_pipeline.fftg.region_plants import (
    EDITS,
    NUISANCES,
    OVER_STORING,
    VISIBLE,
    RegionAnswer,
    answers,
    plant_regions,
    region_figures,
)
from data_pipeline.fftg.skin_lightness import recall_by_lightness
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.reports.charts import Axis, Series, line_chart, standalone
from launch.cli.progress import note, track


@dataclass(frozen=True)
class CalibrationResult:
    """The fitted thresholds, and the results on held-out faces.

    Attributes:
      seed: of all random choices.
      faces: number of faces fitted on.
      heldout: number of held-out faces.
      fitted: the settings with fitted thresholds.
      single: held-out plants of one type, annotated with the thresholds in use.
      double: the same with two types in one region.
      unforged: the regions of pairs without forgery, four per pair.
      edited: held-out faces with edits of known regions.
      unedited: held-out faces that were only disturbed in the same ways.
    """

    seed: int
    faces: int
    heldout: int
    fitted: AnnotatorSettings
    single: list[PlantResult]
    double: list[PlantResult]
    unforged: list[list[UnforgedRegion]]
    edited: list[RegionAnswer]
    unedited: list[RegionAnswer]

    @property
    def macro_f1(self) -> float:
        """Of the types on held-out faces, with the thresholds in use; 0 to 1."""
        return calibration.figures(self.single)["macro"]["f1"]


def calibrate(
    faces: Sequence[Path], heldout: Sequence[Path], videos: Sequence[Path], plants: int, seed: int
) -> CalibrationResult:
    """Fits thresholds, and evaluates those in use on held-out plants.

    Args:
      faces: folders of real faces to fit on.
      heldout: folders of other real faces.
      videos: real videos to encode again as H.264, to measure its noise.
      plants: number of forgeries to fit on, and to report on.
      seed: of all random choices.

    Raises:
      UserError: a folder has no faces, or a video cannot be read.
    """
    face_detector = open_detector("dlib")
    fit_faces = calibration.portraits(faces, face_detector)
    test_faces = calibration.portraits(heldout, face_detector)
    note(f"{len(fit_faces)} faces to fit on, {len(test_faces)} held out")

    def plant(
        step: str, faces: Sequence[Portrait], count: int, seed: int, together: int = 1
    ) -> Iterator[Plant]:
        return track(calibration.plant_all(faces, count, seed, together), step, count)

    fitted = calibration.fit_types(list(plant("planting", fit_faces, plants, seed)), DEFAULT)
    single = calibration.annotate_plants(
        plant("annotating one type", test_faces, plants, seed + 1), DEFAULT
    )
    double = calibration.annotate_plants(
        plant("annotating two types", test_faces, plants // 2, seed + 2, 2), DEFAULT
    )
    unforged = calibration.measure_noise(calibration.reencoded(test_faces), DEFAULT)
    for video in videos:
        unforged += calibration.measure_noise(
            calibration.encoded_again(video, face_detector), DEFAULT
        )
    edited, unedited = (
        answers(
            track(plant_regions(test_faces, count, seed + 3, edit), "annotating edits", count),
            DEFAULT,
        )
        for count, edit in ((plants, True), (plants // 2, False))
    )
    return CalibrationResult(
        seed, len(fit_faces), len(test_faces), fitted, single, double, unforged, edited, unedited
    )


def write_report(report: Path, result: CalibrationResult) -> None:
    """Writes the report as Markdown, and its plots (SVG) beside it."""
    _write_plots(report, result.single, result.unforged)
    atomic_write_text(report, _markdown(report, result))


def _write_plots(
    report: Path, outcomes: list[PlantResult], unforged: list[list[UnforgedRegion]]
) -> None:
    """One plot of each type's scores by planted type, and one of the mask against the noise."""
    for kind in TYPES:
        series = []
        for planted in TYPES:
            values = sorted(
                max(outcome.scores[kind], 0.0)
                / type_thresholds(outcome.plant.region, DEFAULT)[kind]
                for outcome in outcomes
                if outcome.plant.types == (planted,) and outcome.scores
            )
            shares = [(i + 1) / len(values) for i in range(len(values))]
            series.append(Series(f"{planted} planted", [min(v, 4.0) for v in values], shares))
        chart = line_chart(
            f"Scores of {kind}",
            series,
            Axis(f"score of {kind} / its threshold", (0.0, 4.0)),
            Axis("share of plants at or below", (0.0, 1.0)),
        )
        atomic_write_text(_plot(report, kind), standalone(chart))
    maxima = []
    for name in sorted({region.name for pair in unforged for region in pair}):
        maxima.append(_bin_maxima(name, [r for pair in unforged for r in pair if r.name == name]))
    levels = [0.05 * i for i in range(101)]
    line = [255 * region_threshold((level, level), 0.0, DEFAULT) for level in levels]
    chart = line_chart(
        "Mask without forgery",
        [*maxima, Series("threshold", levels, line)],
        Axis("noise of the pair", (0.0, 5.0)),
        Axis("mean of the mask, gray levels (largest per bin)", (0.0, 2.0)),
    )
    atomic_write_text(_plot(report, "mask"), standalone(chart))


def _bin_maxima(name: str, regions: list[UnforgedRegion]) -> Series:
    """The maximum score in each bin of 0.2 units of noise, as a line."""
    bins: dict[int, float] = {}
    for region in regions:
        index = int(5 * region.noise)
        bins[index] = max(bins.get(index, 0.0), region.score)
    return Series(name, [0.2 * b + 0.1 for b in sorted(bins)], [bins[b] for b in sorted(bins)])


def _plot(report: Path, name: str) -> Path:
    return report.with_name(f"{report.stem}_{name}.svg")


def _markdown(report: Path, result: CalibrationResult) -> str:
    single, double, unforged = result.single, result.double, result.unforged
    rows = [
        "# Calibration of the annotator",
        "",
        f"Written by `launch.calibrate_fftg` (seed {result.seed}). Forgeries of one type are planted in",
        f"one region of real faces ({result.faces} to fit on, {result.heldout} others to report on),",
        "at strengths from 0 (just visible) to 1 (plain); a third of the faces is reduced to 90 px, and",
        "half of the fakes is stored as JPEG of quality 75 to 95. No edited or generated picture is used.",
        "",
        "## Thresholds of the types",
        "",
        "A type's thresholds are multiples of its setting, chosen on real forgeries too",
        "(`data_pipeline/fftg/measure/type_thresholds.py`).",
        "",
        "| type | setting fitted here | setting in use | threshold on organs | on skin |",
        "| --- | --- | --- | --- | --- |",
    ]
    organs, skin = (type_thresholds(name, DEFAULT) for name in ("mouth", "face"))
    rows += [
        f"| {k} | {result.fitted.threshold(k):g} | {DEFAULT.threshold(k):g} | {organs[k]:.2g} | {skin[k]:.2g} |"
        for k in TYPES
    ]
    rows += ["", f"## One type planted, {len(single)} held-out plants, thresholds in use", ""]
    rows += _figure_rows(calibration.figures(single))
    rows += ["", "Share of the plants (rows) in whose region each type is found:", ""]
    rows += _confusion_rows(calibration.confusion(single))
    rows += ["", "Recall by the mean lightness (CIE L) of the skin, in fifths of these plants:", ""]
    rows += _lightness_rows(single)
    rows += ["", f"## Two types planted in one region, {len(double)} held-out plants", ""]
    rows += _figure_rows(calibration.figures(double))
    rows += ["", "## Pairs without forgery", "", "| stored as | pairs | with a forged region |"]
    rows += ["| --- | --- | --- |"]
    names = sorted({pair[0].name for pair in unforged})
    for name in names:
        pairs = [pair for pair in unforged if pair[0].name == name]
        wrong = sum(any(region.forged for region in pair) for pair in pairs)
        rows.append(f"| {name} | {len(pairs)} | {wrong} |")
    wrong = sum(any(region.forged for region in pair) for pair in unforged)
    rows.append(f"| all | {len(unforged)} | {wrong} ({wrong / len(unforged):.1%}) |")
    rows += [
        "",
        "The largest mean of the mask at each level of noise, under the threshold in use:",
        "",
    ]
    rows += [f"![mask without forgery]({_plot(report, 'mask').name})", ""]
    rows += _region_rows(result)
    rows += [
        "## Distributions of the scores",
        "",
        "A line left of 1 is never found, right of 1 always.",
    ]
    rows += [f"\n![scores of {kind}]({_plot(report, kind).name})" for kind in TYPES]
    return "\n".join(rows) + "\n"


def _region_rows(result: CalibrationResult) -> list[str]:
    figures = region_figures(result.edited)
    rows = [
        f"## Edits of known regions, {len(result.edited)} held-out pairs",
        "",
        "One or two regions are edited with soft borders: another person's organ or skin, another color, a",
        "shift of the content, or a blur. Then the pair is disturbed. An edit counts if the pair differs by",
        f"{VISIBLE:g} gray levels in the inner half of the edited area, and by {OVER_STORING:g} times of what",
        "storing alone changes. The last column counts pairs without an edit with a region called forged.",
        f"F1 over regions {figures['f1']:.3f}, all four regions right {figures['all_right']:.3f}.",
        "",
        f"| all four right | {' | '.join(EDITS)} | all | F1 | no edit |",
        "| --- " * (len(EDITS) + 4) + "|",
    ]
    for name in NUISANCES:
        answered = [answer for answer in result.edited if answer.nuisance == name]
        unedited = [answer for answer in result.unedited if answer.nuisance == name]
        wrong = sum(answer.predicted != frozenset() for answer in unedited)
        figures = region_figures(answered)
        cells = [
            region_figures([answer for answer in answered if answer.edit == edit])["all_right"]
            for edit in EDITS
        ]
        values = [f"{value:.2f}" for value in (*cells, figures["all_right"])]
        row = [name, *values, f"{figures['f1']:.3f}", f"{wrong} of {len(unedited)}"]
        rows.append(f"| {' | '.join(row)} |")
    return [*rows, ""]


def _figure_rows(figured: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| type | precision | recall | F1 |", "| --- | --- | --- | --- |"]
    for kind, row in figured.items():
        rows.append(f"| {kind} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} |")
    return rows


def _lightness_rows(outcomes: list[PlantResult]) -> list[str]:
    rows = ["| lightness | plants | " + " | ".join(TYPES) + " |", "| --- " * (len(TYPES) + 2) + "|"]
    for low, high, count, recall in recall_by_lightness(outcomes):
        cells = " | ".join(f"{recall[kind]:.2f}" for kind in TYPES)
        rows.append(f"| {low:.0f} to {high:.0f} | {count} | {cells} |")
    return rows


def _confusion_rows(table: dict[str, dict[str, float]]) -> list[str]:
    columns = list(next(iter(table.values())))
    rows = ["| planted | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for kind, row in table.items():
        rows.append(f"| {kind} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |")
    return rows
