"""A run that is killed at random moments and started again ends as one that nothing disturbed, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kill_and_resume import cut_and_kill, kill_and_resume


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Fewer where twenty would take minutes; `python -m tests.support.kill_and_resume` does more."""
    assert kill_and_resume(tmp_path, kills=20, seed=3, longest=120).total() > 0


def test_a_validation_that_is_cut_and_made_up_never_leaves_the_run_without_a_checkpoint(
    tmp_path: Path,
) -> None:
    """SIGTERM in a validation, kill -9 where it is made up, one checkpoint kept; the end is the same."""
    left = cut_and_kill(tmp_path, rounds=2, seed=3)
    assert left["due"] + left["done"] > 0, left
