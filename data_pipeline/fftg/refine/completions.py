"""Chat completions: writes the body of a request, and reads the body of a response or of an error."""

from __future__ import annotations

import html
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from data_pipeline.fftg.refine.prompts import Message
from data_pipeline.fftg.refine.redaction import printable, redacted
from data_pipeline.fftg.refine.reply_schema import reply_schema
from data_pipeline.fftg.refine.settings import RefineSettings
from jax_vlffd.json_reading import parse_json

#: Reply formats, strictest first; an endpoint that refuses one is asked with the next.
FORMATS: Final = ("json_schema", "json_object", "text")
#: The fault of a response in HTML.
WEB_PAGE: Final = "a web page, not JSON: does --base_url lack a /v1 at its end?"
_CHARACTERS_PER_TOKEN = 4
_MAX_NAME = 200  # characters of a model's name
_MAX_TEXT = 1 << 20  # characters of a reply, as of an HTTP response
_MAX_WORDS = 200  # characters of an error that are shown
_MAX_PAGE = 8_000  # characters of a web page that are read for them
# Larger token counts are ignored: a picture may cost many times our estimate, but a wrong count would block the
# budget and the rate limit.
_MAX_FACTOR, _MAX_EXTRA, _MAX_TOKENS_OUT = 20, 10_000, 200_000
#: Words in the errors of endpoints that do not accept a parameter, and in those that only want another value.
_UNKNOWN = re.compile(
    r"not support|unsupported|unknown|unrecogni|unexpected|not permitted|not allowed|extra|invalid|bad|wrong"
    r"|deprecated|instead|not accept|only|must|forbidden",
    re.IGNORECASE,
)
_OTHER_VALUE = re.compile(r"too (?:large|high|many|long)|context|at most|less than", re.IGNORECASE)
_CODES = (
    "code",
    "id",
    "input",
    "object",
    "request_id",
    "status",
    "type",
)  # of an error, beside its words
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


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
    refused = re.search(rf"\b{name}\b", message) and not _OTHER_VALUE.search(message)
    names = {name} if refused else set()
    if settings.temperature is not None and "temperature" in message:
        names.add("temperature")
    return frozenset(names)


def error_texts(body: str | Mapping[str, Any], skip: Container[str] = ()) -> list[str]:
    """The texts in the body of an error, the message first: the strings of JSON outside the fields `skip`, else
    the words of a page.
    """
    try:
        value = parse_json(body, lenient=True) if isinstance(body, str) else body
    except ValueError:
        text = str(body)[:_MAX_PAGE]
        value = redacted(html.unescape(_TAG.sub(" ", text) if _is_page(text) else text))
    texts = (printable(text) for text in _strings(value, skip))
    return list(dict.fromkeys(text for text in texts if text))


def error_words(body: str | Mapping[str, Any]) -> str:
    """What the body of an error says, in one short printable line; "no message" if nothing."""
    texts = error_texts(body, _CODES) or error_texts(body)
    return ", ".join(texts)[:_MAX_WORDS] or "no message"


def _strings(value: Any, skip: Container[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, skip)
    elif isinstance(value, Mapping):
        for name in sorted(value, key=lambda name: name not in ("error", "message", "msg")):
            if name not in skip:
                yield from _strings(value[name], skip)


def _is_page(body: Any) -> bool:
    return isinstance(body, str) and body.lstrip()[:1] == "<"


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
        kind = WEB_PAGE if _is_page(body) else "not JSON"
        raise ValueError(f"{kind} ({error_words(body)})") from error
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
        words = error_words(value) if isinstance(value, dict) else "no message"
        raise ValueError(f"not a chat completion ({words})") from error
    written = len(text) // _CHARACTERS_PER_TOKEN + 1
    return Completion(
        text=text[:_MAX_TEXT],
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
