"""Client of an OpenAI-compatible endpoint: rate limits, budget, retries, reply formats. Nothing is stored.

Retries are ours instead of the SDK's (`max_retries=0`), so that each is counted, rate-limited and
paid from the budget. A request that ended without an answer after it was sent may have been billed:
its estimated cost stays in the budget, so `--max_usd` holds even then.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import random
import sys
import time
from collections.abc import Sequence

import openai

from data_pipeline.fftg.refine.completions import (
    FORMATS,
    WEB_PAGE,
    Completion,
    read_completion,
    request_body,
    unknown_names,
)
from data_pipeline.fftg.refine.pace import Budget, Halt, Pacer
from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.redaction import printable
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from data_pipeline.fftg.refine.transport import EndpointRefused, SafeClient
from jax_vlffd.errors import UserError

_FORMAT_STATUSES = (400, 415, 422, 501)  # of requests refused as wrong, perhaps for their format
_TRANSIENT_STATUSES = (408, 409, 425, 429)  # and every 5xx
_MAX_BACKOFF = 60.0  # seconds
_MAX_RETRY_AFTER = 600.0  # seconds
_TYPICAL_TOKENS_OUT = 150
_MIN_PRINTED_PAUSE = 5.0  # seconds
_MAX_REFUSALS = 5  # questions refused in a row, after which every question is expected to be
_MAX_FAILURES = 20  # questions failed in a row, after which the endpoint is taken to be down


class QuestionFailed(Exception):
    """One question got no reply; the message is `code: reason`."""


class Endpoint:
    """Asks one endpoint, and counts requests in a summary.

    Args:
      settings: the run's settings.
      summary: counts `requests`, `retries`, `downgrades`, `unanswered`.
      spent: cost of earlier runs of the output, in US dollars.

    Raises:
      UserError: the environment has no key for OpenAI's own endpoint, or a malformed one.
    """

    def __init__(self, settings: RefineSettings, summary: RefineSummary, spent: float):
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key and not (settings.base_url or os.environ.get("OPENAI_BASE_URL")):
            raise UserError(
                "OPENAI_API_KEY is not set; set it, or name an endpoint with --base_url"
            )
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise UserError(
                "OPENAI_API_KEY contains a character that keys cannot have; set it again"
            )
        self._settings = settings
        self._summary = summary
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",  # the SDK requires one, local servers do not
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
            http_client=SafeClient(),
        )
        for library in ("httpx2", "openai"):  # they log a line per request
            logging.getLogger(library).setLevel(logging.WARNING)
        self.halt = Halt()
        self._pacer = Pacer(settings.rpm, settings.tpm, self.halt)
        self.budget = Budget(settings.max_usd, spent)
        self._format = 0
        self._token_ratio = 1.0  # largest ratio of the endpoint's token count to our estimate
        self._failures_in_a_row = 0
        self._omitted: frozenset[str] = frozenset()
        self._printed: set[str] = set()

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
          Stopped: the budget is spent.
          EndpointRefused: a wrong key, model or address, no quota, or the endpoint is down.
        """
        problem = ""
        attempt = 0
        level = self._format
        omitted = self._omitted
        while attempt <= self._settings.retries:
            try:
                completion = await self._request(conversation, tokens, tag, level, omitted)
            except _Retry as error:
                problem = str(error)
                attempt += 1
                if attempt <= self._settings.retries:
                    self._summary.retries += 1
                    await self._wait(attempt, error.after)
            except _FormatRefused as error:
                self._summary.downgrades += 1
                if more := unknown_names(str(error), self._settings) - omitted:
                    omitted |= more
                    self._print_once(
                        f"the endpoint does not accept {', '.join(sorted(more))}; omitted"
                    )
                elif level + 1 < len(FORMATS):
                    level += 1
                else:
                    self._summary.downgrades -= 1
                    raise self._failure(f"refused: {error}", _MAX_REFUSALS) from error
            else:
                self._failures_in_a_row = 0
                self._format = max(self._format, level)
                self._omitted |= omitted
                return completion
        raise self._failure(problem, 1 if WEB_PAGE in problem else _MAX_FAILURES)

    def _failure(self, problem: str, limit: int) -> Exception:
        """The error of a question without a reply; it ends the run after `limit` of them in a row."""
        if limit < _MAX_FAILURES and self._summary.answered + self._summary.reused:
            return QuestionFailed(problem)  # others were answered: the pair is at fault
        self._failures_in_a_row += 1
        if self._failures_in_a_row < limit:
            return QuestionFailed(problem)
        questions = f"{limit} questions in a row" if limit > 1 else "the question"
        return EndpointRefused(
            f"the endpoint failed {questions} ({problem}); the replies so far are kept: run the same command "
            "again once it works"
        )

    def _print_once(self, text: str) -> None:
        if text not in self._printed:
            self._printed.add(text)
            print(f"refine: {text}", file=sys.stderr, flush=True)

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
                raise _error_for(error, self._settings) from error
            except (TimeoutError, openai.APITimeoutError) as error:
                self._summary.unanswered += 1
                raise _Retry(f"timeout: no answer in {self._settings.timeout:g} s") from error
            except openai.APIConnectionError as error:
                cause = error.__cause__
                if isinstance(cause, EndpointRefused):  # a redirect: nothing was sent to its target
                    cost = 0.0
                    raise cause from None
                if type(cause).__name__ == "ConnectError":  # nothing was sent
                    cost = 0.0
                else:
                    self._summary.unanswered += 1
                raise _Retry(f"connection: {type(cause or error).__name__}") from error
            try:
                completion = read_completion(raw.http_response.text, FORMATS[level], tokens)
                completion = completion._replace(omitted=tuple(sorted(omitted)))
            except ValueError as error:
                self._summary.unanswered += 1
                raise _Retry(f"bad answer: {error}") from error
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
                print(
                    f"refine: the endpoint asks to wait {after:.0f} s", file=sys.stderr, flush=True
                )
            return
        wait = min(self._settings.backoff * 2 ** (attempt - 1), _MAX_BACKOFF)
        await self.halt.sleep(wait * random.uniform(0.5, 1.0))


