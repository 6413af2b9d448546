"""Intervals cover the true value up to a perfect detector, and behave as intervals must."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import intervals as simulation
from benchmarks.intervals import Cell
from jax_vlffd.evaluation import bootstrap, comparison, intervals, metrics
from jax_vlffd.evaluation.metrics import SetMetrics
from jax_vlffd.evaluation.scores import Scores


@pytest.mark.parametrize(
    "cell",
    [Cell(0.9, 20), Cell(0.99, 10), Cell(0.99, 20, 8, 0.8), Cell(0.998, 10), Cell(0.998, 50, 8, 0.3)],
    ids=str,
)  # fmt: skip
def test_intervals_of_an_area_cover_it(cell: Cell) -> None:
    assert simulation.coverage(cell, 150, seed=1)["product"]["coverage"] >= 0.93


def test_the_simulation_sees_that_percentiles_do_not_cover() -> None:
    simulated = simulation.coverage(Cell(0.99, 10), 100, seed=1, compared=True)
    assert simulated["percentile"]["coverage"] < 0.7
    assert simulated["delong_logit"]["coverage"] < 0.7


@pytest.mark.campaign
@pytest.mark.parametrize("cell", list(simulation.cells(["normal"])), ids=str)
def test_intervals_cover_and_are_not_wide(cell: Cell) -> None:
    simulated = simulation.coverage(cell, 2000, seed=2, compared=True)
    assert simulated["product"]["coverage"] >= 0.93
    covering = [figures["width"] for figures in simulated.values() if figures["coverage"] >= 0.93]
    if cell.auc < 0.995 and cell.videos >= 20:
        assert simulated["product"]["width"] <= 1.5 * min(covering)


clustered = st.integers(2, 6).flatmap(
    lambda videos: st.lists(
        st.lists(st.integers(0, 12), min_size=1, max_size=4),
        min_size=2 * videos, max_size=2 * videos,
    )
)  # fmt: skip


def flat(videos: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and videos of frames; the second half of the videos are fakes."""
    number = np.repeat(np.arange(len(videos)), [len(frames) for frames in videos])
    return (number >= len(videos) // 2).astype(int), np.concatenate(videos).astype(float), number


@settings(max_examples=60, deadline=None)
@given(clustered)
def test_an_interval_holds_the_estimate_and_is_never_a_point(videos: list[list[int]]) -> None:
    labels, scores, number = flat(videos)
    estimate = np.mean(np.sign(scores[labels == 1][:, None] - scores[labels == 0]) + 1) / 2
    low, high = intervals.area(labels, scores, number)
    assert 0 <= low <= estimate <= high <= 1
    assert high - low > 0.01
    assert intervals.area(labels, -scores, number) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert intervals.area(1 - labels, -scores, number) == pytest.approx((low, high), abs=1e-9)
    assert intervals.area(labels, scores**3, number) == pytest.approx((low, high), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(clustered, st.integers(2, 5))
def test_copies_of_frames_add_nothing_and_copies_of_videos_do(
    videos: list[list[int]], copies: int
) -> None:
    single = [frames[:1] for frames in videos]
    low, high = intervals.area(*flat(single))
    repeated = intervals.area(*flat([frames * copies for frames in single]))
    assert repeated == pytest.approx((low, high), abs=1e-6)
    half = len(single) // 2
    low_more, high_more = intervals.area(*flat(single[:half] * copies + single[half:] * copies))
    assert high_more - low_more < high - low


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.1), st.floats(2, 1000))
def test_an_interval_of_a_rate_holds_it(rate: float, variance: float, frames: float) -> None:
    low, high = intervals.rate(rate, variance, frames)
    assert 0 <= low <= rate <= high <= 1
    assert high - low > 1e-3


def test_wilson_by_hand() -> None:
    z = intervals.Z
    low, high = intervals.rate(0.9, 0.0, 50)
    center, half = (0.9 + z**2 / 100) / (1 + z**2 / 50), z * np.sqrt(0.09 / 50 + (z / 100) ** 2)
    half /= 1 + z**2 / 50
    assert (low, high) == pytest.approx((center - half, center + half), abs=1e-9)


