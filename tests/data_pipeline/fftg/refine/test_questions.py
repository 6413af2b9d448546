"""From lines to questions: which lines have one, and which share one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online
from jax_vlffd.vocabulary import REAL, REGIONS
from tests.support.faulty_server import FaultyServer
from tests.support.refining import load, pairs, read, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def test_only_fakes_with_forged_regions_are_asked_about(tmp_path: Path) -> None:
    real, hidden, failed, plain = pairs(4)
    real |= {"label": REAL, "fake": None}
    hidden["regions"] = {name: {"forged": False, "types": []} for name in REGIONS}
    failed |= {"regions": {}, "raw_caption": "", "caption": "", "error": "no_face: none"}
    plain["error"] = "gray_image: only a remark"
    with FaultyServer() as server:
        summary = run(server, tmp_path / "out.jsonl", [real, hidden, failed, plain])
    written = read(tmp_path / "out.jsonl")
    assert [line["source"] for line in written] == ["raw", "raw", "raw", "refined"]
    reasons = [line["refinement"].get("reason") for line in written]
    assert reasons == ["real face", "no visible forgery", "no annotation", None]
    assert (summary.raw, summary.pending, summary.requests) == (3, 0, 1)


def test_pairs_of_equal_content_are_asked_once(tmp_path: Path) -> None:
    one = pairs(1)[0]
    lines = [one | {"id": f"copy{n}"} for n in range(5)]
    with FaultyServer() as server:
        summary = run(server, tmp_path / "out.jsonl", lines)
    assert (summary.refined, len(server.calls)) == (5, 1)


def test_unreadable_pictures_fall_back_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        if line["id"] == "p1":
            raise OSError("gone")
        return load(line)

    with FaultyServer() as server:
        out = tmp_path / "out.jsonl"
        summary = online.refine_annotations(pairs(3), out, settings(server), broken)
    assert (summary.refined, summary.fallback) == (2, 1)
    assert read(out)[1]["refinement"]["reason"] == "images: gone"
