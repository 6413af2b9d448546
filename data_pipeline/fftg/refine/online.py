"""Online refinement: an MLLM rewrites raw captions, checked against the annotation (paper, section 3.2; ours).

    settings = RefineSettings(model="gpt-4o-mini", max_usd=5.0, mask_settings={...})
    summary = refine_annotations(lines, Path("train.jsonl"), settings, load_images)
    print(summary.text())

`lines` are the raw lines of `launch.annotate`; `load_images(line)` returns the pair of one as RGB
uint8 arrays. The output holds every line in the input's order and is written atomically at the end
(or when the budget stops the run). Every paid reply goes into the journal beside it,
`train.jsonl.replies.jsonl`, one synced line each. A second run of the same command does not ask for
replies in the journal; other images, settings, prompts or models make other questions.

`dry_run` shows what would be sent and its cost; `batch` does the same refinement through files.
Fields set on a line: `caption`, `source` (`raw`, `refined`, `fallback`) and `refinement`
(provenance, and `reason` where the caption stayed raw). All other fields are copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.fftg.refine.client import Endpoint, QuestionFailed
from data_pipeline.fftg.refine.completions import request_body
from data_pipeline.fftg.refine.journal import Journal
from data_pipeline.fftg.refine.pace import Halt, RefinementEnded
from data_pipeline.fftg.refine.prompts import load_prompts
from data_pipeline.fftg.refine.replies import judge
from data_pipeline.fftg.refine.requests import (
    UNREADABLE,
    Line,
    LoadImages,
    Prompter,
    Question,
    RefinePlan,
    next_turn,
    write_output,
)
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from jax_vlffd.file_writing import atomic_write_bytes, atomic_write_text

_TYPICAL_TOKENS_OUT = 120
_INTERRUPTED = "interrupted"
_GRACE = 3.0  # seconds for requests in flight after a signal


def journal_path(out: Path) -> Path:
    """Returns the path of the journal of an output's paid replies."""
    return out.with_name(out.name + ".replies.jsonl")


def refine_annotations(
    lines: Iterable[Line],
    out: Path,
    settings: RefineSettings,
    load_images: LoadImages,
    progress: Callable[[int, int, str], None] = lambda done, total, state: None,
    note: Callable[[str], None] = lambda text: None,
) -> RefineSummary:
    """Asks the endpoint about every fake with a forged region, and writes all lines to `out`.

    Args:
      lines: annotation lines; kept in memory (use `--shard` for sets that do not fit).
      out: the annotation file to write; its journal is `journal_path(out)`.
      settings: the run's settings.
      load_images: returns the pair of a line.
      progress: called with the number of questions done, their total, and a status text.
      note: called with each remark on the run, a line: the estimate, and what the endpoint said.

    Raises:
      UserError: no key, an endpoint that refuses all requests, or a file that cannot be written.
        Earlier replies stay in the journal.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once the requests in flight have ended, after a few
        seconds at most.
    """
    started = time.monotonic()
    lines = list(lines)
    prompter = Prompter(settings, load_prompts(settings.prompt_version), load_images)
    summary = RefineSummary()
    with Journal(journal_path(out)) as journal:
        for remark in journal.remarks:
            note(remark)
        plan = prompter.plan(lines)
        summary.reused = sum(journal.get(q.key, 0) is not None for q in plan.questions)
        note(estimate_text(plan, journal, settings))
        run = _QuestionLoop(prompter, journal, plan, summary, progress, note)
        with _signals_kept():
            asyncio.run(run.ask_all())
        if summary.stopped == _INTERRUPTED:
            raise KeyboardInterrupt
        write_output(out, lines, plan, journal, run.failures, summary)
        if settings.prices is not None:
            summary.total_usd = journal.cost()
    summary.seconds = time.monotonic() - started
    return summary


def estimate_text(plan: RefinePlan, journal: Journal, settings: RefineSettings) -> str:
    """Returns one line on the open questions and the estimated cost."""
    due = [q for q in plan.questions if next_turn(q, journal) is not None]
    tokens_in = sum(q.tokens for q in due)
    likely = settings.cost(tokens_in, _TYPICAL_TOKENS_OUT * len(due))
    maximum = 2 * settings.cost(tokens_in, settings.max_tokens * len(due))
    if settings.prices is None:
        money = "prices unknown (--price_in, --price_out)"
    else:
        price_in, price_out = settings.prices
        money = (
            f"about ${likely:.2f}, at most ${maximum:.2f} with a repair each, "
            f"at ${price_in:g} and ${price_out:g} per million tokens in and out"
        )
    return (
        f"refine: {len(plan.keys)} pairs, {len(plan.questions) - len(due)} settled already, "
        f"{len(due)} to ask; about {tokens_in:,} tokens in; {money}"
    )


