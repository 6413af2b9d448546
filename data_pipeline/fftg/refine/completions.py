"""Chat completions: writes the body of a request, and reads the body of a response."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.core.json_reading import parse_json
from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.reply_schema import reply_schema
from data_pipeline.fftg.refine.settings import RefineSettings

#: Reply formats, strictest first; an endpoint that refuses one is asked with the next.
FORMATS: Final = ("json_schema", "json_object", "text")
#: The fault of a response in HTML.
WEB_PAGE: Final = "a web page, not JSON: does --base_url lack a /v1 at its end?"
_CHARACTERS_PER_TOKEN = 4
_MAX_NAME = 200  # characters of a model's name
# Larger token counts are ignored: a picture may cost many times our estimate, but a wrong count would block the
# budget and the rate limit.
_MAX_FACTOR, _MAX_EXTRA, _MAX_TOKENS_OUT = 20, 10_000, 200_000
#: Words in the errors of endpoints that do not accept a parameter.
_UNKNOWN = re.compile(
    r"not support|unsupported|unknown|unrecogni|unexpected|not permitted|not allowed|extra",
    re.IGNORECASE,
)


class Completion(NamedTuple):
    """One reply, with the endpoint's token counts; `omitted` names the parameters left out of the request."""

    text: str
    finish_reason: str | None
    model: str
    tokens_in: int
    tokens_out: int
    format: str
    omitted: tuple[str, ...] = ()


def request_body(
    conversation: Sequence[Message],
    settings: RefineSettings,
    form: str,
    omitted: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Returns the body of a chat completion request in one of FORMATS, without the `omitted` parameters."""
    body: dict[str, Any] = {"model": settings.model, "messages": list(conversation)}
    names = _max_tokens_names(settings)
    body[names[names[0] in omitted]] = settings.max_tokens
    if settings.temperature is not None and "temperature" not in omitted:
        body["temperature"] = settings.temperature
    if form == "json_schema":
        schema = {"name": "reply", "strict": True, "schema": reply_schema()}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def _max_tokens_names(settings: RefineSettings) -> tuple[str, str]:
    """The names of the limit of a reply, likelier first: OpenAI's newer models refuse the old one, and many
    other servers do not know the new one.
    """
    names = ("max_tokens", "max_completion_tokens")
    return names if settings.base_url else (names[1], names[0])


def unknown_names(message: str, settings: RefineSettings) -> frozenset[str]:
    """The optional parameters that an endpoint's error message refuses."""
    if not _UNKNOWN.search(message):
        return frozenset()
    name = _max_tokens_names(settings)[0]
    names = {name} if re.search(rf"\b{name}\b", message) else set()
    if settings.temperature is not None and "temperature" in message:
        names.add("temperature")
    return frozenset(names)


def read_completion(body: str | Mapping[str, Any], form: str, estimate: int) -> Completion:
    """Reads the body of a chat completion.

    Args:
      body: JSON text, or its value.
      form: the requested reply format, one of FORMATS.
      estimate: of the prompt's tokens, used if the endpoint does not count them.

    Raises:
      ValueError: it is not a chat completion.
    """
    try:
        value = parse_json(body, lenient=True) if isinstance(body, str) else body
    except ValueError as error:
        html = isinstance(body, str) and body.lstrip()[:1] == "<"
        raise ValueError(WEB_PAGE if html else "not JSON") from error
    try:
        choice = value["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if isinstance(text, list):  # some servers send parts
            text = "".join(part.get("text") or "" for part in text)
        finish = choice.get("finish_reason")
        refusal = message.get("refusal")
        if not isinstance(text, str):
            # Refused, or all tokens were spent on reasoning: still a reply, and billed.
            text = refusal if isinstance(refusal, str) else ""
            finish = "refusal" if refusal else finish
        usage = value.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        model = value.get("model")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("not a chat completion") from error
    written = len(text) // _CHARACTERS_PER_TOKEN + 1
    return Completion(
        text=text,
        finish_reason=finish[:_MAX_NAME] if isinstance(finish, str) else None,
        model=model[:_MAX_NAME] if isinstance(model, str) else "",
        tokens_in=_token_count(
            usage.get("prompt_tokens"), estimate, _MAX_FACTOR * estimate + _MAX_EXTRA
        ),
        tokens_out=_token_count(usage.get("completion_tokens"), written, _MAX_TOKENS_OUT),
        format=form,
    )


def _token_count(value: Any, estimate: int, maximum: int) -> int:
    """The endpoint's count of tokens if it is plausible, else our estimate."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 < value <= maximum else estimate
