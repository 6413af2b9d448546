"""Invalid replies: read from prose, repaired once, then replaced by the raw caption."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online
from data_pipeline.fftg.refine.replies import judge
from tests.support.echoing_server import EchoingServer, Reply, Request
from tests.support.faulty_server import Call, FaultyServer, completion, good_reply
from tests.support.refining import CONTENT, load, pairs, read, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def test_judge_survives_any_text() -> None:
    line = pairs(1)[0]
    rng = random.Random(0)
    alphabet = '{}[]",:\\ntrue0.\u202e\ud800 '
    for _ in range(300):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 60)))
        reply, violations = judge(text, "stop", line)
        assert reply is None
        assert [v.kind for v in violations] == ["bad_format"]


def test_a_reply_wrapped_in_prose_is_read(tmp_path: Path) -> None:
    with FaultyServer(lambda call: "in_prose") as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(2))
    assert (summary.refined, summary.requests) == (2, 2)


@pytest.mark.parametrize("fault", CONTENT)
def test_one_repair_turn(tmp_path: Path, fault: str) -> None:
    with FaultyServer(lambda call: fault if call.turn == 0 else "good") as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(3))
    assert (summary.refined, summary.repairs, summary.requests) == (3, 3, 6)
    assert summary.violations[CONTENT[fault]] == 3
    assert summary.violation_rate == 1
    for line in read(tmp_path / "out.jsonl"):
        assert line["refinement"]["turns"] == 2
        assert CONTENT[fault] in {kind for kind, _ in line["refinement"]["violations"][0]}
        assert line["refinement"]["violations"][1] == []
    repair = next(call for call in server.calls if call.turn == 1)
    assert [m["role"] for m in repair.body["messages"]] == ["system", "user", "assistant", "user"]
    assert CONTENT[fault].replace("_", " ") in repair.body["messages"][3]["content"]


def test_a_long_reply_is_not_sent_back_whole(tmp_path: Path) -> None:
    """Its tokens would be paid for."""

    def answer(question: Request) -> Reply:
        text = (
            "x" * 500_000
            if question.number == 0
            else good_reply(Call(0, "", 1, 0, json.loads(question.body)))
        )
        return Reply(body=json.dumps(completion(text)).encode())

    with EchoingServer(answer) as server:
        how = settings(None, base_url=server.url)
        assert online.refine_annotations(pairs(1), tmp_path / "out.jsonl", how, load).refined == 1
        quoted = json.loads(server.requests[1].body)["messages"][2]["content"]
    assert quoted == "x" * 4_000


@pytest.mark.parametrize("fault", CONTENT)
def test_then_the_raw_caption_with_the_reason(tmp_path: Path, fault: str) -> None:
    lines, out = pairs(2), tmp_path / "out.jsonl"
    with FaultyServer(lambda call: fault) as server:
        summary = run(server, out, lines)
    assert (summary.fallback, summary.requests) == (2, 4)
    for line in read(out):
        assert line["source"] == "fallback"
        assert line["caption"] == line["raw_caption"]
        assert CONTENT[fault] in line["refinement"]["reason"]
    assert b"evil.example" not in out.read_bytes().replace(b"'https:'", b"")
    assert "\x07" not in out.read_text()
    with FaultyServer() as server:  # a settled question stays settled
        assert run(server, out, lines).requests == 0
