"""A run that is killed at random moments and started again ends as one that nothing disturbed, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill_and_resume import kill_and_resume


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Fewer on a machine so slow that twenty take minutes; `python -m tests.kill_and_resume` does more."""
    assert kill_and_resume(tmp_path, kills=20, seed=3, longest=120).total() > 0
