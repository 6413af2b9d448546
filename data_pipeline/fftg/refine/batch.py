"""Refinement through files, for OpenAI's Batch API and `vllm run-batch`.

    export_batch(lines, out, Path("ask.jsonl"), settings, load_images)   # then send the files
    import_batch(lines, out, [Path("answers.jsonl")], settings, load_images)

Replies go into the journal beside `out`, as those of an online run do: replies paid for online are
not exported, and replies of a batch are not asked for online. A reply with violations leaves its
repair turn open: export again to ask for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.fftg.refine.completions import (
    FORMATS,
    error_words,
    read_completion,
    request_body,
)
from data_pipeline.fftg.refine.journal import Journal
from data_pipeline.fftg.refine.online import estimate_text, journal_path
from data_pipeline.fftg.refine.prompts import load_prompts
from data_pipeline.fftg.refine.redaction import redacted_strings
from data_pipeline.fftg.refine.requests import (
    UNREADABLE,
    Line,
    LoadImages,
    Prompter,
    RefinePlan,
    next_turn,
    write_output,
)
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_bytes
from jax_vlffd.files import read_regular
from jax_vlffd.json_reading import parse_json

#: OpenAI's limits of one batch file, the size with a margin.
MAX_REQUESTS: Final = 50_000
MAX_BYTES: Final = 190_000_000
_MAX_READ = 4 << 30  # bytes of a file of replies
_URL = "/v1/chat/completions"


def export_batch(
    lines: Iterable[Line],
    out: Path,
    requests: Path,
    settings: RefineSettings,
    load_images: LoadImages,
    note: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Writes every open question as a request, split into files within the API's limits.

    Args:
      lines: annotation lines.
      out: the annotation file for the replies; questions answered in its journal are skipped.
      requests: the file to write; further ones get `-002` and so on before their suffix.
      settings: the run's settings.
      load_images: returns the pair of a line.
      note: called with each remark on the run, a line.

    Returns:
      The files written; empty if no question is open.
    """
    prompter = Prompter(settings, load_prompts(settings.prompt_version), load_images)
    plan = prompter.plan(list(lines))
    with Journal(journal_path(out)) as journal:
        for remark in journal.remarks:
            note(remark)
        note(estimate_text(plan, journal, settings))
        written: list[Path] = []
        part: list[bytes] = []
        size = 0
        for request in _requests(prompter, plan, journal):
            if part and (len(part) == MAX_REQUESTS or size + len(request) > MAX_BYTES):
                written.append(_write_part(requests, len(written), part))
                part, size = [], 0
            part.append(request)
            size += len(request)
        if part:
            written.append(_write_part(requests, len(written), part))
    return written


def import_batch(
    lines: Iterable[Line],
    out: Path,
    replies: Sequence[Path],
    settings: RefineSettings,
    load_images: LoadImages,
    note: Callable[[str], None] = lambda text: None,
) -> RefineSummary:
    """Adds the replies of a batch to the journal and writes all lines to `out`.

    Importing a file twice changes nothing. Replies to other questions (of other images, prompts or
    settings) are counted and ignored.

    Args:
      lines: annotation lines, as exported.
      out: the annotation file to write.
      replies: the batch's output files and error files.
      settings: the run's settings, as exported.
      load_images: returns the pair of a line.
      note: called with each remark on the run, a line.

    Raises:
      UserError: a file cannot be read, or a line of it is not a batch reply.
    """
    started = time.monotonic()
    lines = list(lines)
    prompter = Prompter(settings, load_prompts(settings.prompt_version), load_images)
    plan = prompter.plan(lines)
    questions = {question.key: question for question in plan.questions}
    summary = RefineSummary()
    failures: dict[str, str] = {}
    unmatched = 0
    with Journal(journal_path(out)) as journal:
        for remark in journal.remarks:
            note(remark)
        summary.reused = sum(journal.get(key, 0) is not None for key in questions)
        before = journal.cost()
        for location, key, turn, reply in _replies(replies):
            if key not in questions or turn not in (0, 1):
                unmatched += 1
                continue
            if journal.get(key, turn) is not None:
                continue
            try:
                completion = read_completion(_body(reply), FORMATS[0], questions[key].tokens)
            except ValueError as error:
                failures[key] = f"batch: {error} ({location})"
                continue
            failures.pop(key, None)
            journal.append(prompter.record(questions[key], turn, completion, "batch"))
            summary.count_reply(completion.tokens_in, completion.tokens_out)
        if unmatched:
            note(f"refine: {unmatched} replies belong to other questions and were ignored")
        write_output(out, lines, plan, journal, failures, summary)
        if settings.prices is not None:
            summary.total_usd = journal.cost()
            summary.spent_usd = journal.cost() - before
    summary.seconds = time.monotonic() - started
    return summary


def _requests(prompter: Prompter, plan: RefinePlan, journal: Journal) -> Iterator[bytes]:
    for question in plan.questions:
        turn = next_turn(question, journal)
        if turn is None:
            continue
        try:
            conversation = prompter.conversation(question, journal, turn)
        except UNREADABLE as error:
            raise UserError(f"{question.line.get('id')}: images: {error}") from error
        request = {
            "custom_id": f"{question.key}-{turn}",
            "method": "POST",
            "url": _URL,
            "body": request_body(conversation, prompter.settings, FORMATS[0]),
        }
        yield json.dumps(request).encode() + b"\n"


def _write_part(path: Path, number: int, part: Sequence[bytes]) -> Path:
    if number:
        path = path.with_name(f"{path.stem}-{number + 1:03d}{path.suffix}")
    atomic_write_bytes(path, b"".join(part))
    return path


def _replies(paths: Sequence[Path]) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Each reply of the files as (its location, key, turn, the line)."""
    for path in paths:
        try:
            text = read_regular(path, _MAX_READ).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            location = f"{path}: line {number}"
            try:
                reply = redacted_strings(parse_json(line, lenient=True), keep=("custom_id",))
                key, _, turn_text = reply["custom_id"].rpartition("-")
                turn = int(turn_text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{location} is not a batch reply; give the output file of the batch"
                ) from error
            yield location, key, turn, reply


def _body(reply: dict[str, Any]) -> dict[str, Any]:
    """The chat completion in a reply; ValueError with the error of the reply if there is none."""
    response = reply.get("response")
    response = response if isinstance(response, dict) else {}
    body = response.get("body")
    body = body if isinstance(body, dict) else {}
    if reply.get("error") or response.get("status_code") != 200:
        words = error_words({"error": reply.get("error"), "body": body})
        status = response.get("status_code")
        raise ValueError(f"http {status if isinstance(status, int) else 'error'}: {words}")
    if not body:
        raise ValueError("not a chat completion")
    return body
