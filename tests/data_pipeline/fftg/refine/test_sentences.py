"""Captions of known meaning, and how many of them the check of replies and the scorer judge wrongly."""

from __future__ import annotations

from collections import Counter

import pytest

from jax_vlffd.vocabulary import FAKE, REGIONS, TYPES
from tests.support.known_sentences import figures, read


def test_the_captions_are_sound() -> None:
    splits = [read(f"development{number}") for number in ("", "_2", "_3", "_4")]
    held_out = read("held_out")
    rows = [row for split in (*splits, held_out) for row in split]
    assert [len(split) for split in splits] == [205, 195, 156, 766]
    assert len(held_out) == 200
    assert sum(row["free"] for row in rows) >= 150  # prose, not templates
    groups = [Counter((r["honest"], r["kind"], r["free"]) for r in half) for half in splits[:2]]
    assert all(0 <= groups[0][kind] - groups[1][kind] <= 1 for kind in groups[0] | groups[1])
    for row in rows:
        assert set(row["regions"]) <= set(REGIONS)
        assert all(set(kinds) <= set(TYPES) for kinds in row["regions"].values())
        assert row["label"] == FAKE or not row["regions"]
        assert set(row["named"]) <= set(REGIONS)
        if row["honest"]:  # what is forged is said, and nothing else
            assert set(row["named"]) == set(row["regions"])


@pytest.mark.parametrize(
    ("split", "captions", "refused", "passed", "misread"),
    [
        ("development", 205, 0, 0, 3),
        ("development_2", 195, 0, 0, 4),
        ("development_3", 156, 2, 0, 3),
        ("development_4", 766, 8, 3, 12),
        ("held_out", 200, 3, 0, 6),  # seen: when it was scored first, 26 and 3
    ],
)
def test_no_more_captions_are_judged_wrongly_than_before(
    split: str, captions: int, refused: int, passed: int, misread: int
) -> None:
    counts = figures(split)
    assert counts["honest"]["all"] + counts["violating"]["all"] == captions
    assert counts["refused"]["all"] <= refused
    assert counts["passed"]["all"] <= passed
    assert counts["misread"]["all"] <= misread
