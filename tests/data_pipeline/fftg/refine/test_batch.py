"""Refinement through files of a Batch API: there and back, repairs, limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import batch
from jax_vlffd.errors import UserError
from tests.support.faulty_server import FaultyServer
from tests.support.refining import COST, answer_batch, load, pairs, read, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def test_batch_there_and_back(tmp_path: Path) -> None:
    lines, out = pairs(6), tmp_path / "out.jsonl"
    how = settings(None)
    files = batch.export_batch(lines, out, tmp_path / "ask.jsonl", how, load)
    assert files == [tmp_path / "ask.jsonl"]
    requests = read(files[0])
    assert {r["method"] for r in requests} == {"POST"}
    assert {r["url"] for r in requests} == {"/v1/chat/completions"}
    assert len({r["custom_id"] for r in requests}) == 6
    answer_batch(files, tmp_path / "answers.jsonl", skip=2)
    summary = batch.import_batch(lines, out, [tmp_path / "answers.jsonl"], how, load)
    assert (summary.refined, summary.fallback, summary.answered) == (5, 1, 5)
    assert summary.spent_usd == pytest.approx(5 * COST)
    assert read(out)[2]["refinement"]["reason"].startswith("batch: http 500")
    # Answered questions are not exported again, and importing twice changes nothing.
    again = batch.import_batch(lines, out, [tmp_path / "answers.jsonl"], how, load)
    assert (again.refined, again.answered, again.spent_usd) == (5, 0, 0)
    assert len(read(batch.export_batch(lines, out, tmp_path / "more.jsonl", how, load)[0])) == 1
    with FaultyServer() as server:
        online = run(server, out, lines)
    assert (online.refined, online.requests) == (6, 1)
    assert {line["refinement"]["how"] for line in read(out)} == {"online", "batch"}
    assert batch.export_batch(lines, out, tmp_path / "none.jsonl", how, load) == []


def test_batch_repairs_by_a_second_export(tmp_path: Path) -> None:
    lines, out, how = pairs(3), tmp_path / "out.jsonl", settings(None)
    files = batch.export_batch(lines, out, tmp_path / "1.jsonl", how, load)
    answer_batch(files, tmp_path / "1a.jsonl", "wrong_verdict")
    summary = batch.import_batch(lines, out, [tmp_path / "1a.jsonl"], how, load)
    assert (summary.pending, summary.violations["wrong_verdict"]) == (3, 3)
    files = batch.export_batch(lines, out, tmp_path / "2.jsonl", how, load)
    assert all(r["custom_id"].endswith("-1") for r in read(files[0]))
    answer_batch(files, tmp_path / "2a.jsonl")
    summary = batch.import_batch(lines, out, [tmp_path / "2a.jsonl"], how, load)
    assert (summary.refined, summary.repairs) == (3, 3)


def test_batch_files_keep_within_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_REQUESTS", 2)
    files = batch.export_batch(pairs(5), tmp_path / "o", tmp_path / "a.jsonl", settings(None), load)
    assert [path.name for path in files] == ["a.jsonl", "a-002.jsonl", "a-003.jsonl"]
    assert [len(read(path)) for path in files] == [2, 2, 1]


def test_replies_to_other_questions_are_ignored(tmp_path: Path) -> None:
    how, said = settings(None), list[str]()
    files = batch.export_batch(pairs(3), tmp_path / "o", tmp_path / "a.jsonl", how, load)
    answer_batch(files, tmp_path / "b.jsonl")
    answers = tmp_path / "b.jsonl"
    more = [
        r | {"custom_id": f"{r['custom_id'][:-1]}{turn}"}
        for r in read(answers)
        for turn in (-1, 7, 10**25)
    ]
    answers.write_text(answers.read_text() + "".join(json.dumps(line) + "\n" for line in more))
    summary = batch.import_batch(pairs(2), tmp_path / "o", [answers], how, load, said.append)
    assert (summary.refined, summary.answered) == (2, 2)
    assert said == ["refine: 10 replies belong to other questions and were ignored"]
    (tmp_path / "b.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(UserError, match="line 1 is not a batch reply"):
        batch.import_batch(pairs(2), tmp_path / "o", [tmp_path / "b.jsonl"], how, load)
