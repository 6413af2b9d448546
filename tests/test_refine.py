"""Refinement against a real HTTP server that misbehaves in every way we know, and against kill -9."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")
pytest.importorskip("pydantic", reason="the extra `annotate` is not installed")

from faulty_server import TOKENS_IN, TOKENS_OUT, Behaviour, Call, FaultyServer

from data_pipeline.errors import UserError
from data_pipeline.fftg import batch, prompts, refine
from data_pipeline.fftg.captions import caption, caption_key
from data_pipeline.fftg.journal import Journal
from data_pipeline.fftg.refine import RefineSettings, RefineSummary, journal_path
from data_pipeline.fftg.replies import judge
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES, VERDICTS, regions_named

REPOSITORY = Path(__file__).resolve().parent.parent
SECRET = "sk-test-0123456789"
PRICES = {"price_in": 1.0, "price_out": 10.0}
COST = (TOKENS_IN * 1.0 + TOKENS_OUT * 10.0) / 1e6  # of one reply


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def load(line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A pair of pictures that follows from the names."""
    seeds = [zlib.crc32(str(line[name]).encode()) for name in ("real", "fake")]
    real, fake = (
        np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8) for seed in seeds
    )
    return real, fake


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Raw annotation lines of fakes, each with one to four forged regions."""
    lines = []
    for number in range(start, start + count):
        rng = random.Random(number)
        forged = {
            name: rng.sample(TYPES, rng.randint(1, 2))
            for name in rng.sample(REGIONS, rng.randint(1, 3))
        }
        evidence = {"score": 1.5, "threshold": 1.0, "margin": 0.5}
        regions = {
            name: {
                "forged": name in forged,
                "score": 0.1,
                "types": forged.get(name, []),
                "evidence": {"mask": evidence, **{kind: evidence for kind in TYPES}},
            }
            for name in REGIONS
        }
        text = caption(FAKE, forged, f"p{number}")
        lines.append(
            {
                "id": f"p{number}",
                "real": f"secret-place/{number}.png",
                "fake": f"secret-place/{number}f.png",
                "label": FAKE,
                "regions": regions,
                "raw_caption": text,
                "caption": text,
                "source": "raw",
                "error": None,
                "caption_key": caption_key(FAKE, forged),
                "real_captions": [caption(REAL, {}, f"p{number}")],
            }
        )
    return lines


def settings(server: FaultyServer | None = None, **changes: Any) -> RefineSettings:
    values: dict[str, Any] = {
        "model": "test-model",
        "base_url": server.url if server else "http://127.0.0.1:9/v1",
        "timeout": 10.0,
        "backoff": 0.01,
        "concurrency": 4,
        **PRICES,
    }
    return RefineSettings(**(values | changes))


def run(
    server: FaultyServer, out: Path, lines: list[dict[str, Any]], **changes: Any
) -> RefineSummary:
    return refine.refine_annotations(lines, out, settings(server, **changes), load)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def first(bad: str, times: int = 1) -> Behaviour:
    """Every question is treated badly a few times, and well from then on."""
    return lambda call: bad if call.attempt < times else "good"


def test_good_endpoint(tmp_path: Path) -> None:
    lines = pairs(12)
    out = tmp_path / "out.jsonl"
    with FaultyServer(latency=0.05) as server:
        summary = run(server, out, lines)
    written = read(out)
    assert [line["id"] for line in written] == [line["id"] for line in lines]
    for before, after in zip(lines, written, strict=True):
        flagged = {name for name, found in before["regions"].items() if found["forged"]}
        assert after["source"] == "refined"
        assert after["caption"] != after["raw_caption"] == before["raw_caption"]
        assert regions_named(after["caption"]) == flagged
        assert after["caption"].startswith(VERDICTS[FAKE])
        assert {**after, "caption": 0, "source": 0, "refinement": 0} == {
            **before, "caption": 0, "source": 0, "refinement": 0,
        }  # fmt: skip
        provenance = after["refinement"]
        assert provenance["model"] == "test-model"
        assert provenance["answered_by"] == "test-model-2026"
        assert provenance["prompts"].startswith("v1-")
        assert provenance["format"] == "json_schema"
        assert provenance["turns"] == 1
        assert provenance["cost_usd"] == pytest.approx(COST)
    assert (summary.refined, summary.requests) == (12, 12)
    assert (summary.retries, summary.unanswered) == (0, 0)
    assert summary.spent_usd == summary.total_usd == pytest.approx(12 * COST)
    assert summary.violations == Counter()
    assert summary.violation_rate == 0
    assert 1 < server.most_at_once <= 4
    json.dumps(summary.as_json())


def test_second_run_pays_nothing_and_writes_the_same(tmp_path: Path) -> None:
    lines = pairs(6)
    out = tmp_path / "out.jsonl"
    bad = {2: "wrong_verdict", 4: "prose"}
    with FaultyServer(lambda call: bad.get(call.number, "good")) as server:
        run(server, out, lines, concurrency=1)
        before, asked = out.read_bytes(), len(server.calls)
        summary = run(server, out, lines)
        assert len(server.calls) == asked
    assert out.read_bytes() == before
    assert (summary.requests, summary.reused, summary.refined) == (0, 6, 6)
    assert summary.spent_usd == 0
    assert summary.total_usd == pytest.approx(8 * COST)


def test_an_old_output_is_refined_again_from_its_raw_captions(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FaultyServer() as server:
        run(server, out, pairs(3))
        before = out.read_bytes()
        run(server, out, read(out))
    assert out.read_bytes() == before
    assert len(server.calls) == 3


PASSING = [
    "rate_limit", "busy", "server_error", "overloaded", "cut", "cut_in_the_middle", "not_json",
    "truncated_json", "no_choices",
]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults_are_tried_again(tmp_path: Path, fault: str) -> None:
    with FaultyServer(first(fault, 2)) as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(3))
    assert summary.refined == 3
    assert (summary.requests, summary.retries, summary.answered) == (9, 6, 3)
    maybe_billed = fault not in ("rate_limit", "busy", "server_error", "overloaded")
    assert summary.unanswered == (6 if maybe_billed else 0)
    assert len(server.paid()) == 3


def test_retry_after_holds_every_request(tmp_path: Path) -> None:
    with FaultyServer(lambda call: "rate_limit" if call.number == 0 else "good") as server:
        run(server, tmp_path / "out.jsonl", pairs(3), concurrency=1)
    pause = server.calls[1].arrived - server.calls[0].arrived
    assert pause >= 0.29


def test_slow_answers_are_waited_for_and_hanging_ones_are_not(tmp_path: Path) -> None:
    behaviours = {0: "hang", 1: "slow"}
    with FaultyServer(lambda call: behaviours.get(call.number, "good")) as server:
        started = time.monotonic()
        summary = run(server, tmp_path / "out.jsonl", pairs(4), timeout=1.5)
        assert time.monotonic() - started < 15
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
        assert line["refinement"]["reason"] == "http 500"
        assert (summary.refined, summary.fallback, summary.reasons) == (2, 1, {"http 500": 1})
        assert (summary.requests, summary.retries) == (5, 2)
        server.behave = lambda call: "good"
        again = run(server, out, lines)
    assert (again.refined, again.requests, again.reused) == (3, 1, 2)


CONTENT = {
    "wrong_verdict": "wrong_verdict",
    "says_real": "wrong_verdict",
    "unforged_region": "region_not_forged",
    "injection": "unsafe_text",
    "markup": "unsafe_text",
    "prose": "bad_format",
    "wrong_form": "bad_format",
    "cut_off": "bad_format",
    "empty": "bad_format",
}


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


def test_a_reply_wrapped_in_prose_is_found(tmp_path: Path) -> None:
    with FaultyServer(lambda call: "in_prose") as server:
        summary = run(server, tmp_path / "out.jsonl", pairs(2))
    assert (summary.refined, summary.requests) == (2, 2)


@pytest.mark.parametrize(
    ("server_lacks", "form", "refused"),
    [("no_schema", "json_object", 1), ("no_formats", "text", 2)],
)
def test_formats_fall_to_what_the_endpoint_knows(
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
def test_an_endpoint_that_refuses_us_ends_the_run(tmp_path: Path, fault: str, message: str) -> None:
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
        refine.refine_annotations(
            pairs(40), tmp_path / "out.jsonl", settings(None, retries=0), load
        )


def test_no_key_for_openai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        refine.refine_annotations(
            pairs(1), tmp_path / "out.jsonl", settings(None, base_url=None), load
        )
    with FaultyServer() as server:  # a local server needs none
        assert run(server, tmp_path / "local.jsonl", pairs(1)).refined == 1


def test_the_key_is_written_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FaultyServer(lambda call: random.Random(call.number).choice(PASSING)) as server:
        run(server, tmp_path / "out.jsonl", pairs(4), retries=1)
        refine.dry_run(pairs(2), tmp_path / "dry", tmp_path / "out.jsonl", settings(server), load)
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_max_usd_stops_cleanly_and_holds(tmp_path: Path) -> None:
    lines, out = pairs(20), tmp_path / "out.jsonl"
    with FaultyServer(latency=0.05) as server:
        stopped = run(server, out, lines, max_usd=10.2 * COST)
        assert server.calls[1].arrived - server.calls[0].arrived > 0.05  # the first goes alone
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


def test_prices() -> None:
    assert RefineSettings(model="gpt-4o-mini").cost(1e6, 1e6) == pytest.approx(0.75)
    assert RefineSettings(model="of-my-own").prices is None
    # A limit on an unknown model counts it as the dearest that we know.
    assert RefineSettings(model="of-my-own", max_usd=1.0).prices == (2.5, 10.0)
    assert RefineSettings(model="gpt-4o", max_usd=1.0, **PRICES).prices == (1.0, 10.0)


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"rpm": -1}, {"timeout": 0}, {"retries": -1}, {"price_in": 1}]
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        RefineSettings(**wrong)


def test_rpm_and_tpm_space_the_requests(tmp_path: Path) -> None:
    with FaultyServer() as server:
        run(server, tmp_path / "a.jsonl", pairs(5), rpm=600)
        by_requests = [call.arrived for call in server.calls]
        server.calls.clear()
        # Each request counts for some 1,000 tokens by its reply: 60 a second are far too few.
        run(server, tmp_path / "b.jsonl", pairs(4), tpm=120_000, concurrency=1)
        by_tokens = [call.arrived for call in server.calls]
    assert np.diff(by_requests).min() > 0.07
    assert by_requests[-1] - by_requests[0] > 0.38
    assert by_tokens[-1] - by_tokens[0] > 3 * 0.9 * (TOKENS_IN + TOKENS_OUT) / 2000


def test_only_fakes_with_forged_regions_are_asked_about(tmp_path: Path) -> None:
    real, hidden, failed, plain = pairs(4)
    real |= {"label": REAL, "fake": None}
    hidden["regions"] = {name: {"forged": False, "types": []} for name in REGIONS}
    failed |= {"regions": {}, "raw_caption": "", "caption": "", "error": "no_face: none"}
    plain["error"] = "grey_image: only a remark"
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
        summary = refine.refine_annotations(pairs(3), out, settings(server), broken)
    assert (summary.refined, summary.fallback) == (2, 1)
    assert read(out)[1]["refinement"]["reason"] == "images: gone"


def test_the_key_follows_everything_that_decides_the_reply() -> None:
    line = pairs(1)[0]
    real, fake = load(line)
    texts = prompts.load_prompts("v1")

    def key(line=line, real=real, fake=fake, **changes: Any) -> str:
        return prompts.content_key(line, real, fake, texts, settings(None, **changes))

    changed = real.copy()
    changed[3, 4, 1] ^= 1
    other = pairs(2)[1] | {"real": line["real"], "fake": line["fake"]}
    keys = [
        key(), key(real=changed), key(fake=changed), key(line=other), key(model="another"),
        key(temperature=0.5), key(max_tokens=99), key(image_side=128), key(detail="low"),
        key(mask_settings={"forged": 0.1}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    # What does not decide it: where it is asked, how fast, under which name.
    assert key(concurrency=1, rpm=3, base_url="http://x/v1", price_in=0, price_out=0) == key()
    assert key(line=line | {"id": "z", "raw_caption": "other words"}) == key()


def test_other_settings_do_not_disturb_what_was_paid(tmp_path: Path) -> None:
    lines, out = pairs(3), tmp_path / "out.jsonl"
    with FaultyServer() as server:
        run(server, out, lines)
        first_output = out.read_bytes()
        assert run(server, out, lines, model="another").requests == 3
        assert run(server, out, lines).requests == 0
    assert out.read_bytes() == first_output


def test_what_is_sent(tmp_path: Path) -> None:
    line = pairs(1)[0]
    with FaultyServer() as server:
        run(server, tmp_path / "out.jsonl", [line], temperature=0.3)
    body = server.calls[0].body
    forged = [name for name in REGIONS if line["regions"][name]["forged"]]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("test-model", 0.3, 400)
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert set(schema["schema"]["required"]) == {"verdict", "regions", "caption"}
    system, user = body["messages"]
    assert "forensic" in system["content"]
    text = server.calls[0].text
    assert "side by side" in text
    assert "score 1.5, threshold 1, margin 0.5" in text
    assert VERDICTS[FAKE] in text
    for name in REGIONS:
        assert (f"{name}: changed" in text) == (name in forged)
    assert "$" not in text
    assert "secret-place" not in json.dumps(body)  # no file names: nothing to inject by
    (picture,) = (part for part in user["content"] if part["type"] == "image_url")
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_the_composite_shows_real_left_and_fake_right() -> None:
    import cv2

    red = np.zeros((40, 30, 3), np.uint8)
    red[..., 0] = 255
    blue = red[:20, :15, ::-1].copy()  # of another size
    data = prompts.composite(red, blue, 512)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape == (40, 68, 3)
    assert np.abs(picture[:, :26].astype(int) - (255, 0, 0)).max() < 40
    assert np.abs(picture[:, -26:].astype(int) - (0, 0, 255)).max() < 40
    small = prompts.composite(red, blue, 20)
    assert cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR).shape == (20, 38, 3)


def test_dry_run_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FaultyServer() as server:
        files = refine.dry_run(
            pairs(9), tmp_path / "dry", tmp_path / "out.jsonl", settings(server), load, 2
        )
        assert server.calls == []
    assert [path.suffix for path in files] == [".jpg", ".txt", ".json"] * 2
    assert all(path.stat().st_size for path in files)
    assert not (tmp_path / "out.jsonl").exists()
    said = capsys.readouterr().out
    assert "9 pairs, 0 settled already, 9 to ask" in said
    assert "$" in said


def test_estimate_is_near_the_bill(tmp_path: Path) -> None:
    """For a model of the usual picture tokens: 1 tile of 170, 85 of base, and the text."""
    line = pairs(1)[0]
    text = prompts.messages(line, b"", prompts.load_prompts("v1"), "high")
    tokens = prompts.estimate_tokens(text, (256, 256), "gpt-4o")
    assert 600 < tokens < 1300
    assert prompts.estimate_tokens(text, (256, 256), "gpt-4o-mini") > 8000


def test_unknown_prompts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--prompt_version=v0: the versions are v1"):
        refine.refine_annotations(
            pairs(1), tmp_path / "out.jsonl", settings(None, prompt_version="v0"), load
        )


def test_the_command(tmp_path: Path, shared_dir: Path) -> None:
    """`launch.annotate` from pictures to refined lines, by every way there is."""
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    source = shared_dir / "data" / "edited_faces"
    rows = (source / "pairs.csv").read_text().splitlines()[:4]
    for row in rows[1:]:
        for name in row.split(",")[:2]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, tmp_path / name)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out.jsonl"

    def annotate(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.annotate", f"--pairs={tmp_path / 'pairs.csv'}"]
        command += [f"--out={out}", "--workers=1", *flags]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert SECRET not in done.stdout + done.stderr
        return done

    with FaultyServer() as server:
        model = ("--model=test-model", f"--base_url={server.url}")
        dry = annotate(*model, "--dry_run")
        assert dry.returncode == 0, dry.stderr
        assert server.calls == []
        assert len(list((tmp_path / "out.jsonl.dry_run").iterdir())) == 9
        export = annotate(*model, "--mode=batch-export", f"--batch={tmp_path / 'ask.jsonl'}")
        assert export.returncode == 0, export.stderr
        answer_batch([tmp_path / "ask.jsonl"], tmp_path / "answers.jsonl", skip=0)
        answers = f"--batch={tmp_path / 'answers.jsonl'}"
        back = annotate(*model, "--mode=batch-import", answers)
        assert "refined 2, fallback 1" in back.stdout, back.stderr
        online = annotate(*model, f"--review={tmp_path / 'review.html'}")
        assert online.returncode == 0, online.stderr
        assert "requests 1," in online.stdout
        assert len(server.calls) == 1
    assert {line["source"] for line in read(out)} == {"refined"}
    assert (tmp_path / "review.html").read_text().count("<article ") == 3
    for wrong in (
        ("--mode=batch-import",), (*model, "--batch=x"), (*model, "--rpm=0"), ("--price_in=1", *model),
    ):  # fmt: skip
        failed = annotate(*wrong)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1


# The journal.


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


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append
    monkeypatch.setattr(
        Journal, "append",
        lambda self, r: append(self, r) if len(self) < 3 else _full(self),
    )  # fmt: skip
    with FaultyServer() as server:
        with pytest.raises(UserError, match="No space"):
            run(server, tmp_path / "out.jsonl", pairs(8), concurrency=1)
        assert len(server.calls) == 4
    with Journal(journal_path(tmp_path / "out.jsonl")) as journal:
        assert len(journal) == 3


def _full(journal: Journal) -> None:
    raise UserError(f"{journal.path}: a reply cannot be written (No space left on device)")


def test_judge_survives_any_text() -> None:
    line = pairs(1)[0]
    rng = random.Random(0)
    alphabet = '{}[]",:\\ntrue0.\u202e\ud800 '
    for _ in range(300):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 60)))
        reply, violations = judge(text, "stop", line)
        assert reply is None
        assert [v.kind for v in violations] == ["bad_format"]
    started = time.monotonic()
    judge('{"a":' * 200_000, "length", line)
    assert time.monotonic() - started < 5


# The Batch API.


def answer_batch(files: list[Path], path: Path, does: str = "good", skip: int = -1) -> None:
    """Answers exported requests as OpenAI's Batch API and `vllm run-batch` do."""
    from faulty_server import completion, written

    lines = []
    for number, request in enumerate(r for file in files for r in read(file)):
        tag = request["custom_id"]
        call = Call(number, tag, int(tag[-1]), 0, request["body"])
        text, finish = written(does, call)
        response = {"status_code": 200, "request_id": "r", "body": completion(text, finish)}
        error = None
        if number == skip:
            response = {"status_code": 500, "request_id": "r", "body": {"error": {"message": "x"}}}
        lines.append({"id": f"b{number}", "custom_id": tag, "response": response, "error": error})
    random.Random(0).shuffle(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


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
    # What came back is not asked again, and importing twice changes nothing.
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
    monkeypatch.setattr(batch, "MOST_REQUESTS", 2)
    files = batch.export_batch(pairs(5), tmp_path / "o", tmp_path / "a.jsonl", settings(None), load)
    assert [path.name for path in files] == ["a.jsonl", "a-002.jsonl", "a-003.jsonl"]
    assert [len(read(path)) for path in files] == [2, 2, 1]


def test_batch_replies_of_others_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = settings(None)
    files = batch.export_batch(pairs(3), tmp_path / "o", tmp_path / "a.jsonl", how, load)
    answer_batch(files, tmp_path / "b.jsonl")
    summary = batch.import_batch(pairs(2), tmp_path / "o", [tmp_path / "b.jsonl"], how, load)
    assert summary.refined == 2
    assert "1 replies answer none" in capsys.readouterr().out
    (tmp_path / "b.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(UserError, match="line 1 is no batch reply"):
        batch.import_batch(pairs(2), tmp_path / "o", [tmp_path / "b.jsonl"], how, load)


# Everything at once, and kill -9.

CHAOS = [*PASSING, "hang", "slow", "in_prose", *CONTENT]


def chaos(call: Call) -> str:
    """About half of all calls go wrong, each in a way that follows from the question."""
    rng = random.Random(f"{call.tag}{call.attempt}")
    return rng.choice(CHAOS) if rng.random() < 0.5 else "good"


def test_everything_at_once(tmp_path: Path) -> None:
    lines, out = pairs(60), tmp_path / "out.jsonl"
    with FaultyServer(chaos) as server:
        summary = run(server, out, lines, timeout=1.0, concurrency=8, retries=12)
        calls = len(server.calls)
    print(summary.text())
    assert summary.refined + summary.fallback == 60
    assert summary.requests == calls
    assert summary.retries > 10
    assert sum(summary.violations.values()) > 5
    paid = Counter(call.tag for call in server.paid())
    assert max(paid.values()) == 1
    with Journal(journal_path(out)) as journal:
        assert len(journal) == summary.answered == sum(paid.values())
    for line in read(out):
        flagged = {name for name in REGIONS if line["regions"][name]["forged"]}
        assert regions_named(line["caption"]) == flagged
        assert line["source"] in ("refined", "fallback")
        assert VERDICTS[REAL] not in line["caption"]


def drive(url: str, out: str, count: int) -> None:
    """A run in a process of its own, to be killed."""
    changes = {"timeout": 20.0, "backoff": 0.01, "concurrency": 4, "retries": 12, **PRICES}
    refine.refine_annotations(
        pairs(count), Path(out), RefineSettings(model="test-model", base_url=url, **changes), load
    )


def start(server: FaultyServer, out: Path, count: int) -> subprocess.Popen[bytes]:
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here.parent), str(here)])
    return subprocess.Popen(
        [sys.executable, "-c", f"import test_refine as t; t.drive({server.url!r}, {str(out)!r}, {count})"],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kept(out: Path) -> set[str]:
    """What the journal holds, read as another program would: whole lines only."""
    path = journal_path(out)
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    return {f"{r['key']}-{r['turn']}" for r in map(json.loads, whole.splitlines())}


def kill_in_the_middle(out: Path, kills: int, count: int) -> dict[str, int]:
    """Kills runs of one output again and again, then lets one end; returns what was counted.

    double_payments: requests sent for a question whose reply was on disk when that run began.
    lost_replies: replies on disk at one kill and not there later.
    in_flight: answers that the server had sent, or was sending, when the kill came, and that no
      program could keep; each is asked again.
    """
    rng = random.Random(7)
    figures = Counter(kills=0, double_payments=0, lost_replies=0)

    def behave(call: Call) -> str:
        does = chaos(call)
        return "good" if does in ("hang", "slow") else does

    with FaultyServer(behave, latency=0.05) as server:
        on_disk: set[str] = set()
        done = False
        while not done:
            began = len(server.calls)
            process = start(server, out, count)
            target = began + rng.randint(2, 9)
            while process.poll() is None:
                if figures["kills"] < kills and len(server.calls) >= target:
                    time.sleep(rng.uniform(0, 0.1))
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    figures["kills"] += 1
                    break
                time.sleep(0.003)
            done = process.returncode == 0
            assert done or process.returncode == -signal.SIGKILL
            figures["double_payments"] += sum(c.tag in on_disk for c in server.calls[began:])
            now = kept(out)
            figures["lost_replies"] += len(on_disk - now)
            on_disk = now
        for call in server.calls:
            call.done.wait(5)
        paid = Counter(call.tag for call in server.paid())
        figures["requests"] = len(server.calls)
        figures["paid"] = sum(paid.values())
        figures["kept"] = len(on_disk)
        figures["in_flight"] = sum(paid.values()) - len(on_disk)
    return dict(figures)


@pytest.mark.parametrize(
    ("kills", "count"), [(2, 16), pytest.param(20, 90, marks=pytest.mark.slow)]
)
def test_kill_9_in_the_middle(tmp_path: Path, kills: int, count: int) -> None:
    out = tmp_path / "out.jsonl"
    figures = kill_in_the_middle(out, kills, count)
    print(figures)
    assert figures["kills"] == kills
    assert figures["double_payments"] == 0
    assert figures["lost_replies"] == 0
    assert figures["in_flight"] <= 4 * kills  # no more than were under way
    written = read(out)
    assert [line["id"] for line in written] == [line["id"] for line in pairs(count)]
    assert all(line["source"] in ("refined", "fallback") for line in written)
    assert not list(tmp_path.glob(".*"))


def test_a_polite_signal_waits_for_the_replies_under_way(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FaultyServer(latency=0.3) as server:
        process = start(server, out, 40)
        while len(server.calls) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        for call in server.calls:
            call.done.wait(5)
    assert process.returncode != 0
    assert 6 <= len(server.calls) < 40
    assert kept(out) == {call.tag for call in server.paid()}
