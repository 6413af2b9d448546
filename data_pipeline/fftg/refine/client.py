"""Client of an OpenAI-compatible endpoint: rate limits, budget, retries, reply formats. Nothing is stored.

Retries are ours instead of the SDK's (`max_retries=0`), so that each is counted, rate-limited and
paid from the budget. A request that ended without an answer after it was sent may have been billed:
its estimated cost stays in the budget, so `--max_usd` holds even then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import Callable, Sequence

import httpx2
import openai

from data_pipeline.fftg.refine.completions import (
    FORMATS,
    WEB_PAGE,
    Completion,
    read_completion,
    request_body,
    unknown_names,
)
from data_pipeline.fftg.refine.pace import Budget, Halt, Pacer, RefinementEnded
from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.redaction import printable, redacted
from data_pipeline.fftg.refine.refusals import RequestRefused, TransientFailure, refusal
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary, check_address
from data_pipeline.fftg.refine.transport import EndpointRefused, SafeClient
from jax_vlffd.errors import UserError, fault

_MAX_BACKOFF = 60.0  # seconds
_MAX_RETRY_AFTER = 600.0  # seconds
_TYPICAL_TOKENS_OUT = 150
_MIN_PRINTED_PAUSE = 5.0  # seconds
_MAX_REFUSALS = 5  # questions refused in a row, after which every question is expected to be
_MAX_FAILURES = 20  # questions failed in a row, after which the endpoint is taken to be down
_MAX_REMARKS = 20  # of one run


class QuestionFailed(Exception):
    """One question got no reply; the message is `code: reason`."""


class Endpoint:
    """Asks one endpoint, and counts requests in a summary.

    Args:
      settings: the run's settings.
      summary: counts `requests`, `retries`, `downgrades`, `unanswered`.
      spent: cost of earlier runs of the output, in US dollars.
      note: called with each remark on the run: what the endpoint said, and what follows from it.

    Raises:
      UserError: the environment has no key for OpenAI's own endpoint, or a malformed key, address or proxy.
    """

    def __init__(
        self,
        settings: RefineSettings,
        summary: RefineSummary,
        spent: float,
        note: Callable[[str], None] = lambda text: None,
    ):
        key = os.environ.get("OPENAI_API_KEY", "")
        address = os.environ.get("OPENAI_BASE_URL")
        if not key and not (settings.base_url or address):
            raise UserError(
                "OPENAI_API_KEY is not set; set it, or name an endpoint with --base_url"
            )
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise UserError(
                "OPENAI_API_KEY contains a character that keys cannot have; set it again"
            )
        try:
            if address and not settings.base_url:
                check_address(address)
            self._client = openai.AsyncOpenAI(
                api_key=key or "none",  # the SDK requires one, local servers do not
                base_url=settings.base_url,
                timeout=settings.timeout,
                max_retries=0,
                http_client=SafeClient(),
            )
        except (ValueError, OSError, httpx2.InvalidURL) as error:
            raise UserError(
                f"the endpoint cannot be asked ({error}); check --base_url, OPENAI_BASE_URL, and the proxies "
                "and certificates that the environment names"
            ) from error
        self._settings = settings
        self._summary = summary
        self._note = note
        for library in ("httpx2", "openai"):  # they log a line per request
            logging.getLogger(library).setLevel(logging.WARNING)
        self.halt = Halt()
        self._pacer = Pacer(settings.rpm, settings.tpm, self.halt)
        self.budget = Budget(settings.max_usd, spent)
        self._format = 0
        self._token_ratio = 1.0  # largest ratio of the endpoint's token count to our estimate
        self._failures_in_a_row = 0
        self._omitted: frozenset[str] = frozenset()
        self._remarks: set[str] = set()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, conversation: Sequence[Message], tokens: int, tag: str) -> Completion:
        """Returns the reply to a conversation, with retries.

        Args:
          conversation: chat messages.
          tokens: estimate of their prompt tokens.
          tag: identifies the question in the request's `X-Client-Request-Id`.

        Raises:
          QuestionFailed: this question got no reply.
          RefinementEnded: the budget is spent, or the endpoint that answered others refuses all questions.
          EndpointRefused: a wrong key, model or address, no quota, or the endpoint is down.
        """
        problem = ""
        attempt = 0
        level = self._format
        omitted = self._omitted
        while attempt <= self._settings.retries:
            try:
                completion = await self._request(conversation, tokens, tag, level, omitted)
            except TransientFailure as error:
                problem = str(error)
                attempt += 1
                if attempt <= self._settings.retries:
                    self._remark(problem)
                    self._summary.retries += 1
                    await self._wait(attempt, error.after)
            except RequestRefused as error:
                more = unknown_names(error.texts, self._settings) - omitted
                if error.adaptable and more:
                    omitted |= more
                    self._remark(f"the endpoint does not accept {', '.join(sorted(more))}; omitted")
                elif error.adaptable and level + 1 < len(FORMATS):
                    level += 1
                else:
                    raise self._failure(f"refused: {error}", _MAX_REFUSALS) from error
                self._summary.downgrades += 1
            else:
                self._failures_in_a_row = 0
                self._format = max(self._format, level)
                self._omitted |= omitted
                if completion.finish_reason == "length":
                    self._remark(f"a reply was cut off at --max_tokens={self._settings.max_tokens}")
                return completion
        raise self._failure(problem, 1 if WEB_PAGE in problem else _MAX_FAILURES)

    def _failure(self, problem: str, limit: int) -> Exception:
        """The error of a question without a reply; it ends the run after `limit` of them in a row, or more if
        others were answered, since the pairs may be at fault.
        """
        self._remark(problem)
        answered = self._summary.answered + self._summary.reused
        self._failures_in_a_row += 1
        if self._failures_in_a_row < (_MAX_FAILURES if answered else limit):
            return QuestionFailed(problem)
        count = self._failures_in_a_row
        questions = f"{count} questions in a row" if count > 1 else "the question"
        text = f"the endpoint failed {questions} ({problem})"
        if answered and limit == _MAX_REFUSALS:
            return RefinementEnded(
                text
            )  # of pairs that it may never accept: the others' captions are written
        return EndpointRefused(
            f"{text}; the replies so far are kept: run the same command again once it works"
        )

    def _remark(self, text: str) -> None:
        """Says it, once: errors that differ in long numbers alone, as of times and requests, are one."""
        kind = re.sub(r"\d{4,}", "", text)
        if kind not in self._remarks and len(self._remarks) < _MAX_REMARKS:
            self._remarks.add(kind)
            self._note(f"refine: {text}")

    async def _request(
        self,
        conversation: Sequence[Message],
        tokens: int,
        tag: str,
        level: int,
        omitted: frozenset[str],
    ) -> Completion:
        likely = tokens * self._token_ratio
        max_cost = self._settings.cost(likely, self._settings.max_tokens)
        await self.budget.reserve(max_cost)
        cost = 0.0
        try:
            await self._pacer.turn(likely + _TYPICAL_TOKENS_OUT)
            self._summary.requests += 1
            cost = max_cost  # it may be billed from here on
            try:
                async with asyncio.timeout(self._settings.timeout):
                    raw = await self._client.chat.completions.with_raw_response.create(
                        **request_body(conversation, self._settings, FORMATS[level], omitted),
                        extra_headers={"X-Client-Request-Id": tag},
                    )
            except openai.APIStatusError as error:
                cost = 0.0
                raise refusal(error, self._settings) from error
            except (TimeoutError, openai.APITimeoutError) as error:
                self._summary.unanswered += 1
                raise TransientFailure(
                    f"timeout: no answer in {self._settings.timeout:g} s"
                ) from error
            except openai.APIConnectionError as error:
                cause = error.__cause__
                if isinstance(cause, EndpointRefused):  # a redirect: nothing was sent to its target
                    cost = 0.0
                    raise cause from None
                if isinstance(
                    cause, httpx2.ConnectError | httpx2.UnsupportedProtocol
                ):  # nothing was sent
                    cost = 0.0
                else:
                    self._summary.unanswered += 1
                words = printable(redacted(fault(cause or error)))  # it may quote what came
                raise TransientFailure(f"connection: {words}") from error
            try:
                completion = read_completion(raw.http_response.text, FORMATS[level], tokens)
                completion = completion._replace(omitted=tuple(sorted(omitted)))
            except ValueError as error:
                self._summary.unanswered += 1
                raise TransientFailure(f"bad answer: {error}") from error
            cost = self._settings.cost(completion.tokens_in, completion.tokens_out)
            if completion.tokens_in:
                self._token_ratio = max(self._token_ratio, completion.tokens_in / max(tokens, 1))
            counted = completion.tokens_in + completion.tokens_out
            self._pacer.correct(likely + _TYPICAL_TOKENS_OUT, counted)
            return completion
        finally:
            await self.budget.settle(max_cost, cost)

    async def _wait(self, attempt: int, after: float | None) -> None:
        """Backs off with jitter; a pause that the endpoint asks for holds all requests."""
        if after is not None:
            if after > _MAX_RETRY_AFTER:
                raise EndpointRefused(
                    f"the endpoint asks to wait {after:,.0f} s; the replies so far are kept: run the same "
                    "command again after that"
                )
            if self._pacer.hold(after) and after >= _MIN_PRINTED_PAUSE:
                self._note(f"refine: the endpoint asks to wait {after:.0f} s")
            return
        wait = min(self._settings.backoff * 2 ** (attempt - 1), _MAX_BACKOFF)
        await self.halt.sleep(wait * random.uniform(0.5, 1.0))
