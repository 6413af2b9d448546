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
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import openai

from data_pipeline.errors import UserError
from data_pipeline.fftg.pace import Budget, Halt, Pacer, Stopped
from data_pipeline.fftg.prompts import Message
from data_pipeline.fftg.redaction import printable
from data_pipeline.fftg.refine_settings import RefineSettings, RefineSummary
from data_pipeline.fftg.wire import Refused, Wire
from data_pipeline.json_reading import parse_json

__all__ = [
    "FORMATS", "Answer", "Endpoint", "Failed", "Refused", "Stopped", "read_completion", "request_body",
]  # fmt: skip

#: Reply formats from the strictest down; an endpoint that refuses one is asked by the next.
FORMATS: Final = ("json_schema", "json_object", "text")
_REFUSED_FORMAT = (400, 415, 422, 501)
_PASSING = (408, 409, 425, 429)  # and every 5xx
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 600.0
_TYPICAL_TOKENS_OUT = 150
_LETTERS_A_TOKEN = 4
_LONGEST_NAME = 200  # letters of a model's name
# Counts of tokens beyond these are not believed: a picture may count for many times what we estimate, but a
# wrong count stops the budget and the pace.
_MOST_FOLD, _MOST_MORE, _MOST_TOKENS_OUT = 20, 10_000, 200_000
_PAGE = "a web page, not JSON: does --base_url lack a /v1 at its end?"
_GIVE_UP = 20  # requests in a row that failed for good: the endpoint is down, not the pair at fault


class Answer(NamedTuple):
    """One reply of the endpoint, as it counts it."""

    text: str
    finish_reason: str | None
    model: str
    tokens_in: int
    tokens_out: int
    format: str


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

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, conversation: Sequence[Message], tokens: int, tag: str) -> Answer:
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
        while attempt <= self._settings.retries:
            try:
                answer = await self._once(conversation, tokens, tag, level)
            except _Retry as error:
                problem = str(error)
                attempt += 1
                if attempt <= self._settings.retries:
                    self._summary.retries += 1
                    await self._wait(attempt, error.after)
            except _FormatRefused as error:
                if level + 1 == len(FORMATS):
                    raise Failed(f"refused: {error}") from error
                level += 1
                self._summary.downgrades += 1
            else:
                self._failed_in_a_row = 0
                self._format = max(self._format, level)
                return answer
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _GIVE_UP:
            raise Refused(
                f"the endpoint failed {_GIVE_UP} questions in a row ({problem}); the replies so "
                "far are kept: run the same command again once it is well"
            )
        raise Failed(problem)

    async def _once(
        self, conversation: Sequence[Message], tokens: int, tag: str, level: int
    ) -> Answer:
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
                        **request_body(conversation, self._settings, FORMATS[level]),
                        extra_headers={"X-Client-Request-Id": tag},
                    )
            except openai.APIStatusError as error:
                cost = 0.0
                raise _sorted_out(error) from error
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
            self._pacer.hold(min(after, _LONGEST_RETRY_AFTER))
            return
        longest = min(self._settings.backoff * 2 ** (attempt - 1), _LONGEST_WAIT)
        await self.halt.sleep(longest * random.uniform(0.5, 1.0))


def request_body(
    conversation: Sequence[Message], settings: RefineSettings, form: str
) -> dict[str, Any]:
    """Returns the body of a chat completion request, by one of FORMATS."""
    from data_pipeline.fftg.replies import reply_schema

    body: dict[str, Any] = {"model": settings.model, "messages": list(conversation)}
    # OpenAI's newer models refuse the old name, and many other servers do not know the new one.
    longest = "max_tokens" if settings.base_url else "max_completion_tokens"
    body[longest] = settings.max_tokens
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if form == "json_schema":
        schema = {"name": "reply", "strict": True, "schema": reply_schema()}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def read_completion(body: str | Mapping[str, Any], form: str, asked: int) -> Answer:
    """Reads the body of a chat completion.

    Args:
      body: JSON text, or its value.
      form: the reply format that was asked for, one of FORMATS.
      asked: our own estimate of the prompt's tokens, for where the endpoint's count is none.

    Raises:
      ValueError: it is none.
    """
    try:
        value = parse_json(body, lenient=True) if isinstance(body, str) else body
    except ValueError as error:
        page = isinstance(body, str) and body.lstrip()[:1] == "<"
        raise ValueError(_PAGE if page else "not JSON") from error
    try:
        choice = value["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if isinstance(text, list):  # some servers send parts
            text = "".join(part.get("text") or "" for part in text)
        finish = choice.get("finish_reason")
        refusal = message.get("refusal")
        if not isinstance(text, str):
            # Refused, or all tokens went into thinking: a reply all the same, and billed.
            text = refusal if isinstance(refusal, str) else ""
            finish = "refusal" if refusal else finish
        usage = value.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        model = value.get("model")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("no chat completion") from error
    written = len(text) // _LETTERS_A_TOKEN + 1
    return Answer(
        text=text,
        finish_reason=finish[:_LONGEST_NAME] if isinstance(finish, str) else None,
        model=model[:_LONGEST_NAME] if isinstance(model, str) else "",
        tokens_in=_counted(usage.get("prompt_tokens"), asked, _MOST_FOLD * asked + _MOST_MORE),
        tokens_out=_counted(usage.get("completion_tokens"), written, _MOST_TOKENS_OUT),
        format=form,
    )


def _counted(said: Any, estimate: int, most: int) -> int:
    """The endpoint's count of tokens where it is one that can be, else our estimate."""
    believed = isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= most
    return int(said) if believed else estimate


class _Retry(Exception):
    """A failure that may pass; `after` is what the endpoint asked for, in seconds."""

    def __init__(self, message: str, after: float | None = None):
        super().__init__(message)
        self.after = after


class _FormatRefused(Exception):
    """A request refused as wrong, perhaps for its reply format."""


def _sorted_out(error: openai.APIStatusError) -> Exception:
    """Turns an HTTP error into what to do about it."""
    code = error.status_code
    said = printable(str(error.message))[:200]
    if code in (401, 403):
        return Refused(f"the endpoint refused the key (HTTP {code}): check OPENAI_API_KEY")
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
