"""What endpoints do, as their users report it: each row against a real HTTP server on loopback."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online
from data_pipeline.fftg.refine.settings import RefineSummary
from jax_vlffd.errors import UserError
from tests.support.echoing_server import EchoingServer, Reply, Request
from tests.support.faulty_server import Call, completion, good_reply
from tests.support.refining import SECRET, load, pairs, read, settings

pytestmark = pytest.mark.usefixtures("openai_key")

Answer = Callable[[Request], Reply]
#: A page as Cloudflare answers with, and what of it is shown.
PAGE = (
    b'<!DOCTYPE html>\n<!--[if lt IE 7]> <html class="no-js ie6" lang="en-US"> <![endif]-->\n<html><head>'
    b"<title>Attention Required! | Cloudflare</title><style>p {color: red}</style><script>go()</script>"
    b"</head><body><h1>Sorry, you have been blocked</h1>\n<p>Ray ID&colon; 1</p></body></html>"
)
PAGE_WORDS = "Attention Required! | Cloudflare Sorry, you have been blocked Ray ID: 1"


def good(question: Request, content: str = "{}", **changes: Any) -> Reply:
    """A good reply; `content` is its text, with the JSON object at the braces."""
    value = completion(good_reply(Call(0, "", 0, 0, json.loads(question.body)))) | changes
    message = value["choices"][0]["message"]
    message["content"] = content.replace("{}", message["content"], 1)
    return Reply(body=json.dumps(value).encode())


def error(status: int, body: Any, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda question: Reply(status, data, names)


def says(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


def refine(
    answer: Answer, out: Path, count: int = 30, said: list[str] | None = None, **changes: Any
) -> tuple[RefineSummary | str, list[Request]]:
    """Refines pairs one after another; returns the summary, or the error in one line, and the requests."""
    changes = {"concurrency": 1, "retries": 1} | changes
    with EchoingServer(answer) as server:
        how = settings(None, **({"base_url": server.url} | changes))
        note = (said if said is not None else []).append
        try:
            summary: RefineSummary | str = online.refine_annotations(
                pairs(count), out, how, load, note=note
            )
        except UserError as refused:
            summary = str(refused)
            assert summary.isprintable()
        return summary, server.requests


REFUSED_PARAMETERS = {
    "max_tokens": [
        says("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
             "'max_completion_tokens' instead."),
        {"error": {"message": "Bad request", "param": "max_tokens", "code": "unsupported_parameter"}},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "x" * 300, "max_tokens"],
                     "msg": "Extra inputs are not permitted", "input": 400}]},
        {"object": "error", "message": "max_tokens is deprecated", "code": 400},
    ],
    "temperature": [
        says("Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) "
             "value is supported."),
        says("invalid temperature: only 1 is allowed for this model"),
        says("`temperature` is deprecated for this model."),
        {"detail": "temperature must be 1"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "body"), [(name, body) for name, bodies in REFUSED_PARAMETERS.items() for body in bodies]
)  # fmt: skip
def test_a_refused_parameter_is_left_out_once_for_the_run(
    tmp_path: Path, name: str, body: Any
) -> None:
    refuse, said = error(422 if "detail" in body else 400, body), list[str]()
    answer: Answer = lambda q: refuse(q) if name in json.loads(q.body) else good(q)  # noqa: E731
    summary, requests = refine(answer, tmp_path / "out.jsonl", 6, said, temperature=0.2)
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, summary.downgrades) == (6, 1)
    assert len(requests) == 7
    assert sum(f"does not accept {name}" in text for text in said) == 1
    last = json.loads(requests[-1].body)
    assert last.get("max_tokens", last.get("max_completion_tokens")) == 400


def test_everything_that_can_be_left_out_is_left_out_together(tmp_path: Path) -> None:
    def answer(question: Request) -> Reply:
        body = json.loads(question.body)
        for name in ("max_tokens", "temperature", "response_format"):
            if name in body:
                return Reply(400, json.dumps(says(f"{name} is not supported")).encode())
        return good(question)

    summary, requests = refine(answer, tmp_path / "out.jsonl", 4, temperature=0.2)
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, summary.downgrades, len(requests)) == (4, 4, 8)


def test_a_limit_that_is_too_large_is_no_unknown_name(tmp_path: Path) -> None:
    """An endpoint may ignore the other name, and then no reply is limited."""
    message = (
        "'max_tokens' is too large: 400. This model's maximum context length is 300; bad request"
    )
    text, requests = refine(error(400, says(message)), tmp_path / "out.jsonl")
    assert isinstance(text, str)
    assert "too large: 400" in text
    assert all("max_tokens" in json.loads(request.body) for request in requests)


@pytest.mark.parametrize(
    ("status", "requests_a_question"),
    [(400, 3), (501, 3), (304, 1), (410, 1), (418, 1)],
)
def test_an_endpoint_that_refuses_everything_ends_the_run_after_a_few(
    tmp_path: Path, status: int, requests_a_question: int
) -> None:
    body = b"" if status == 304 else says("no pictures here\n\x1b[31m\u202e")
    said: list[str] = []
    text, requests = refine(error(status, body), tmp_path / "out.jsonl", said=said)
    assert isinstance(text, str)
    assert "5 questions in a row" in text
    words = "no message" if status == 304 else "no pictures here ?[31m?"
    assert f"http {status}: {words}" in text
    assert len(requests) == 5 * requests_a_question
    assert f"http {status}: {words}" in said[1]  # behind the estimate, at the first question


def test_an_endpoint_that_begins_to_refuse_stops_the_run_with_what_is_paid_for(
    tmp_path: Path,
) -> None:
    refuse = error(400, says("this model takes no pictures"))
    out = tmp_path / "out.jsonl"
    summary, requests = refine(lambda q: refuse(q) if q.number else good(q), out, 40)
    assert isinstance(summary, RefineSummary)
    assert summary.stopped is not None
    assert (
        "20 questions in a row (refused: http 400: this model takes no pictures)" in summary.stopped
    )
    # The refused question that ended the run is left, too.
    assert (summary.refined, summary.fallback, summary.pending) == (1, 19, 20)
    assert len(requests) == 1 + 20 * 3
    assert {line["source"] for line in read(out)} == {"refined", "fallback", "raw"}


@pytest.mark.parametrize("body", [says("Ray ID: 1"), PAGE], ids=["json", "page"])
@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "check OPENAI_API_KEY"), (402, "requires payment"), (403, "serves your region"),
     (404, "check --model and --base_url"), (405, "check --base_url"), (413, "1024x512 pixels")],
)  # fmt: skip
def test_what_no_other_question_would_change_ends_the_run_at_once(
    tmp_path: Path, status: int, remedy: str, body: Any
) -> None:
    text, requests = refine(error(status, body), tmp_path / "out.jsonl")
    assert isinstance(text, str)
    assert len(requests) == 1
    assert remedy in text
    assert f"HTTP {status}" in text
    assert (PAGE_WORDS if body == PAGE else "Ray ID: 1") in text
    assert "<" not in text


@pytest.mark.parametrize(
    ("body", "words"),
    [(says("model is loading"), "model is loading"), (PAGE, PAGE_WORDS), (b"", "no message"),
     (b"upstream timed out", "upstream timed out"), (["a", {"b": "c"}], "a, c"), (b"[" * 9000, "[[[")],
)  # fmt: skip
def test_an_endpoint_that_is_down_is_quoted_at_once_and_in_the_end(
    tmp_path: Path, body: Any, words: str
) -> None:
    said: list[str] = []
    text, requests = refine(error(503, body), tmp_path / "out.jsonl", said=said, retries=0)
    assert isinstance(text, str)
    assert len(requests) == 20
    assert f"20 questions in a row (http 503: {words}" in text
    assert [words in line for line in said] == [False, True]  # once


def test_a_used_up_quota_ends_the_run_with_its_words(tmp_path: Path) -> None:
    body = {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}}
    text, requests = refine(error(429, body), tmp_path / "out.jsonl")
    assert isinstance(text, str)
    assert "used up (HTTP 429: You exceeded your quota." in text
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("pause", "seconds"), [("86400", "86,400"), ("601", "601"), ("1e9", "1,000,000,000")]
)
def test_a_long_pause_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, pause: str, seconds: str
) -> None:
    out = tmp_path / "out.jsonl"
    wait = error(429, says("slow down"), Retry_After=pause)
    text, requests = refine(lambda q: wait(q) if q.number else good(q), out, 3)
    assert isinstance(text, str)
    assert f"asks to wait {seconds} s" in text
    assert "run the same command again" in text
    assert len(requests) == 2
    summary, requests = refine(good, out, 3)
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, len(requests)) == (3, 2)


@pytest.mark.parametrize(
    "pause",
    ["0", "-5", "nan", "inf", "1e400", "soon", "", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 400,
     "Mon, 99 Foo 2026 99:99:99 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", "1,5", "\u00e4"],
)  # fmt: skip
def test_a_pause_that_is_none_is_an_ordinary_failure(tmp_path: Path, pause: str) -> None:
    wait = error(429, says("slow down"), Retry_After=pause)
    summary, requests = refine(
        lambda q: good(q) if q.number else wait(q), tmp_path / "out.jsonl", 1
    )
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, len(requests)) == (1, 2)


def test_no_request_goes_out_during_a_pause(tmp_path: Path) -> None:
    """Of five whose turn is set, the first is answered by a pause: none of the others goes out."""
    out, said = tmp_path / "out.jsonl", list[str]()
    with EchoingServer(error(429, says("later"), Retry_After="500")) as server:
        how = settings(None, base_url=server.url, concurrency=5, rpm=60)

        def note(text: str) -> None:
            said.append(text)
            if "asks to wait" in text:
                os.kill(os.getpid(), signal.SIGINT)  # all the others wait, or would be sent now

        with pytest.raises(KeyboardInterrupt):
            online.refine_annotations(pairs(5), out, how, load, note=note)
        assert len(server.requests) == 1
    assert said[-1] == "refine: the endpoint asks to wait 500 s"
    assert said[1:-1] == ["refine: http 429: later"]


DRAFT = '{"verdict": "This is a real face.", "regions": [], "caption": "A draft."}'
THOUGHTS = (
    "<think>@</think>{}",
    "<think>\n@\n</think>\n\n<think>@</think>\n```json\n{}\n```",
    "@</think>{}",
    "<THINK>@</Think>{}",
    "<thinking>@</thinking>{}",
    "<seed:think>@</seed:think>{}",
    "[THINK]@[/THINK]{}",
    "\u25c1think\u25b7@\u25c1/think\u25b7{}",
    "<|channel|>analysis<|message|>@<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "<think>@</think>{}</think>",
    "<think>@" + " long" * 9000 + "</think>{}",
)


@pytest.mark.parametrize("text", THOUGHTS, ids=lambda text: ascii(text)[:30])
def test_a_draft_in_a_thought_is_passed_over(tmp_path: Path, text: str) -> None:
    summary, _ = refine(
        lambda q: good(q, text.replace("@", DRAFT.replace("{", "{ "))), tmp_path / "out.jsonl", 1
    )
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, summary.repairs) == (1, 0)


@pytest.mark.parametrize(
    "text", ["<think>{}", "[THINK]{} and", "x</think><think>{}", "\u25c1think\u25b7{}"], ids=ascii
)
def test_a_draft_in_a_thought_without_end_is_no_answer(tmp_path: Path, text: str) -> None:
    summary, _ = refine(
        lambda q: good(q, text if q.number == 0 else "{}"), tmp_path / "out.jsonl", 1
    )
    assert isinstance(summary, RefineSummary)
    assert (summary.refined, summary.repairs) == (1, 1)
    assert summary.violations == {"bad_format": 1}


def test_a_reply_that_is_cut_off_names_the_limit(tmp_path: Path) -> None:
    said: list[str] = []

    def answer(question: Request) -> Reply:
        value = json.loads(good(question, "<think>so").body)
        value["choices"][0]["finish_reason"] = "length"
        return Reply(body=json.dumps(value).encode())

    refine(answer, tmp_path / "out.jsonl", 3, said)
    assert said[1:] == ["refine: a reply was cut off at --max_tokens=400"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n \n"], ids=["plain", "bom", "blank"])
def test_a_page_for_a_reply_names_the_address(tmp_path: Path, start: bytes) -> None:
    said: list[str] = []
    text, requests = refine(
        lambda q: Reply(body=start + PAGE, headers={"Content-Type": "text/html"}),
        tmp_path / "out.jsonl", said=said,
    )  # fmt: skip
    assert isinstance(text, str)
    assert "a web page, not JSON: does --base_url lack a /v1 at its end?" in text
    assert PAGE_WORDS in text
    assert len(requests) == 2
    assert "/v1" in said[1]


def test_a_reply_behind_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    summary, _ = refine(
        lambda q: Reply(body=b"\xef\xbb\xbf" + good(q).body), tmp_path / "out.jsonl", 1
    )
    assert isinstance(summary, RefineSummary)
    assert summary.refined == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [(says("Provider returned error"), "not a chat completion (Provider returned error)"),
     ({"choices": [], "error": "overloaded"}, "not a chat completion (overloaded"),
     (b"data: {}\n\n", "not JSON (data: {})"), (b"", "not JSON (no message)")],
)  # fmt: skip
def test_an_error_with_status_200_is_quoted(tmp_path: Path, body: Any, words: str) -> None:
    text, _ = refine(error(200, body), tmp_path / "out.jsonl", retries=0)
    assert isinstance(text, str)
    assert f"(bad answer: {words}" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PARTS = st.sampled_from(
    ["choices", "message", "content", "finish_reason", "usage", "model", "prompt_tokens", "error"]
)


def replaced(value: Any, name: str, new: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: new if key == name else replaced(part, name, new) for key, part in value.items()
        }
    return [replaced(part, name, new) for part in value] if isinstance(value, list) else value  # fmt: skip


@given(
    status=st.sampled_from([200, 200, 200, 400, 403, 429, 500]),
    name=PARTS,
    new=JSON,
    raw=st.booleans(),
)
@hypothesis_settings(max_examples=15, suppress_health_check=list(HealthCheck))  # fmt: skip
def test_no_answer_at_all_is_more_than_one_line(
    tmp_path_factory: pytest.TempPathFactory, status: int, name: str, new: Any, raw: bool
) -> None:
    """Any JSON, or a completion with any JSON in the place of a part."""
    out = tmp_path_factory.mktemp("any") / "out.jsonl"

    def answer(question: Request) -> Reply:
        value = new if raw else replaced(json.loads(good(question).body), name, new)
        return Reply(status, json.dumps(value).encode())

    refine(answer, out, 1, retries=0, backoff=0)
    journal = online.journal_path(out).read_text()
    assert SECRET not in journal
    summary, _ = refine(good, out, 1)
    assert isinstance(summary, RefineSummary)
    assert summary.refined + summary.fallback == 1
    assert len(read(out)) == 1
