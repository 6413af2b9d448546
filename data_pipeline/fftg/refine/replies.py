"""Reads a reply: extracts its JSON object, validates its form, and checks it against the annotation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from data_pipeline.fftg.refine import grounding
from data_pipeline.fftg.refine.grounding import Violation
from data_pipeline.fftg.refine.redaction import printable
from data_pipeline.fftg.refine.reply_schema import Reply
from jax_vlffd.json_reading import parse_json_at

_MAX_REPLY = 20_000  # characters; a good one has about 500
_MAX_PARSED = 10 * _MAX_REPLY  # characters of failed attempts to parse
#: Ends of a model's thoughts, and where thoughts begin, as models mark them.
_THOUGHTS = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|reflection)"
_THOUGHT_END = re.compile(
    rf"</{_THOUGHTS}>|\[/{_THOUGHTS}\]|\u25c1/{_THOUGHTS}\u25b7|<\|channel\|>\s*final\b",
    re.IGNORECASE,
)
_THOUGHT_START = re.compile(
    rf"<{_THOUGHTS}>|\[{_THOUGHTS}\]|\u25c1{_THOUGHTS}\u25b7|<\|channel\|>\s*(?:analysis|commentary)\b",
    re.IGNORECASE,
)


def judge(
    text: str, finish_reason: str | None, annotation: Mapping[str, Any]
) -> tuple[Reply | None, list[Violation]]:
    """Returns the reply in a text and its violations.

    Args:
      text: the message of the model, which may wrap its JSON object in prose or a code fence.
      finish_reason: the endpoint's reason for the end of the text.
      annotation: the line that the reply is for.

    Returns:
      The reply, or None if there is no valid one; and its violations, empty if it can be used.
    """
    problem = "no JSON object" + (f" (ended by {finish_reason})" if finish_reason != "stop" else "")
    for candidate in _objects(text):
        try:
            reply = Reply.model_validate(candidate)
        except ValidationError as error:
            first = error.errors()[0]
            location = ".".join(str(part) for part in first["loc"])
            problem = f"{location}: {first['msg']}"
        else:
            return reply, grounding.check(reply, annotation)
    return None, [Violation("bad_format", printable(problem)[:120])]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every outermost JSON object in a text outside the model's thoughts."""
    text = _without_thoughts(text)[:_MAX_REPLY]
    end = 0
    budget = _MAX_PARSED
    for brace in re.finditer(r"\{", text):
        start = brace.start()
        if start < end or budget <= 0:
            continue
        budget -= 100  # the fixed cost of an attempt
        try:
            value, end = parse_json_at(text, start)
        except json.JSONDecodeError as error:
            budget -= error.pos - start  # otherwise `{"a":{"a":...` would take quadratic time
            continue
        if isinstance(value, dict):
            yield value


def _without_thoughts(text: str) -> str:
    """What follows the last thought, and ends where one begins that was cut off."""
    # A mark behind all objects ends nothing: the answer came before it.
    ends = (match.end() for match in _THOUGHT_END.finditer(text, 0, text.rfind("{") + 1))
    end = max(ends, default=0)
    start = _THOUGHT_START.search(text, end)
    return text[end : start.start() if start else None]
