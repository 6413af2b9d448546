"""Refinement: an MLLM rewrites raw captions and is held to the mask (paper section 3.2; ours).

    from data_pipeline.fftg.refine.online import RefineSettings, refine_annotations

    settings = RefineSettings(model="gpt-4o-mini", max_usd=5.0, mask_settings={...})
    summary = refine_annotations(lines, Path("train.jsonl"), settings, load_images)
    print(summary.text())

`lines` are the raw lines of `launch.annotate`, `load_images(line)` gives the aligned pair of one as
RGB uint8 arrays. The output holds every line in the input's order, and is written only at the end
(or when the budget stops the run), aside and renamed. What must survive a kill lies beside it, in
`train.jsonl.replies.jsonl`: every reply that was paid for, one synced line each (`journal`). A
second run of the same command asks for nothing that lies there; other images, settings, prompts or
models are other questions and do not disturb it.

`dry_run` shows what would be sent and what it would cost; `batch` does the same work through files.
Fields set on a line: `caption`, `source` (`raw`, `refined`, `fallback`) and `refinement`
(provenance, and `reason` where the caption stayed raw). All other fields stay as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.core.files import atomic_write_bytes, atomic_write_text
from data_pipeline.fftg.refine.client import Endpoint, Failed
from data_pipeline.fftg.refine.completions import request_body
from data_pipeline.fftg.refine.journal import Journal
from data_pipeline.fftg.refine.pace import Halt, Stopped
from data_pipeline.fftg.refine.prompts import load_prompts
from data_pipeline.fftg.refine.replies import judge
from data_pipeline.fftg.refine.requests import (
    UNREADABLE,
    Asker,
    Line,
    LoadImages,
    Question,
    RefinePlan,
    next_turn,
    write_output,
)
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary

__all__ = [
    "RefineSettings",
    "RefineSummary",
    "dry_run",
    "estimate_text",
    "journal_path",
    "refine_annotations",
]

_TYPICAL_TOKENS_OUT = 120
_INTERRUPTED = "interrupted"
_GRACE = 10.0  # seconds for the requests under way once the run is to end; who stops us kills us after 30


def journal_path(out: Path) -> Path:
    """Returns where the paid replies of an output lie."""
    return out.with_name(out.name + ".replies.jsonl")


def refine_annotations(
    lines: Iterable[Line],
    out: Path,
    settings: RefineSettings,
    load_images: LoadImages,
    progress: Callable[[int, int, str], None] = lambda done, total, state: None,
) -> RefineSummary:
    """Asks the endpoint about every fake with a forged region, and writes all lines to `out`.

    Args:
      lines: annotation lines; held in memory (use `--shard` for sets that do not fit).
      out: the annotation file to write; the replies lie beside it (`journal_path`).
      settings: the run's settings.
      load_images: gives the pair of a line.
      progress: called with the questions done, all of them, and the state of the run in words.

    Raises:
      UserError: no key, an endpoint that refuses us, or a file that cannot be written. Replies that
        came before are kept.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once the requests under way have come back, or some
        seconds later.
    """
    started = time.monotonic()
    lines = list(lines)
    asker = Asker(settings, load_prompts(settings.prompt_version), load_images)
    summary = RefineSummary()
    with Journal(journal_path(out)) as journal:
        if journal.repaired:
            print(f"{journal.path}: a torn last line of {journal.repaired} bytes was cut off")
        plan = asker.plan(lines)
        summary.reused = sum(journal.get(q.key, 0) is not None for q in plan.questions)
        print(estimate_text(plan, journal, settings))
        run = _Run(asker, journal, plan, summary, progress)
        asyncio.run(run.everything())
        if summary.stopped == _INTERRUPTED:
            raise KeyboardInterrupt
        write_output(out, lines, plan, journal, run.failures, summary)
        if settings.prices is not None:
            summary.total_usd = journal.cost()
    summary.seconds = time.monotonic() - started
    return summary


def estimate_text(plan: RefinePlan, journal: Journal, settings: RefineSettings) -> str:
    """Returns in one line what is still to be sent, and about what it will cost."""
    open_turns = [(q, next_turn(q, journal)) for q in plan.questions]
    due = [q for q, turn in open_turns if turn is not None]
    tokens_in = sum(q.tokens for q in due)
    likely = settings.cost(tokens_in, _TYPICAL_TOKENS_OUT * len(due))
    most = 2 * settings.cost(tokens_in, settings.max_tokens * len(due))
    if settings.prices is None:
        money = "no prices known (--price_in, --price_out)"
    else:
        price_in, price_out = settings.prices
        money = (
            f"about ${likely:.2f}, at most ${most:.2f} with a repair each, "
            f"at ${price_in:g} and ${price_out:g} a million tokens in and out"
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
) -> list[Path]:
    """Writes the prompts and the composites of the first few questions, and sends nothing.

    Args:
      lines: annotation lines.
      folder: where `<id>.jpg`, `<id>.txt` (the prompts to read) and `<id>.json` (the request) go.
      out: the output that the run would write; its replies are looked at for the estimate.
      settings: the run's settings.
      load_images: gives the pair of a line.
      count: how many questions.

    Returns:
      The files written.
    """
    asker = Asker(settings, load_prompts(settings.prompt_version), load_images)
    plan = asker.plan(list(lines))
    written = []
    with Journal(journal_path(out)) as journal:
        print(estimate_text(plan, journal, settings))
        for number, question in enumerate(plan.questions[:count]):
            name = re.sub(r"[^\w.-]+", "_", str(question.line.get("id", "")))[-80:]
            stem = folder / f"{number:03d}_{name}"
            conversation = asker.conversation(question, journal, 0)
            body = request_body(conversation, settings, "json_schema")
            atomic_write_bytes(stem.with_name(stem.name + ".jpg"), asker.picture(question))
            atomic_write_text(stem.with_name(stem.name + ".txt"), _readable(conversation))
            atomic_write_text(stem.with_name(stem.name + ".json"), json.dumps(body, indent=1))
            written += [stem.with_name(stem.name + end) for end in (".jpg", ".txt", ".json")]
    return written


def _readable(conversation: Sequence[dict[str, Any]]) -> str:
    blocks = []
    for message in conversation:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        blocks += [f"[{message['role']}]\n{part.get('text', '(the picture)')}" for part in parts]
    return "\n\n".join(blocks) + "\n"


class _Run:
    """Asks all open questions; what comes back lies in the journal before anything else is done."""

    def __init__(
        self,
        asker: Asker,
        journal: Journal,
        plan: RefinePlan,
        summary: RefineSummary,
        progress: Callable[[int, int, str], None],
    ):
        self._asker = asker
        self._journal = journal
        self._plan = plan
        self._summary = summary
        self._progress = progress
        self._done = self._total = 0  # questions of this run
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._violating = 0  # replies of this run that broke with their annotation
        self.failures: dict[str, str] = {}

    async def everything(self) -> None:
        settings = self._asker.settings
        open_questions = [
            q for q in self._plan.questions if next_turn(q, self._journal) is not None
        ]
        if not open_questions:
            self._summary.spent_usd = 0.0 if settings.prices is not None else None
            return
        endpoint = Endpoint(settings, self._summary, self._journal.cost())
        before = self._journal.cost()
        todo = iter(open_questions)
        self._total = len(open_questions)
        self._listen(endpoint.halt)
        try:
            if settings.max_usd is not None:
                # One alone tells how many tokens a picture really costs here.
                await self._together([self._work(itertools.islice(todo, 1), endpoint)])
            workers = [
                self._work(todo, endpoint)
                for _ in range(min(settings.concurrency, len(open_questions)))
            ]
            await self._together(workers)
        finally:
            await endpoint.close()
        if settings.prices is not None:
            self._summary.spent_usd = self._journal.cost() - before
        if self._error is not None:
            raise self._error

    async def _together(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        self._tasks = [asyncio.create_task(worker) for worker in workers]
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            # Those that were canceled have no reply; the run is over.
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def _listen(self, halt: Halt) -> None:
        """Lets Ctrl-C and SIGTERM end the run: nothing more is sent, and the requests under way, which are paid
        for, have some seconds to come back.
        """
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            for task in self._tasks:
                task.cancel()

        def stop(number: signal.Signals) -> None:
            self._summary.stopped = _INTERRUPTED
            halt(_INTERRUPTED)
            loop.call_later(_GRACE, give_up)
            loop.remove_signal_handler(number)  # a second one ends it at once

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop, number)
            except (NotImplementedError, RuntimeError, ValueError):
                return  # not the main thread: whoever runs us stops us

    async def _work(self, todo: Iterator[Question], endpoint: Endpoint) -> None:
        """Takes questions until none is left or the run is stopped. It never cancels its siblings:
        their requests are paid for.
        """
        for question in todo:
            if self._over():
                return
            try:
                await self._settle(question, endpoint)
            except Failed as error:
                self.failures[question.key] = str(error)
            except Stopped as error:
                self._summary.stopped = self._summary.stopped or str(error)
            except Exception as error:  # whatever it is, the siblings' requests come back first
                self._error = self._error or error
                endpoint.halt(str(error))
            if self._over():
                return
            self._done += 1
            self._progress(self._done, self._total, self._state(endpoint.budget.spent))

    def _state(self, spent: float) -> str:
        # With the estimates of requests that ended without an answer, which may be billed.
        money = "" if self._asker.settings.prices is None else f", at most ${spent:.4f} spent"
        return f"{len(self.failures)} failed, {self._violating} violations{money}"

    def _over(self) -> bool:
        return self._error is not None or self._summary.stopped is not None

    async def _settle(self, question: Question, endpoint: Endpoint) -> None:
        while (turn := next_turn(question, self._journal)) is not None and not self._over():
            try:
                asked = await asyncio.to_thread(
                    self._asker.conversation, question, self._journal, turn
                )
            except UNREADABLE as error:
                raise Failed(f"images: {error}") from error
            tag = f"{question.key}-{turn}"
            answer = await endpoint.ask(asked, question.tokens, tag)
            self._journal.append(self._asker.record(question, turn, answer, "online"))
            self._violating += bool(judge(answer.text, answer.finish_reason, question.line)[1])
            self._summary.answered += 1
            self._summary.tokens_in += answer.tokens_in
            self._summary.tokens_out += answer.tokens_out
