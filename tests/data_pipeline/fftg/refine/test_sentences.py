"""Captions of known meaning, and how many of them the check of replies and the scorer judge wrongly."""

from __future__ import annotations

from collections import Counter

from jax_vlffd.vocabulary import FAKE, REGIONS, TYPES
from tests.support.known_sentences import figures, read


def test_the_captions_are_sound_and_half_of_each_kind_is_held_out() -> None:
    development, held_out = read("development"), read("held_out")
    rows = development + held_out
    assert len(rows) == 400
    assert sum(row["honest"] for row in rows) == 200
    assert sum(row["free"] for row in rows) >= 150  # prose, not templates
    groups = [
        Counter((r["honest"], r["kind"], r["free"]) for r in half)
        for half in (development, held_out)
    ]
    assert all(0 <= groups[0][kind] - groups[1][kind] <= 1 for kind in groups[0] | groups[1])
    for row in rows:
        assert set(row["regions"]) <= set(REGIONS)
        assert all(kinds and set(kinds) <= set(TYPES) for kinds in row["regions"].values())
        assert bool(row["regions"]) == (row["label"] == FAKE)
        assert set(row["named"]) <= set(REGIONS)
        if row["honest"]:  # what is forged is said, and nothing else
            assert set(row["named"]) == set(row["regions"])


def test_no_more_captions_are_judged_wrongly_than_before() -> None:
    counts = figures("development")
    assert counts["honest"]["all"] + counts["violating"]["all"] == 205
    assert counts["refused"]["all"] <= 0
    assert counts["passed"]["all"] <= 0
    assert counts["misread"]["all"] <= 3
