"""The journal of paid replies: torn and damaged lines, and a second writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.fftg.refine.journal import Journal
from jax_vlffd.errors import UserError


def record(number: int, text: str = "words") -> dict[str, Any]:
    return {"key": f"k{number}", "turn": 0, "text": text, "cost_usd": 0.5}


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        for number in range(3):
            journal.append(record(number, "caf\u00e9 \u2028 \n"))
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            kept = len(journal)
            assert kept == (3 if cut >= len(whole) - 1 else 2)
            assert bool(journal.repaired) == (last < cut < len(whole) - 1)
            journal.append(record(9))
        with Journal(path) as journal:
            assert len(journal) == kept + 1
            assert journal.repaired == 0
            assert journal.get("k0", 0) == record(0, "caf\u00e9 \u2028 \n")


def test_a_damaged_line_inside_is_an_error_and_not_a_second_payment(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(json.dumps(record(0)) + "\n{broken\n" + json.dumps(record(1)) + "\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        Journal(path)


def test_two_runs_cannot_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(UserError, match="another run"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        assert journal.cost() == 0
