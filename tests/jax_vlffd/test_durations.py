"""Durations in steps, epochs, examples and shares of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_vlffd.config import in_steps
from jax_vlffd.errors import UserError


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("300 steps", 300),
        ("1 step", 1),
        ("2.5 epochs", 25),
        ("1epoch", 10),
        ("1e3 examples", 100),
        ("1 example", 1),
        ("5%", 10),
        ("0.1%", 1),
        ("0 epochs", 0),
        ("", 0),
    ],
)
def test_a_duration_in_steps(duration: str, steps: int) -> None:
    assert in_steps(duration, batch_size=10, examples_per_epoch=100, total=200) == steps


@pytest.mark.parametrize("duration", ["5", "five steps", "-1 steps", "1.2.3 steps", "3 weeks", "%"])
def test_a_wrong_duration_shows_right_ones(duration: str) -> None:
    with pytest.raises(UserError, match=r"must be like '300 steps', '2.5 epochs'.* or '5%'"):
        in_steps(duration, batch_size=10, examples_per_epoch=100, total=200)


def test_a_share_needs_something_to_be_a_share_of() -> None:
    with pytest.raises(UserError, match="duration '5%' must be like"):
        in_steps("5%", batch_size=10, examples_per_epoch=100)


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10**6))
def test_durations_agree_with_each_other(count: int, batch: int, epoch: int) -> None:
    def steps(text: str) -> int:
        return in_steps(text, batch_size=batch, examples_per_epoch=epoch)

    assert steps(f"{count} steps") == count
    assert steps("1 epochs") == steps(f"{epoch} examples") >= 1
    assert abs(steps(f"{count * batch} examples") - count) == 0