class _Retry(Exception):
    """A transient failure; `after` is the pause that the endpoint asked for, in seconds."""

    def __init__(self, message: str, after: float | None = None):
        super().__init__(message)
        self.after = after


class _FormatRefused(Exception):
    """A request refused as invalid, perhaps for its reply format."""


def _error_for(error: openai.APIStatusError, settings: RefineSettings) -> Exception:
    """The exception that an HTTP error is handled by."""
    code = error.status_code
    message = printable(str(error.message))[:200]
    side = settings.image_side
    refusals = {
        401: f"refused the key (HTTP 401): check OPENAI_API_KEY ({message})",
        402: f"requires payment (HTTP 402: {message}); the replies so far are kept",
        403: f"denied access (HTTP 403: {message}): check OPENAI_API_KEY, --model and "
        "whether it serves your region",
        404: f"does not know this model or address (HTTP 404: {message}): check --model and --base_url",
        405: f"does not accept such requests (HTTP 405: {message}): check --base_url",
        413: f"refused a request with an image of up to {2 * side}x{side} pixels as too large (HTTP 413: "
        f"{message}): raise its limit",
    }  # fmt: skip
    if code in refusals:
        return EndpointRefused(f"the endpoint {refusals[code]}")
    if code == 429 and error.code == "insufficient_quota":
        return EndpointRefused(
            "the quota at the endpoint is used up (HTTP 429); the replies so far are kept: run the same "
            "command again later"
        )
    if code in _TRANSIENT_STATUSES or (code >= 500 and code != 501):
        return _Retry(f"http {code}", _retry_after(error.response.headers.get("retry-after")))
    if code in _FORMAT_STATUSES:
        return _FormatRefused(f"http {code}: {message}")
    return QuestionFailed(f"http {code}: {message}")


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if it is invalid."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
