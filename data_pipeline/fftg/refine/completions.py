"""A chat completion: the body of a request, and what is read from the body of an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.core.json_reading import parse_json
from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.replies import reply_schema
from data_pipeline.fftg.refine.settings import RefineSettings

#: Reply formats from the strictest down; an endpoint that refuses one is asked by the next.
FORMATS: Final = ("json_schema", "json_object", "text")
#: What an answer of HTML is.
PAGE: Final = "a web page, not JSON: does --base_url lack a /v1 at its end?"
_LETTERS_A_TOKEN = 4
_MAX_NAME = 200  # letters of a model's name
# Counts of tokens beyond these are not believed: a picture may count for many times what we estimate, but a
# wrong count stops the budget and the pace.
_MAX_FOLD, _MAX_MORE, _MAX_TOKENS_OUT = 20, 10_000, 200_000
#: How an endpoint says that it does not take a parameter.
_UNKNOWN = re.compile(
    r"not support|unsupported|unknown|unrecogni|unexpected|not permitted|not allowed|extra",
    re.IGNORECASE,
)


class Completion(NamedTuple):
    """One reply of the endpoint, as it counts it; `left_out` names parameters that it was asked without."""

    text: str
    finish_reason: str | None
    model: str
    tokens_in: int
    tokens_out: int
    format: str
    left_out: tuple[str, ...] = ()


def request_body(
    conversation: Sequence[Message],
    settings: RefineSettings,
    form: str,
    left_out: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Returns the body of a chat completion request, by one of FORMATS, without what the endpoint refused."""
    body: dict[str, Any] = {"model": settings.model, "messages": list(conversation)}
    names = _longest_names(settings)
    body[names[names[0] in left_out]] = settings.max_tokens
    if settings.temperature is not None and "temperature" not in left_out:
        body["temperature"] = settings.temperature
    if form == "json_schema":
        schema = {"name": "reply", "strict": True, "schema": reply_schema()}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def _longest_names(settings: RefineSettings) -> tuple[str, str]:
    """The names of the longest reply, the likelier first: OpenAI's newer models refuse the old one, and many
    other servers do not know the new one.
    """
    names = ("max_tokens", "max_completion_tokens")
    return names if settings.base_url else (names[1], names[0])


def unknown_names(said: str, settings: RefineSettings) -> frozenset[str]:
    """The parameters that an endpoint's words refuse, of those that it can be asked without."""
    if not _UNKNOWN.search(said):
        return frozenset()
    name = _longest_names(settings)[0]
    found = {name} if re.search(rf"\b{name}\b", said) else set()
    if settings.temperature is not None and "temperature" in said:
        found.add("temperature")
    return frozenset(found)


def read_completion(body: str | Mapping[str, Any], form: str, asked: int) -> Completion:
    """Reads the body of a chat completion.

    Args:
      body: JSON text, or its value.
      form: the reply format that was asked for, one of FORMATS.
      asked: our own estimate of the prompt's tokens, for where the endpoint counts none.

    Raises:
      ValueError: it is none.
    """
    try:
        value = parse_json(body, lenient=True) if isinstance(body, str) else body
    except ValueError as error:
        page = isinstance(body, str) and body.lstrip()[:1] == "<"
        raise ValueError(PAGE if page else "not JSON") from error
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
    return Completion(
        text=text,
        finish_reason=finish[:_MAX_NAME] if isinstance(finish, str) else None,
        model=model[:_MAX_NAME] if isinstance(model, str) else "",
        tokens_in=_counted(usage.get("prompt_tokens"), asked, _MAX_FOLD * asked + _MAX_MORE),
        tokens_out=_counted(usage.get("completion_tokens"), written, _MAX_TOKENS_OUT),
        format=form,
    )


def _counted(said: Any, estimate: int, most: int) -> int:
    """The endpoint's count of tokens where it is one that can be, else our estimate."""
    believed = isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= most
    return int(said) if believed else estimate