def dry_run(
    lines: Iterable[Line],
    folder: Path,
    out: Path,
    settings: RefineSettings,
    load_images: LoadImages,
    count: int = 5,
    note: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Writes the prompts and images of the first questions, and sends nothing.

    Args:
      lines: annotation lines.
      folder: for `<id>.jpg`, `<id>.txt` (the prompts as text) and `<id>.json` (the request).
      out: the output that the run would write; its journal is read for the estimate.
      settings: the run's settings.
      load_images: returns the pair of a line.
      count: number of questions.
      note: called with the estimate.

    Returns:
      The files written.
    """
    prompter = Prompter(settings, load_prompts(settings.prompt_version), load_images)
    plan = prompter.plan(list(lines))
    written = []
    with Journal(journal_path(out)) as journal:
        note(estimate_text(plan, journal, settings))
        for number, question in enumerate(plan.questions[:count]):
            name = re.sub(r"[^\w.-]+", "_", str(question.line.get("id", "")))[-80:]
            stem = folder / f"{number:03d}_{name}"
            conversation = prompter.conversation(question, journal, 0)
            body = request_body(conversation, settings, "json_schema")
            jpg, txt, js = (stem.with_name(stem.name + end) for end in (".jpg", ".txt", ".json"))
            atomic_write_bytes(jpg, prompter.picture(question))
            atomic_write_text(txt, _readable(conversation))
            atomic_write_text(js, json.dumps(body, indent=1))
            written += [jpg, txt, js]
    return written


def _readable(conversation: Sequence[dict[str, Any]]) -> str:
    blocks = []
    for message in conversation:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        blocks += [f"[{message['role']}]\n{part.get('text', '(the picture)')}" for part in parts]
    return "\n\n".join(blocks) + "\n"


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Gives the signals back as they were to whoever handled them: asyncio leaves Python's own handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _QuestionLoop:
    """Asks all open questions; each reply is in the journal before the run goes on."""

    def __init__(
        self,
        prompter: Prompter,
        journal: Journal,
        plan: RefinePlan,
        summary: RefineSummary,
        progress: Callable[[int, int, str], None],
        note: Callable[[str], None],
    ):
        self._prompter = prompter
        self._journal = journal
        self._plan = plan
        self._summary = summary
        self._progress = progress
        self._note = note
        self._done = self._total = 0  # questions of this run
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._violating = 0  # replies of this run with violations
        self.failures: dict[str, str] = {}

    async def ask_all(self) -> None:
        settings = self._prompter.settings
        open_questions = [
            q for q in self._plan.questions if next_turn(q, self._journal) is not None
        ]
        if not open_questions:
            self._summary.spent_usd = 0.0 if settings.prices is not None else None
            return
        endpoint = Endpoint(settings, self._summary, self._journal.cost(), self._note)
        before = self._journal.cost()
        queue = iter(open_questions)
        self._total = len(open_questions)
        self._handle_signals(endpoint.halt)
        try:
            if settings.max_usd is not None:
                # The first reply shows how many tokens an image costs at this endpoint.
                await self._run_all([self._work(itertools.islice(queue, 1), endpoint)])
            workers = [
                self._work(queue, endpoint)
                for _ in range(min(settings.concurrency, len(open_questions)))
            ]
            await self._run_all(workers)
        finally:
            await endpoint.close()
        if settings.prices is not None:
            self._summary.spent_usd = self._journal.cost() - before
        if self._error is not None:
            raise self._error

    async def _run_all(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        self._tasks = [asyncio.create_task(worker) for worker in workers]
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            # Cancelled workers have no reply; the run is over.
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def _handle_signals(self, halt: Halt) -> None:
        """Ctrl-C and SIGTERM end the run: nothing more is sent, and the requests in flight, which are paid for,
        have some seconds to end.
        """
        loop = asyncio.get_running_loop()

        def cancel_all() -> None:
            for task in self._tasks:
                task.cancel()

        def stop(number: signal.Signals) -> None:
            self._summary.stopped = _INTERRUPTED
            halt(_INTERRUPTED)
            loop.call_later(_GRACE, cancel_all)
            loop.remove_signal_handler(number)  # a second signal ends the process at once

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop, number)
            except (NotImplementedError, RuntimeError, ValueError):
                return  # not in the main thread: the caller handles signals

    async def _work(self, queue: Iterator[Question], endpoint: Endpoint) -> None:
        """Asks questions of the queue until it is empty or the run is stopped. Errors never cancel other
        workers: their requests are paid for.
        """
        for question in queue:
            if self._stopped():
                return
            try:
                await self._settle(question, endpoint)
            except QuestionFailed as error:
                self.failures[question.key] = str(error)
            except RefinementEnded as error:
                self._summary.stopped = self._summary.stopped or str(error)
            except Exception as error:  # the other workers' requests end first
                self._error = self._error or error
                endpoint.halt(str(error))
            if self._stopped():
                return
            self._done += 1
            self._progress(self._done, self._total, self._status(endpoint.budget.spent))

    def _status(self, spent: float) -> str:
        # `spent` includes estimates of requests that ended without an answer: they may be billed.
        money = "" if self._prompter.settings.prices is None else f", at most ${spent:.4f} spent"
        return f"{len(self.failures)} failed, {self._violating} violations{money}"

    def _stopped(self) -> bool:
        return self._error is not None or self._summary.stopped is not None

    async def _settle(self, question: Question, endpoint: Endpoint) -> None:
        for turn in (0, 1):
            if next_turn(question, self._journal) != turn or self._stopped():
                continue
            try:
                conversation = await asyncio.to_thread(
                    self._prompter.conversation, question, self._journal, turn
                )
            except UNREADABLE as error:
                raise QuestionFailed(f"images: {error}") from error
            tag = f"{question.key}-{turn}"
            completion = await endpoint.ask(conversation, question.tokens, tag)
            self._journal.append(self._prompter.record(question, turn, completion, "online"))
            violations = judge(completion.text, completion.finish_reason, question.line)[1]
            self._violating += bool(violations)
            self._summary.count_reply(completion.tokens_in, completion.tokens_out)
