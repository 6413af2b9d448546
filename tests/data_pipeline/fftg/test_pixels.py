"""The fast operations on pixel maps agree with the plain ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.fftg.measure import pixels


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1))
def test_quantile_orders(count: int, share: float) -> None:
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    quantile = pixels.quantile(values, share)
    assert (values < quantile).sum() <= share * count
    assert (values <= quantile).sum() >= min(share * count, count)


@pytest.mark.parametrize("count", [0, 5, 4000, 9001])
def test_thinned_keeps_order_and_enough(count: int) -> None:
    indices = pixels.thinned(np.arange(count))
    assert min(count, pixels.SAMPLES / 2) <= len(indices) <= pixels.SAMPLES
    assert (np.diff(indices) > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5))
def test_box_holds_every_pixel_and_no_more_than_the_margin(seed: int, margin: int) -> None:
    rng = np.random.default_rng(seed)
    where = np.zeros((20, 30), bool)
    where[rng.integers(20, size=3), rng.integers(30, size=3)] = True
    rows, columns = pixels.box_of(where, margin)
    assert where[rows, columns].sum() == where.sum()
    y, x = np.nonzero(where)
    assert (rows.start, columns.start) == (max(y.min() - margin, 0), max(x.min() - margin, 0))
    assert (rows.stop, columns.stop) == (y.max() + 1 + margin, x.max() + 1 + margin)


def test_largest_channel_and_mean_over_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    top = pixels.maximum(pixels.channels(image))
    np.testing.assert_array_equal(top, image.max(axis=2))
    inner = pixels.averaged(top, 5)[10, 10]
    assert inner == np.float32(top[8:13, 8:13].mean())


def test_mean_within_a_map() -> None:
    rng = np.random.default_rng(0)
    values, where = rng.random((20, 30), np.float32), rng.random((20, 30)) < 0.3
    mean = pixels.mean_within(values, pixels.as_bytes(where))
    assert mean == pytest.approx(values[where].mean(dtype=np.float64))
    assert pixels.mean_within(values, np.zeros((20, 30), np.uint8)) == 0.0
