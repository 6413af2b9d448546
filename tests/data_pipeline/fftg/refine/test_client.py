"""The endpoint: retries, errors that end the run, reply formats, the budget, rate limits, the API key."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online
from jax_vlffd.errors import UserError
from tests.support.faulty_server import (  # fmt: skip
    Behavior,
    Call,
    FaultyServer,
)
from tests.support.refining import COST, PASSING, SECRET, load, pairs, read, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def first(bad: str, times: int = 1) -> Behavior:
    """The behavior `bad` for the first attempts of every question, then good replies."""
    return lambda call: bad if call.attempt < times else "good"


@pytest.mark.parametrize("fault", PASSING)
def test_transient_faults_are_retried(tmp_path: Path, fault: str) -> None:
    with FaultyServer(first(fault, 2)) as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(3))
    assert summary.refined == 3
    assert (summary.requests, summary.retries, summary.answered) == (9, 6, 3)
    maybe_billed = fault not in ("rate_limit", "busy", "server_error", "overloaded")
    assert summary.unanswered == (6 if maybe_billed else 0)
    assert len(server.paid()) == 3


def test_slow_answers_are_waited_for_and_hanging_ones_are_not(tmp_path: Path) -> None:
    behaviors = {0: "hang", 1: "slow"}
    with FaultyServer(lambda call: behaviors.get(call.number, "good")) as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(4), timeout=1.5)
        assert not server.calls[0].done.is_set()
    assert (summary.refined, summary.retries, summary.unanswered) == (4, 1, 1)


def test_a_question_that_never_gets_a_reply_falls_back_and_is_asked_again_later(
    tmp_path: Path,
) -> None:
    lines, out = pairs(3), tmp_path / "out.jsonl"
    sick: list[str] = []

    def behave(call: Call) -> str:
        if not sick:
            sick.append(call.tag)
        return "server_error" if call.tag == sick[0] else "good"

    with FaultyServer(behave) as server:
        summary = run(server, out, lines, retries=2, concurrency=1)
        line = read(out)[0]
        assert (line["source"], line["caption"]) == ("fallback", line["raw_caption"])
        assert line["refinement"]["reason"] == "http 500: server_error"
        assert (summary.refined, summary.fallback, summary.reasons) == (2, 1, {"http 500": 1})
        assert (summary.requests, summary.retries) == (5, 2)
        server.behave = lambda call: "good"
        again = run(server, out, lines)
    assert (again.refined, again.requests, again.reused) == (3, 1, 2)


@pytest.mark.parametrize(
    ("server_lacks", "form", "refused"),
    [("no_schema", "json_object", 1), ("no_formats", "text", 2)],
)
def test_the_reply_format_falls_back_to_a_supported_one(
    tmp_path: Path, server_lacks: str, form: str, refused: int
) -> None:
    with FaultyServer(lambda call: server_lacks) as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(4), concurrency=1)
    assert (summary.refined, summary.downgrades, summary.requests) == (4, refused, 4 + refused)
    assert {line["refinement"]["format"] for line in read(tmp_path / "out.jsonl")} == {form}


def test_a_refused_pair_does_not_lower_the_format_of_others(tmp_path: Path) -> None:
    with FaultyServer(lambda call: "filtered" if call.number < 3 else "good") as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(3), concurrency=1)
    lines = read(tmp_path / "out.jsonl")
    assert [line["source"] for line in lines] == ["fallback", "refined", "refined"]
    assert lines[0]["refinement"]["reason"].startswith("refused: http 400")
    assert lines[1]["refinement"]["format"] == "json_schema"
    assert summary.reasons == {"refused": 1}


@pytest.mark.parametrize(
    ("fault", "message"),
    [("unauthorized", "OPENAI_API_KEY"), ("no_model", "model"), ("no_quota", "quota")],
)
def test_an_endpoint_that_refuses_all_requests_ends_the_run(
    tmp_path: Path, fault: str, message: str
) -> None:
    out = tmp_path / "out.jsonl"
    with FaultyServer(lambda call: "good" if call.number < 2 else fault) as server:
        with pytest.raises(UserError, match=message) as caught:
            run(server, out, pairs(8), concurrency=1)
        assert SECRET not in str(caught.value)
        assert len(server.calls) == 3
        assert not out.exists()
        server.behave = lambda call: "good"
        assert run(server, out, pairs(8)).requests == 6  # what was paid for was kept


def test_an_endpoint_that_is_down_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="connection: ConnectError"):
        online.refine_annotations(
            pairs(40), tmp_path / "out.jsonl", settings(None, retries=0), load
        )


def test_no_key_for_openai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        online.refine_annotations(
            pairs(1), tmp_path / "out.jsonl", settings(None, base_url=None), load
        )
    with FaultyServer() as server:  # a local server needs none
        assert run(server, tmp_path / "local.jsonl", pairs(1)).refined == 1


def test_the_key_is_written_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FaultyServer(lambda call: random.Random(call.number).choice(PASSING)) as server:
        run(server, tmp_path / "out.jsonl", pairs(4), retries=1)
        online.dry_run(pairs(2), tmp_path / "dry", tmp_path / "out.jsonl", settings(server), load)
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_max_usd_stops_the_run_and_holds(tmp_path: Path) -> None:
    lines, out = pairs(20), tmp_path / "out.jsonl"

    def behave(call: Call) -> str:
        assert call.number == 0 or server.calls[0].done.is_set()  # the first goes alone
        return "good"

    with FaultyServer(behave) as server:
        stopped = run(server, out, lines, max_usd=10.2 * COST)
        assert stopped.stopped is not None
        assert "max_usd" in stopped.stopped
        assert stopped.total_usd is not None
        assert stopped.total_usd <= 10.2 * COST
        assert 0 < stopped.refined < 11
        assert stopped.refined + stopped.pending == 20
        assert len(read(out)) == 20
        # The limit is for the output, not for the run: nothing more can be bought.
        assert run(server, out, lines, max_usd=stopped.total_usd).requests == 0
        rest = run(server, out, lines, max_usd=100 * COST)
    assert rest.refined == 20
    assert len(server.calls) == 20


def test_max_usd_counts_what_may_have_been_billed(tmp_path: Path) -> None:
    with FaultyServer(lambda call: "cut") as server:
        summary = run(
            server, tmp_path / "out.jsonl", pairs(20), max_usd=5 * COST, retries=50, concurrency=2
        )
    assert summary.stopped is not None
    assert 0 < len(server.calls) <= 5
    assert summary.unanswered == len(server.calls)


BAD_ADDRESSES = (
    "localhost:8000/v1", "//host/v1", "ftp://host/v1", "file:///etc/passwd", "host", "", "http://",
    "http://h:x/v1", "http://h:99999", "http://[::1",
)  # fmt: skip


@pytest.mark.parametrize("url", [address for address in BAD_ADDRESSES if address])
def test_an_invalid_address_in_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UserError, match=r"the endpoint cannot be asked .*OPENAI_BASE_URL"):
        online.refine_annotations(
            pairs(1), tmp_path / "out.jsonl", settings(None, base_url=None), load
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PROXY", "foo://x"), ("ALL_PROXY", "http://h:x"), ("SSL_CERT_FILE", "/nowhere/at/all")],
)
def test_a_wrong_proxy_or_certificate_in_the_environment_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="the endpoint cannot be asked"):
        online.refine_annotations(pairs(1), tmp_path / "out.jsonl", settings(None), load)


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_an_invalid_address_is_refused_at_the_flag(url: str) -> None:
    with pytest.raises(UserError, match="--base_url is"):
        settings(None, base_url=url)


@pytest.mark.parametrize(
    "key", ["sk-\u00fcber-0123456789", f"{SECRET}\n", f" {SECRET}", "sk-\x01-0123456789"]
)
def test_a_malformed_key_is_reported_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with (
        FaultyServer() as server,
        pytest.raises(UserError, match="OPENAI_API_KEY contains") as caught,
    ):
        run(server, tmp_path / "out.jsonl", pairs(1))
    assert "0123456789" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert server.calls == []


@pytest.mark.parametrize("name", ["max_usd", "rpm", "timeout", "price_in"])
def test_limits_must_be_finite(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name} is nan"):
        settings(None, **{name: float("nan")})
