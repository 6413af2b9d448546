"""The report: complete, self-contained, escaped, and well-formed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from jax_vlffd.evaluation import calibration, comparison, metrics
from jax_vlffd.evaluation.comparison import EvaluatedDetector
from jax_vlffd.evaluation.scores import Scores, concatenate
from jax_vlffd.reports import evaluation, gallery

HOSTILE = "<script>alert('x')</script>&\"'"
VOID = {"meta", "img", "br"}


def scores(set_name: str = "FF", shift: float = 1.0, seed: int = 0, videos: int = 8) -> Scores:
    rng = np.random.default_rng(seed)
    method = np.repeat(["real", "Deepfakes", HOSTILE], videos * 3)
    label = (method != "real").astype(int)
    logit = rng.normal(size=len(label)) + shift * label
    names = [f"{set_name}-{i}" for i in range(len(label))]
    video = [f"{i // 3:03d}" for i in range(len(label))]
    return Scores(
        dataset=np.full(len(label), set_name),
        split=np.full(len(label), "test"),
        method=method,
        video=video,
        frame=np.tile(["0", "10", "20"], 3 * videos),
        id=names,
        label=label,
        probability=calibration.sigmoid(logit),
        regions=np.repeat(label[:, None], 4, axis=1),
        caption=np.full(len(label), f"The mouth looks blurry. {HOSTILE}"),
        reasons=np.full(len(label), "The lips look blurry."),
    )


def detector(
    name: str, shift: float, trained_on: tuple[str, ...] = (), **extra
) -> EvaluatedDetector:
    table = concatenate([scores("FF", shift, 1), scores("Celeb", shift / 2, 2)])
    fitted = calibration.fit(table.logits(), table.label)
    measured = metrics.evaluate(table, fitted, resamples=50)
    history = [
        {"step": s, "train/loss": 1 / (s + 1), "train/loss_image": 2.0, "validation/auc": s / 100}
        for s in range(0, 90, 10)
    ]
    history.append({"step": 90, "train/loss": float("nan"), "note": "text", "flag": True})
    return EvaluatedDetector(name, table, measured, fitted, history, trained_on, **extra)


class Checker(HTMLParser):
    """Collects tags, and fails on an element that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def html() -> str:
    pair = [
        detector(HOSTILE, 2.0, ("Deepfakes",)),
        detector("image-only", 1.0, ("Deepfakes", HOSTILE)),
    ]
    picture = cv2.imencode(".png", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()
    shown = gallery.galleries(pair, 4, 0, lambda rows: dict.fromkeys(rows[:3], picture))
    points = [{"strength": s, "frame_auc": 0.9 - s / 20, "video_auc": None} for s in range(6)]
    points[5]["frame_auc"] = None
    robustness = {"image-only": {"FF": {"jpeg": points}}}
    facts = {"Split": "test", HOSTILE: HOSTILE}
    return evaluation.render(
        f"Of {HOSTILE}", facts, pair, shown, comparison.matrix(pair), robustness
    )


def test_loads_nothing_and_runs_nothing(html: str) -> None:
    checker = parse(html)
    names = {tag for tag, _ in checker.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in checker.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            own = (
                ("data:", "#") if tag == "use" else "data:"
            )  # marks of a chart, drawn several times
            assert (attributes.get(name) or "data:").startswith(own)
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html.replace("url(#", "")


def test_every_text_is_escaped(html: str) -> None:
    assert "<script" not in html
    texts = "".join(parse(html).words)
    assert texts.count("<script>alert('x')</script>") > 10  # shown as text, all of it


def test_every_section_is_there(html: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "Results", "ROC and reliability", "By method", "Trained on some methods, tested on each",
        "Robustness", "Regions named by the reasons", "Training",
        "Reals that look most like fakes", "Fakes that look most real", "Examples", "Terms",
    ]  # fmt: skip
    assert html.count("data:image/png;base64,") >= 3
    assert "no picture" in html


def test_probabilities_of_several_detectors_are_labeled(html: str) -> None:
    texts = "".join(parse(html).words)
    assert texts.count(f"{HOSTILE}: probability of fake 0.") >= 8
    assert texts.count("image-only: 0.") >= 8
    one = detector("one", 1.0)
    alone = evaluation.render("t", {}, [one], gallery.galleries([one], 2, 0, lambda rows: {}))
    assert "one: probability of fake" not in alone


def test_figures_of_the_report_are_those_of_the_metrics() -> None:
    one = detector("one", 1.5)
    html = evaluation.render("t", {}, [one])
    overall = one.sets["FF"].overall
    low, high = overall.intervals["frame_auc"]
    cell = f"<td>{overall.values['frame_auc']:.3f}<small>{low:.3f}\u2013{high:.3f}</small></td>"
    assert cell in html
    assert f"{overall.counts.frames_real} + {overall.counts.frames_fake}" in html
    assert "Difference from" not in html
    assert "Trained on" not in html


def test_drawings_are_well_formed_and_inside_their_frame(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) >= 13
    for drawing in drawings:
        root = ET.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        numbers = [
            float(n) for path in root.iter("path") for n in re.findall(r"[\d.]+", path.get("d", ""))
        ]
        assert all(0 <= n <= max(width, height) for n in numbers)
        assert "nan" not in drawing


def test_one_class_and_no_calibration_still_give_a_report() -> None:
    table = scores()
    real = table.select(table.label == 0)
    html = evaluation.render("t", {}, [EvaluatedDetector("d", real, metrics.evaluate(real))])
    parse(html)
    assert "no fake frames: AUC, AP and EER are undefined" in html
    assert "ROC over frames" not in html
    assert "By method" not in html
    assert "calibrated" not in html.split("<h2>Terms")[0]


def test_the_worst_come_first_one_frame_a_video() -> None:
    table = scores(videos=6)
    for label, key in ((0, table.probability), (1, -table.probability)):
        rows = gallery.most_wrong(table, label, 4)
        assert len(rows) == 4
        assert (table.label[rows] == label).all()
        assert len(set(table.videos()[rows])) == 4
        assert (np.diff(key[rows]) <= 0).all()
        assert key[rows[0]] == key[table.label == label].max()


def test_the_draw_takes_the_methods_in_turn() -> None:
    table = scores(videos=6)
    rows = gallery.sample(table, 6, seed=1)
    assert sorted(table.method[rows].tolist()) == sorted(["real", "Deepfakes", HOSTILE] * 2)
    assert len(set(table.videos()[rows])) == 6
    assert np.array_equal(rows, gallery.sample(table, 6, seed=1))


def test_matrix_averages_the_runs_of_a_row() -> None:
    runs = [detector(f"s{i}", 1.0 + i / 4, ("Deepfakes",), group="three") for i in range(3)]
    (row,) = comparison.matrix(runs)
    assert (row["name"], row["trained_on"], row["runs"]) == ("three", ["Deepfakes"], 3)
    cell = row["cells"]["FF"]["Deepfakes"]
    each = [run.sets["FF"].methods["Deepfakes"].values["frame_auc"] for run in runs]
    assert cell["frame_auc"] == pytest.approx(np.mean(each))
    assert cell["spread"] == pytest.approx(np.std(each, ddof=1))
    assert cell["interval"][0] < cell["frame_auc"] < cell["interval"][1]
    assert cell["seen"] is True
    assert row["cells"]["Celeb"][HOSTILE]["seen"] is False


def test_matrix_compares_rows_that_were_trained_alike() -> None:
    def row(name: str, shift: float, trained: str) -> list[EvaluatedDetector]:
        return [detector(f"{name}{i}", shift + i / 4, (trained,), group=name) for i in range(2)]

    runs = [*row("three", 1.5, "Deepfakes"), *row("image", 0.5, "Deepfakes"), *row("x", 1, "other")]
    three, image, other = (row["cells"]["FF"]["Deepfakes"] for row in comparison.matrix(runs))
    assert three["difference"] is None
    assert other["difference"] is None
    difference = image["difference"]
    assert difference["value"] == pytest.approx(image["frame_auc"] - three["frame_auc"])
    assert difference["interval"][0] < difference["value"] < difference["interval"][1] < 0
    # The runs saw the same noise: paired, the interval is narrower than those of both terms.
    width = difference["interval"][1] - difference["interval"][0]
    assert width < sum(cell["interval"][1] - cell["interval"][0] for cell in (three, image))
    shown = evaluation.render("t", {}, runs, matrix=comparison.matrix(runs))
    assert f"Δ \u2212{-difference['value']:.3f}" in shown
    html = parse(shown)
    assert html.tags


def test_training_keys_are_grouped_by_what_they_measure() -> None:
    history = [
        {"step": 1, "train/loss": 1.0, "train/loss_fusion": 2.0, "train/images_per_second": 5},
        {"step": 2, "validation/loss": 1.0, "validation/auc": 0.5, "name": "x", "ok": True},
    ]
    assert evaluation.families(history) == {
        "loss": ["train/loss", "train/loss_fusion", "validation/loss"],
        "auc": ["validation/auc"],
        "images": ["train/images_per_second"],
    }
