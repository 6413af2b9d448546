"""Traffic with an endpoint: the API key is never stored or shown, images go to no other origin."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import batch, online
from data_pipeline.fftg.refine.redaction import redacted
from data_pipeline.fftg.review import write_review
from jax_vlffd.errors import UserError
from tests.support.echoing_server import EchoingServer, Reply, Request
from tests.support.faulty_server import Call, completion, good_reply
from tests.support.refining import REPOSITORY, SECRET, answer_batch, load, pairs, read, settings

pytestmark = pytest.mark.usefixtures("openai_key")

#: Encodings in which an endpoint may repeat a key.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "whole": lambda key: key,
    "bearer": lambda key: f"Bearer {key}",
    "capitals": str.upper,
    "start": lambda key: f"{key[:-4]}",
    "end": lambda key: f"{key[4:]}",
    "masked": lambda key: f"{key[:10]}...{key[-4:]}",
    "stars": lambda key: f"{key[:6]}********{key[-4:]}",
    "url": lambda key: urllib.parse.quote(f"a/{key}", safe=""),
    "percent": lambda key: "".join(f"%{ord(letter):02x}" for letter in key),
    "escaped": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "html": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "basic": lambda key: base64.b64encode(f"me:{key}".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
}


def stored_text(folder: Path) -> str:
    return "\n".join(
        path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()
    )


def assert_no_key(text: str, said: str = "") -> None:
    """Neither the key nor six characters of it in a row."""
    for part in [SECRET[i : i + 6] for i in range(len(SECRET) - 5)]:
        assert part.casefold() not in text.casefold()
    if said:
        assert said not in text


def answer_for(question: Request, extra: str = "") -> dict[str, Any]:
    body = json.loads(question.body)
    return completion(good_reply(Call(0, "", 0, 0, body), extra))


def everywhere(said: str, status: int, question: Request) -> Reply:
    """A response with the text in every field of an error, or of a reply."""
    if status == 200:
        value = answer_for(question, f" It says {said}.")
        value["choices"][0]["finish_reason"] = said
        value["choices"][0]["message"] |= {"refusal": said, "reasoning": said, said: said}
        value |= {"model": said, "id": said, "system_fingerprint": said, said: said}
        value["usage"] |= {said: said}
    else:
        error = {"message": said, "type": said, "code": said, "param": said, said: said}
        value = {"error": error, "message": said, "detail": [{"msg": said, "input": said}]}
    header = said.encode("latin-1", "replace").decode("latin-1")
    headers = dict.fromkeys(("X-Request-Id", "X-Key", "Retry-After"), header)
    headers["Set-Cookie"] = f"k={header}"
    return Reply(status, json.dumps(value).encode(), headers, reason=header)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 418, 422, 429, 501])
def test_an_echoed_key_is_not_stored_or_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG, "data_pipeline")
    for name, spelled in SPELLINGS.items():
        said = spelled(SECRET)
        out = tmp_path / f"{name}.jsonl"
        with EchoingServer(lambda question: everywhere(said, status, question)) as server:  # noqa: B023
            how = settings(None, base_url=server.url, retries=1)
            try:
                print(online.refine_annotations(pairs(2), out, how, load).text())
            except UserError as error:
                print(error)
            assert server.requests
        if out.exists():
            write_review(read(out), tmp_path / f"{name}.html", lambda line: None)
        terminal = capfd.readouterr()
        assert_no_key(terminal.out + terminal.err + caplog.text + stored_text(tmp_path), said)


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        f"<h1>{SECRET}</h1>",
        f'"{SECRET}"',
        f'["{SECRET}"]',
        SECRET.encode("utf-16").decode("latin-1"),
    ],
)
@pytest.mark.parametrize("status", [200, 404, 422])
def test_a_key_in_a_response_that_is_not_a_completion(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, status: int
) -> None:
    with EchoingServer(lambda question: Reply(status, body.encode("latin-1"))) as server:
        how = settings(None, base_url=server.url, retries=0)
        try:
            online.refine_annotations(pairs(2), tmp_path / "out.jsonl", how, load)
        except UserError as error:
            print(error)
    terminal = capfd.readouterr()
    assert_no_key((terminal.out + terminal.err + stored_text(tmp_path)).replace("\0", ""))


def test_a_key_in_a_batch_and_in_an_old_journal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines, out, how = pairs(3), tmp_path / "out.jsonl", settings(None)
    files = batch.export_batch(lines, out, tmp_path / "ask.jsonl", how, load)
    answer_batch(files, tmp_path / "answers", skip=1)
    replies = (tmp_path / "answers").read_text().replace("test-model-2026", SECRET)
    replies = replies.replace('"message": "x"', f'"message": "{SECRET}"')
    outside = tmp_path.parent / f"{tmp_path.name}-answers"
    outside.write_text(replies)
    batch.import_batch(lines, out, [outside], how, load)
    assert len(read(out)) == 3
    assert_no_key(stored_text(tmp_path))
    # The journal of an older version, which stored responses unredacted.
    journal = online.journal_path(out)
    journal.write_text(journal.read_text().replace("[key]", SECRET))
    batch.import_batch(lines, out, [outside], how, load)
    assert_no_key(out.read_text())
    write_review(
        [line | {"refinement": {"reason": SECRET}} for line in lines], out, lambda line: None
    )
    assert_no_key(out.read_text())
    terminal = capfd.readouterr()
    assert_no_key(terminal.out + terminal.err)


def test_words_that_are_not_a_key_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The nose is blurry... none of the eyes are, test*** EMPTY chat.completion"
    for key in (SECRET, "none", "EMPTY", "", "nose-key-chat.completion-server"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert redacted(text) == text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_is_not_followed(tmp_path: Path, status: int) -> None:
    with EchoingServer(
        lambda question: Reply(body=json.dumps(answer_for(question)).encode())
    ) as other:
        target = f"{other.url}/chat/completions"
        header = {"Location": f"{target}?key={SECRET}"}
        with EchoingServer(lambda question: Reply(status, headers=header)) as server:
            how = settings(None, base_url=server.url, concurrency=1)
            with pytest.raises(UserError) as caught:
                online.refine_annotations(pairs(3), tmp_path / "out.jsonl", how, load)
            assert len(server.requests) == 1
    assert other.requests == []
    assert f"redirects to {target} (HTTP {status})" in str(caught.value)
    assert_no_key(str(caught.value))


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_origin_is_followed(tmp_path: Path, status: int) -> None:
    def answer(question: Request) -> Reply:
        if question.path.startswith("/v1"):
            return Reply(status, headers={"Location": "/v2/ask"})
        return Reply(body=json.dumps(answer_for(question)).encode())

    with EchoingServer(answer) as server:
        how = settings(None, base_url=server.url, concurrency=1)
        summary = online.refine_annotations(pairs(2), tmp_path / "out.jsonl", how, load)
        assert [question.method for question in server.requests] == ["POST"] * 4
    assert summary.refined == 2


def test_a_redirect_in_a_circle_ends(tmp_path: Path) -> None:
    with EchoingServer(lambda question: Reply(307, headers={"Location": question.path})) as server:
        how = settings(None, base_url=server.url, concurrency=1)
        with pytest.raises(UserError, match="redirects"):
            online.refine_annotations(pairs(2), tmp_path / "out.jsonl", how, load)
        assert len(server.requests) < 10


@pytest.mark.slow
def test_the_command_reports_a_redirect_in_one_line(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    source = shared_dir / "data" / "edited_faces"
    rows = (source / "pairs.csv").read_text().splitlines()[:2]
    for name in rows[1].split(",")[:2]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    with EchoingServer(lambda question: Reply()) as other:
        header = {"Location": f"{other.url}/{SECRET}"}
        with EchoingServer(lambda question: Reply(308, headers=header)) as server:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "launch.annotate", f"--pairs={tmp_path / 'pairs.csv'}"),
                    *(f"--out={tmp_path / 'out.jsonl'}", "--workers=1", f"--base_url={server.url}"),
                ],
                cwd=REPOSITORY, capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert other.requests == []
    assert done.returncode == 1
    assert re.search(
        r"^refine: 1 pairs, .*\nerror: the endpoint redirects to .*\n\Z", done.stderr, re.M
    )
    assert "refine:" not in done.stdout
    assert_no_key(done.stdout + done.stderr + stored_text(tmp_path))


def test_an_endless_response_is_cut_off(tmp_path: Path) -> None:
    with EchoingServer(lambda question: Reply(body=b"[" + b" " * (8 << 20))) as server:
        how = settings(None, base_url=server.url, retries=0)
        summary = online.refine_annotations(pairs(1), tmp_path / "out.jsonl", how, load)
    assert summary.reasons == {"connection": 1}
