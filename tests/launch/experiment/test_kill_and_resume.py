"""A run that is killed at random moments and started again ends as one that nothing disturbed, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kill_and_resume import IN_A_SAVE, cut_and_kill, kill_and_resume


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, kills=3, seed=3).total() == 3


@pytest.mark.campaign
def test_fifty_kills_at_random_moments_change_nothing(
    tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    hit = kill_and_resume(tmp_path, kills=50, seed=seed)
    record_property("kills", dict(hit))
    assert hit.total() == 50


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.campaign)])
def test_kills_within_saves_leave_a_whole_checkpoint_and_the_same_end(
    tmp_path: Path, kills: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """With one checkpoint kept, and a save after every step."""
    hit = kill_and_resume(tmp_path, kills, seed, in_saves=True)
    record_property("kills", dict(hit))
    assert hit[IN_A_SAVE] == kills


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.campaign)])
def test_a_validation_that_is_cut_and_made_up_never_leaves_the_run_without_a_checkpoint(
    tmp_path: Path, rounds: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """SIGTERM in a validation, kill -9 where it is made up, one checkpoint kept; the end is the same."""
    left = cut_and_kill(tmp_path, rounds, seed)
    record_property("rounds", dict(left))
    assert left["due"] + left["done"] > 0, left
