"""Temperature, threshold and the band of 'uncertain'."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_vlffd.errors import UserError
from jax_vlffd.evaluation import calibration
from jax_vlffd.evaluation.calibration import Calibration


def sample(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated once divided by `temperature`."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(scale=2.0, size=n)
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return logit * temperature, label


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_recovered(temperature: float) -> None:
    logits, labels = sample(20_000, temperature)
    fitted = calibration.fit(logits, labels)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    before = calibration.expected_calibration_error(calibration.sigmoid(logits), labels)
    after = calibration.expected_calibration_error(fitted.probability(logits), labels)
    assert after < 0.015
    if temperature != 1.0:
        assert after < before / 3


def test_no_other_temperature_is_better() -> None:
    logits, labels = sample(500, 2.5, seed=3)
    positives, negatives = labels.sum(), (1 - labels).sum()
    goal = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(temperature: float) -> float:
        z = logits / temperature
        return float(np.mean(np.logaddexp(0, z) - goal * z))

    best = calibration.fit_temperature(logits, labels)
    grid = np.geomspace(0.1, 50, 400)
    assert loss(best) <= min(map(loss, grid)) + 1e-9


def test_a_perfect_detector_gets_a_finite_calibration() -> None:
    logits = np.r_[np.linspace(-3, -1, 50), np.linspace(1, 3, 50)]
    labels = np.r_[np.zeros(50, int), np.ones(50, int)]
    fitted = calibration.fit(logits, labels)
    assert 0.01 < fitted.temperature < 100
    assert fitted.low == fitted.threshold == fitted.high == pytest.approx(0.5)
    assert [fitted.verdict(p) for p in fitted.probability([-1.0, 1.0])] == ["real", "fake"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-6, 6)), min_size=2, max_size=80).filter(
        lambda rows: 0 < sum(y for y, _ in rows) < len(rows)
    ),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_band_bounds_both_error_rates(rows: list[tuple[int, int]], target: float) -> None:
    labels = np.array([y for y, _ in rows])
    logits = np.array([z for _, z in rows], dtype=float)
    fitted = calibration.fit(logits, labels, target)
    probability = fitted.probability(logits)
    assert 0 <= fitted.low <= fitted.threshold <= fitted.high <= 1
    assert np.mean(probability[labels == 0] > fitted.high) <= target
    assert np.mean(probability[labels == 1] < fitted.low) <= target


def test_the_threshold_is_the_point_of_equal_error() -> None:
    logits, labels = sample(5000, 1.0)
    logits = logits + 1.5  # a bias, as on data of another kind: 0.5 is no longer neutral
    fitted = calibration.fit(logits, labels)
    fake = fitted.probability(logits) > fitted.threshold
    assert np.mean(fake[labels == 0]) == pytest.approx(np.mean(~fake[labels == 1]), abs=2e-3)
    assert fitted.threshold > 0.6


def test_verdicts() -> None:
    band = Calibration(low=0.3, threshold=0.5, high=0.8)
    assert [band.verdict(p) for p in (0.1, 0.3, 0.6, 0.8, 0.9)] == [
        "real", "uncertain", "uncertain", "uncertain", "fake",
    ]  # fmt: skip


def test_json_round_trip_and_refusals() -> None:
    fitted = calibration.fit(*sample(300, 2.0))
    assert Calibration.from_json(fitted.to_json(), "c.json") == fitted
    good = json.loads(fitted.to_json())
    for bad in (
        "{", "[]", "{}", "[" * 100_000,
        json.dumps({**good, "version": 2}),
        json.dumps({**good, "temperature": "1"}),
        json.dumps({**good, "temperature": -1}),
        json.dumps({**good, "low": 0.99, "threshold": 0.1}),
        json.dumps({k: v for k, v in good.items() if k != "low"}),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"^c\.json: "):
            Calibration.from_json(bad, "c.json")


@pytest.mark.parametrize(
    ("logits", "labels", "target", "message"),
    [
        ([0.0, 1.0], [1, 1], 0.05, "one class only"),
        ([0.0, np.inf], [0, 1], 0.05, "not finite"),
        ([0.0, 1.0], [0, 1], 0.7, "between 0 and 0.5"),
    ],
)
def test_unfittable_input_is_refused(logits, labels, target: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibration.fit(np.array(logits), np.array(labels), target)


def test_reliability_by_hand() -> None:
    probability = np.array([0.1, 0.15, 0.9, 1.0, 0.95])
    labels = np.array([0, 1, 1, 1, 0])
    curve = calibration.reliability_curve(probability, labels, bins=2)
    assert curve.frames.tolist() == [2, 3]
    assert curve.probability == pytest.approx([0.125, 0.95])
    assert curve.fakes == pytest.approx([0.5, 2 / 3])
    ece = calibration.expected_calibration_error(probability, labels, bins=2)
    assert ece == pytest.approx(2 / 5 * 0.375 + 3 / 5 * (0.95 - 2 / 3))
    assert np.isnan(calibration.reliability_curve(probability, labels, bins=15).fakes).any()


def test_sigmoid_neither_overflows_nor_loses_small_values() -> None:
    with np.errstate(all="raise", under="ignore"):
        values = calibration.sigmoid(np.array([-800.0, -50.0, 0.0, 50.0, 800.0]))
    assert values[1] == pytest.approx(np.exp(-50.0), rel=1e-12)
    assert values.tolist()[2:] == [0.5, 1.0, 1.0]


# --- Platt scaling ---


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=6, max_size=60))
def test_no_other_curve_is_better(rows: list[tuple[bool, int]]) -> None:
    raw = np.array([x for _, x in rows], dtype=float)
    truth = np.array([y for y, _ in rows])
    if not 0 < truth.sum() < len(truth) or not raw.std():
        return
    positives, negatives = truth.sum(), (~truth).sum()
    goal = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(slope: float, offset: float) -> float:
        z = slope * raw + offset
        return float(np.sum(np.logaddexp(0, z) - goal * z) + (slope * raw.std()) ** 2 / 2)

    slope, offset = calibration.fit_logistic(raw, truth)
    best = loss(slope, offset)
    for step in (1e-2, -1e-2):
        assert best <= loss(slope, offset + step)
        assert best <= loss(max(slope + step, 0.0), offset - step * raw.mean()) + 1e-9


def test_a_negative_slope_is_set_to_zero() -> None:
    """A score that is lower where the attribute holds is no evidence for it."""
    raw = np.linspace(-1, 1, 40)
    slope, offset = calibration.fit_logistic(raw, raw < 0.2)
    assert slope == 0
    assert calibration.sigmoid(offset) == pytest.approx(np.mean(raw < 0.2), abs=0.02)


def test_the_curve_gives_back_the_odds_it_was_drawn_from() -> None:
    rng = np.random.default_rng(1)
    raw = rng.normal(0.3, 0.05, 20_000)
    truth = rng.random(20_000) < calibration.sigmoid(40 * (raw - 0.32))
    slope, offset = calibration.fit_logistic(raw, truth)
    assert slope == pytest.approx(40, rel=0.05)
    assert -offset / slope == pytest.approx(0.32, abs=0.002)
    separated = np.r_[np.zeros(10), np.ones(10)]
    slope, _ = calibration.fit_logistic(separated, separated > 0.5)
    assert 0 < slope < 50


def test_the_threshold_gives_the_best_f1() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        score = rng.integers(0, 8, 25) / 8
        truth = rng.random(25) < score
        if not truth.any():
            continue

        def f1(threshold: float, score: np.ndarray = score, truth: np.ndarray = truth) -> float:
            named = score >= threshold
            return 2 * (named & truth).sum() / (named.sum() + truth.sum())

        best = max(f1(threshold) for threshold in np.unique(score))
        assert f1(calibration.best_threshold(score, truth)) == pytest.approx(best)


def test_the_false_positive_rate_on_reals_is_bounded() -> None:
    """However good the F1 of naming everything would be."""
    rng = np.random.default_rng(5)
    truth = rng.random(1000) < 0.6
    raw = rng.normal(size=1000) + 0.3 * truth
    reals = ~truth & (rng.random(1000) < 0.5)
    loose, strict = calibration.fit_platt(raw, truth), calibration.fit_platt(raw, truth, reals, 0.1)
    assert np.mean(loose.score(raw[reals]) >= loose.threshold) > 0.5
    assert np.mean(strict.score(raw[reals]) >= strict.threshold) <= 0.1
