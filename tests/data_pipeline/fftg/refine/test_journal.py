"""The journal of paid replies; what all logs share is tested with `core.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.fftg.refine.journal import Journal
from jax_vlffd.errors import UserError


def record(number: int, text: str = "words") -> dict[str, Any]:
    return {"key": f"k{number}", "turn": 0, "text": text, "cost_usd": 0.5}


def test_the_first_of_two_replies_counts(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text("".join(json.dumps(record(0, text)) + "\n" for text in ("used", "late")))
    before = path.read_bytes()
    with Journal(path) as journal:
        assert journal.get("k0", 0) == record(0, "used")
        assert journal.get("k0", 1) is None
        assert journal.cost() == 0.5
    assert path.read_bytes() == before


def test_a_damaged_line_inside_is_an_error_and_not_a_second_payment(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(json.dumps(record(0)) + "\n{broken\n" + json.dumps(record(1)) + "\n")
    with pytest.raises(UserError, match="line 2: damaged"):
        Journal(path)
