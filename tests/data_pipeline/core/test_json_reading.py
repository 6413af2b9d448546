"""JSON of strangers, from an endpoint and in files: too deep, numbers too large, half a surrogate pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")
pytest.importorskip("pydantic", reason="the extra `annotate` is not installed")

from data_pipeline.core import files
from data_pipeline.fftg.refine import batch, online, pace, replies
from data_pipeline.fftg.runner import open_annotations
from data_pipeline.packed import annotation
from jax_vlffd.errors import UserError
from jax_vlffd.json_reading import MAX_DEPTH, parse_json, parse_json_at
from jax_vlffd.jsonl import read_lines
from tests.support.echoing_server import EchoingServer, Reply, Request
from tests.support.faulty_server import Call, completion, good_reply
from tests.support.refining import answer_batch, load, pairs, read, settings

pytestmark = pytest.mark.usefixtures("openai_key")

DEEP = ['{"a":' * 100_000, "[" * 100_000, "[" * 100_000 + "]" * 100_000]
LARGE = ["9" * 4000, "9" * 5000, "1e400", "-1e400", "1e99999999"]
HALF = "\ud83d"


def short(text: str) -> str:
    return f"{text[:20]}-{len(text)}"


def test_what_is_wrong_is_one_kind_of_error() -> None:
    for text in (*DEEP, *LARGE, "", "{", b"\xff", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)):
        with pytest.raises(ValueError, match=r"nested|too large|Expecting|delimiter|codec"):
            parse_json(text)
    assert all(math.isnan(parse_json(text, lenient=True)) for text in LARGE)
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json(rf'{{"\ud83d": ["a\ud83d", "\ud83d\ude00", {2**63 - 1}, -1.5e300]}}') == {
        "\ufffd": ["a\ufffd", "\U0001f600", 2**63 - 1, -1.5e300]
    }


@pytest.mark.parametrize("text", [*DEEP, *LARGE, "[1]"], ids=short)
def test_files_of_strangers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert files.read_object(path) is None
    with pytest.raises(UserError):
        annotation.parse_line(text.encode(), path)
    path.write_text(text + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_lines(path)
    with pytest.raises(UserError, match="line 1 is not a batch reply"):
        batch.import_batch(pairs(1), tmp_path / "out.jsonl", [path], settings(None), load)


def reply(change: Callable[[dict[str, Any]], object]) -> Callable[[Request], Reply]:
    def answer(question: Request) -> Reply:
        value = completion(good_reply(Call(0, "", 0, 0, json.loads(question.body))))
        changed = change(value)
        return Reply(body=(changed if isinstance(changed, str) else json.dumps(value)).encode())

    return answer


def refined(
    server: EchoingServer, out: Path, count: int = 2, **changes: Any
) -> online.RefineSummary:
    how = settings(None, base_url=server.url, **changes)
    return online.refine_annotations(pairs(count), out, how, load)


@pytest.mark.parametrize("text", [*DEEP, *(f'{{"choices": {text}}}' for text in DEEP)], ids=short)
def test_an_answer_too_deep_is_no_answer(tmp_path: Path, text: str) -> None:
    with EchoingServer(reply(lambda value: text)) as server:
        summary = refined(server, tmp_path / "out.jsonl", retries=1)
        assert len(server.requests) == 4
    assert summary.reasons == {"bad answer": 2}


@pytest.mark.parametrize(
    "number", [*LARGE, "-5", "1e300", "9" * 300, "NaN", "Infinity", '"many"', "[1]", "null", "true", "{}"],
    ids=short,
)  # fmt: skip
def test_a_reply_is_kept_whatever_its_counts_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """The tokens are counted by our own estimate, and neither the budget nor the pace is led astray."""

    def change(value: dict[str, Any]) -> str:
        value["usage"] = {"prompt_tokens": "@", "completion_tokens": "@", "total_tokens": "@"}
        return json.dumps(value).replace('"@"', number)

    sleep = pace.Halt.sleep

    async def briefly(halt: pace.Halt, seconds: float) -> None:
        assert seconds < 10
        await sleep(halt, seconds)

    monkeypatch.setattr(pace.Halt, "sleep", briefly)
    out = tmp_path / "out.jsonl"
    with EchoingServer(reply(change)) as server:
        summary = refined(server, out, max_usd=1.0, tpm=6_000_000)
        assert len(server.requests) == 2
    assert summary.refined == 2
    assert 500 < summary.tokens_in < 10_000
    assert 20 < summary.tokens_out < 1000
    assert summary.total_usd is not None
    assert 0 < summary.total_usd < 0.1
    assert refined(EchoingServer(reply(change)), out).requests == 0


def test_half_a_pair_from_an_endpoint_ends_no_run(tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        choice = value["choices"][0]
        inner = json.loads(choice["message"]["content"]) | {HALF: HALF}
        inner["caption"] += f" So {HALF} it is."
        choice["message"]["content"] = json.dumps(inner)  # escaped twice
        choice["finish_reason"] = value["model"] = value["id"] = HALF

    out = tmp_path / "out.jsonl"
    with EchoingServer(reply(change)) as server:
        first = refined(server, out)
        assert (first.refined + first.fallback, first.repairs) == (2, 2)
        asked = len(server.requests)
        refined(server, out)
        assert len(server.requests) == asked
    assert len(read(out)) == 2

    with EchoingServer(
        lambda question: Reply(418, json.dumps({"error": {"message": HALF}}).encode())
    ) as server:
        assert refined(server, tmp_path / "b.jsonl").fallback == 2


def test_a_journal_that_holds_half_a_pair_or_wild_counts_is_read(tmp_path: Path) -> None:
    """As older versions wrote them."""
    out = tmp_path / "out.jsonl"
    with EchoingServer(reply(lambda value: None)) as server:
        refined(server, out, 4)
        asked = len(server.requests)
        path = online.journal_path(out)
        records = read(path)
        records[0]["text"] = f"{HALF} {records[0]['text'][:-5]}"
        records[1] |= {"answered_by": HALF, "finish_reason": HALF}
        records[2] |= {"tokens_in": 10**300, "tokens_out": -7, "cost_usd": 1e294}
        records[3] |= {"tokens_in": "x", "cost_usd": -5.0}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        summary = refined(server, out, 4, max_usd=1.0)
        assert len(server.requests) == asked + 1  # the repair of the first
    assert (summary.refined, summary.reused) == (4, 4)
    assert summary.total_usd is not None
    assert 0 < summary.total_usd < 0.1
    read_lines(out)


def test_half_a_pair_in_a_batch(tmp_path: Path) -> None:
    out, how = tmp_path / "out.jsonl", settings(None)
    files = batch.export_batch(pairs(2), out, tmp_path / "ask", how, load)
    answer_batch(files, tmp_path / "answers")
    text = (tmp_path / "answers").read_text().replace("test-model-2026", r"\ud83d")
    (tmp_path / "answers").write_text(text)
    assert batch.import_batch(pairs(2), out, [tmp_path / "answers"], how, load).refined == 2


def test_half_a_pair_in_an_annotation_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": "a", "caption": "\\ud83d", "n": 1e400}\n')
    with open_annotations(path) as log:
        log.append({"id": "b", "caption": "fine"})
    assert [line["caption"] for line in read_lines(path)] == ["\ufffd", "fine"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 4_000, '{"a":' * 200_000, "{" * 20_000, '{"a":1}' * 3_000, '{"a":[' * 3_300,
        '{"verdict":1,' * 1_500,
    ],
    ids=short,
)  # fmt: skip
def test_a_reply_of_nothing_but_braces_is_soon_read(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    read: list[int] = []  # characters, by each try

    def parse(text: str, start: int) -> tuple[Any, int]:
        try:
            value, end = parse_json_at(text, start)
        except json.JSONDecodeError as error:
            read.append(error.pos - start)
            raise
        read.append(end - start)
        return value, end

    monkeypatch.setattr(replies, "parse_json_at", parse)
    assert replies.judge(text, "stop", pairs(1)[0])[0] is None
    assert 0 < len(read) <= 3000
    assert sum(read) <= 11 * 20_000  # of the longest reply that is read


def test_the_answer_is_what_comes_after_the_thought(tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        message = value["choices"][0]["message"]
        draft = json.dumps({"verdict": "draft", "regions": [], "caption": "The nose is odd."})
        message["content"] = f"<think>{draft} {'long ' * 8000}</think>\n{message['content']}"

    with EchoingServer(reply(change)) as server:
        assert refined(server, tmp_path / "out.jsonl").refined == 2


def test_signs_that_models_write_are_as_good_as_plain_ones(tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        message = value["choices"][0]["message"]
        inner = json.loads(message["content"])
        inner["caption"] += " It\u2019s a low\u2011quality\u00a0one\u202fhere\u2026"
        message["content"] = json.dumps(inner)

    with EchoingServer(reply(change)) as server:
        summary = refined(server, tmp_path / "out.jsonl")
    assert (summary.refined, summary.repairs) == (2, 0)
    assert read(tmp_path / "out.jsonl")[0]["caption"].endswith("It's a low-quality one here...")
