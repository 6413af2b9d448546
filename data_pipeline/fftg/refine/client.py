"""One OpenAI-compatible endpoint: pace, budget, retries, reply formats. It keeps nothing on disk.

Retries are ours and not the SDK's (`max_retries=0`), so that each is counted, paced and paid from
the budget. A request that ended without an answer after it was sent may have been billed: its
estimated cost stays in the budget, so `--max_usd` holds even then.
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
    PAGE,
    Completion,
    read_completion,
    request_body,
    unknown_names,
)
from data_pipeline.fftg.refine.pace import Budget, Halt, Pacer
from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.redaction import printable
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from data_pipeline.fftg.refine.wire import Refused, Wire
from jax_vlffd.errors import UserError

_REFUSED_FORMAT = (400, 415, 422, 501)
_PASSING = (408, 409, 425, 429)  # and every 5xx
_MAX_WAIT = 60.0
_MAX_RETRY_AFTER = 600.0
_TYPICAL_TOKENS_OUT = 150
_WORTH_SAYING = 5.0  # seconds of a pause
_GIVE_UP_REFUSED = 5  # questions in a row that were refused as wrong: all of them are
_GIVE_UP = 20  # requests in a row that failed for good: the endpoint is down, not the pair at fault


class Failed(Exception):
    """No reply could be had for one question; the message is `code: what happened`."""


class Endpoint:
    """Asks one endpoint, and counts into a summary.

    Args:
      settings: the run's settings.
      summary: counts `requests`, `retries`, `downgrades`, `unanswered`.
      spent: US dollars that earlier runs of the output cost.

    Raises:
      UserError: no key in the environment for OpenAI's own endpoint.
    """

    def __init__(self, settings: RefineSettings, summary: RefineSummary, spent: float):
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key and not (settings.base_url or os.environ.get("OPENAI_BASE_URL")):
            raise UserError("OPENAI_API_KEY is not set; set it, or name an endpoint by --base_url")
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise UserError("OPENAI_API_KEY holds a letter or a space that no key has; set it anew")
        self._settings = settings
        self._summary = summary
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",  # local servers want none, the SDK does
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
            http_client=Wire(),
        )
        for library in ("httpx2", "openai"):  # they log a line a request, and absl shows it
            logging.getLogger(library).setLevel(logging.WARNING)
        self.halt = Halt()
        self._pacer = Pacer(settings.rpm, settings.tpm, self.halt)
        self.budget = Budget(settings.max_usd, spent)
        self._format = 0
        self._excess = 1.0  # how far the endpoint's count of tokens passed our estimate
        self._failed_in_a_row = 0
        self._left_out: frozenset[str] = frozenset()
        self._said: set[str] = set()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, conversation: Sequence[Message], tokens: int, tag: str) -> Completion:
        """Returns the reply to a conversation, trying again while it makes sense.

        Args:
          conversation: chat messages.
          tokens: estimate of their prompt tokens.
          tag: names the question in the request's `X-Client-Request-Id`.

        Raises:
          Failed: this question gets no reply.
          Stopped: the budget is spent.
          Refused: a wrong key, model or address, no quota, or the endpoint is down.
        """
        problem = ""
        attempt = 0
        level = self._format
        left_out = self._left_out
        while attempt <= self._settings.retries:
            try:
                answer = await self._once(conversation, tokens, tag, level, left_out)
            except _Retry as error:
                problem = str(error)
                attempt += 1
                if attempt <= self._settings.retries:
                    self._summary.retries += 1
                    await self._wait(attempt, error.after)
            except _FormatRefused as error:
                self._summary.downgrades += 1
                if more := unknown_names(str(error), self._settings) - left_out:
                    left_out |= more
                    self._say(
                        f"the endpoint takes no {' and no '.join(sorted(more))}; asked without"
                    )
                elif level + 1 < len(FORMATS):
                    level += 1
                else:
                    self._summary.downgrades -= 1
                    raise self._failed(f"refused: {error}", _GIVE_UP_REFUSED) from error
            else:
                self._failed_in_a_row = 0
                self._format = max(self._format, level)
                self._left_out |= left_out
                return answer
        raise self._failed(problem, 1 if PAGE in problem else _GIVE_UP)

    def _failed(self, problem: str, give_up: int) -> Exception:
        """What one more question without a reply comes to."""
        if give_up < _GIVE_UP and self._summary.answered + self._summary.reused:
            return Failed(problem)  # others were answered: it is this pair
        self._failed_in_a_row += 1
        if self._failed_in_a_row < give_up:
            return Failed(problem)
        questions = f"{give_up} questions in a row" if give_up > 1 else "the question"
        return Refused(
            f"the endpoint failed {questions} ({problem}); the replies so far are kept: run the same command "
            "again once it is well"
        )

    def _say(self, text: str) -> None:
        """Says something once."""
        if text not in self._said:
            self._said.add(text)
            print(f"refine: {text}", file=sys.stderr, flush=True)

    async def _once(
        self,
        conversation: Sequence[Message],
        tokens: int,
        tag: str,
        level: int,
        left_out: frozenset[str],
    ) -> Completion:
        likely = tokens * self._excess
        most = self._settings.cost(likely, self._settings.max_tokens)
        await self.budget.reserve(most)
        cost = 0.0
        try:
            await self._pacer.turn(likely + _TYPICAL_TOKENS_OUT)
            self._summary.requests += 1
            cost = most  # from here on it may be billed, until we know better
            try:
                async with asyncio.timeout(self._settings.timeout):
                    raw = await self._client.chat.completions.with_raw_response.create(
                        **request_body(conversation, self._settings, FORMATS[level], left_out),
                        extra_headers={"X-Client-Request-Id": tag},
                    )
            except openai.APIStatusError as error:
                cost = 0.0
                raise _sorted_out(error, self._settings) from error
            except (TimeoutError, openai.APITimeoutError) as error:
                self._summary.unanswered += 1
                raise _Retry(f"timeout: no answer in {self._settings.timeout:g} s") from error
            except openai.APIConnectionError as error:
                cause = error.__cause__
                if isinstance(cause, Refused):  # a redirect: nothing was sent where it points
                    cost = 0.0
                    raise cause from None
                if type(cause).__name__ == "ConnectError":  # it was never sent
                    cost = 0.0
                else:
                    self._summary.unanswered += 1
                raise _Retry(f"connection: {type(cause or error).__name__}") from error
            try:
                answer = read_completion(raw.http_response.text, FORMATS[level], tokens)
                answer = answer._replace(left_out=tuple(sorted(left_out)))
            except ValueError as error:
                self._summary.unanswered += 1
                raise _Retry(f"bad answer: {error}") from error
            cost = self._settings.cost(answer.tokens_in, answer.tokens_out)
            if answer.tokens_in:
                self._excess = max(self._excess, answer.tokens_in / max(tokens, 1))
            counted = answer.tokens_in + answer.tokens_out
            self._pacer.correct(likely + _TYPICAL_TOKENS_OUT, counted)
            return answer
        finally:
            await self.budget.settle(most, cost)

    async def _wait(self, attempt: int, after: float | None) -> None:
        """Backs off with jitter, or as long as the endpoint asked, and then for everyone."""
        if after is not None:
            if after > _MAX_RETRY_AFTER:
                raise Refused(
                    f"the endpoint asks to wait {after:,.0f} s; the replies so far are kept: run the same "
                    "command again after that"
                )
            if self._pacer.hold(after) and after >= _WORTH_SAYING:
                print(
                    f"refine: the endpoint asks to wait {after:.0f} s", file=sys.stderr, flush=True
                )
            return
        longest = min(self._settings.backoff * 2 ** (attempt - 1), _MAX_WAIT)
        await self.halt.sleep(longest * random.uniform(0.5, 1.0))


class _Retry(Exception):
    """A failure that may pass; `after` is what the endpoint asked for, in seconds."""

    def __init__(self, message: str, after: float | None = None):
        super().__init__(message)
        self.after = after


class _FormatRefused(Exception):
    """A request refused as wrong, perhaps for its reply format."""


def _sorted_out(error: openai.APIStatusError, settings: RefineSettings) -> Exception:
    """Turns an HTTP error into what to do about it."""
    code = error.status_code
    said = printable(str(error.message))[:200]
    if code == 401:
        return Refused(f"the endpoint refused the key (HTTP 401): check OPENAI_API_KEY ({said})")
    if code == 403:
        return Refused(
            f"the endpoint refused us (HTTP 403: {said}): check OPENAI_API_KEY, --model and whether it serves "
            "your region"
        )
    if code == 402:
        return Refused(
            f"the endpoint wants payment (HTTP 402: {said}); the replies so far are kept"
        )
    if code == 405:
        return Refused(f"the endpoint takes no such request (HTTP 405: {said}): check --base_url")
    if code == 413:
        side = settings.image_side
        return Refused(
            f"the endpoint refused a request with a picture of up to {2 * side}x{side} pixels as too large "
            f"(HTTP 413: {said}): raise its limit"
        )
    if code == 404:
        return Refused(f"the endpoint knows no such model or address (HTTP 404: {said})")
    if code == 429 and error.code == "insufficient_quota":
        return Refused(
            "the endpoint's quota is spent (HTTP 429); the replies so far are kept: run the same "
            "command again later"
        )
    if code in _PASSING or (code >= 500 and code != 501):
        return _Retry(f"http {code}", _retry_after(error.response.headers.get("retry-after")))
    if code in _REFUSED_FORMAT:
        return _FormatRefused(f"http {code}: {said}")
    return Failed(f"http {code}: {said}")


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
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