def test_a_sum_of_independent_terms_adds_squares_and_a_difference_cancels() -> None:
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(2, 100_000))
    bounds = [(0.8, 0.95), (0.8, 0.95)]
    low, high = intervals.combination([0.5, 0.5], [0.9, 0.9], bounds, [same, other])
    assert (low, high) == pytest.approx((0.9 - 0.1 / 2**0.5, 0.9 + 0.05 / 2**0.5), abs=2e-3)
    low, high = intervals.combination([1, -1], [0.9, 0.8], [(0.85, 0.95), (0.75, 0.85)], [same] * 2)
    assert (low, high) == pytest.approx((0.1, 0.1), abs=1e-6)
    low, high = intervals.combination([1, -1], [1, 1], [(0.9, 1), (0.9, 1)], [np.ones(5)] * 2)
    assert (low, high) == pytest.approx((-0.1, 0.1))


def separated(videos: int = 10, frames: int = 3, names: str = "v", **changes: object) -> Scores:
    """Scores of a perfect detector."""
    label = np.repeat([0, 1], videos * frames)
    count = len(label)
    values = {
        "dataset": np.full(count, "d"), "split": np.full(count, "test"),
        "method": np.array(["real", "fake"])[label], "frame": np.tile(np.arange(frames), 2 * videos),
        "video": [f"{names}{n}" for n in np.repeat(np.arange(2 * videos), frames)],
        "id": [f"{names}/{n}" for n in range(count)], "label": label,
        "probability": np.linspace(0, 1, count) * 0.4 + 0.6 * label,
    }  # fmt: skip
    return Scores(**(values | changes))


def test_a_perfect_detector_has_intervals_that_are_not_points() -> None:
    measured = metrics.measure(separated(), resamples=100)
    for name in ("frame_auc", "video_auc", "acc"):
        low, high = measured.intervals[name]
        assert (measured.values[name], high) == (1.0, 1.0)
        assert 0.5 < low < 0.95, name
    low, high = measured.intervals["eer"]
    assert low == 0 < 0.05 < high < 0.5
    again = metrics.measure(separated(probability=separated().probability ** 2), resamples=100)
    low, high = comparison.differences(measured, again)["frame_auc"]["interval"]
    assert low < -0.05 < 0.05 < high


def test_frames_without_videos_are_paired_by_their_ids() -> None:
    blank = np.full(60, "")
    one, same, other = (
        metrics.measure(separated(video=blank, names=names), resamples=20) for names in "aab"
    )
    unknown = metrics.measure(separated(video=blank, id=blank), resamples=20)
    assert "interval" in comparison.differences(one, same)["ap"]
    for second in (other, unknown):
        assert "interval" not in comparison.differences(one, second)["ap"]
    assert "interval" not in comparison.differences(unknown, unknown)["ap"]


def test_detectors_of_unknown_methods_are_not_compared_as_trained_alike() -> None:
    measured = metrics.measure(separated(), resamples=20)

    def row(name: str, trained_on: tuple[str, ...]) -> comparison.EvaluatedDetector:
        sets = {"d": SetMetrics(measured, {"fake": measured})}
        return comparison.EvaluatedDetector(name, separated(), sets, trained_on=trained_on)

    rows = comparison.matrix([row("a", ()), row("b", ()), row("c", ("x",)), row("d", ("x",))])
    compared = [line["cells"]["d"]["fake"]["difference"] is not None for line in rows]
    assert compared == [False, False, False, True]


def test_memory_of_resampling_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_MAX_DRAWN", 200_000)  # 1.6 MB
    monkeypatch.setattr(bootstrap, "_CHUNK", 50_000)
    labels = np.repeat([0, 1], 3000)
    scores = np.random.default_rng(0).random(6000)
    tracemalloc.start()
    try:
        values = bootstrap.replicates(labels, scores, np.arange(6000), labels, 200, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(len(value) == 200 for value in values.values())
    assert len(np.unique(values["frame_auc"])) > 150
    assert peak < 6e6  # all weights at once are 9.6 MB
