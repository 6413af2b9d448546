"""Reading a reply: find the JSON object in it, and hold it to the asked form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.core.json_reading import parse_json_at
from data_pipeline.fftg.refine import grounding
from data_pipeline.fftg.refine.grounding import Violation
from jax_vlffd.vocabulary import REGIONS, TYPES, VERDICTS

_MAX_REPLY = 20_000  # characters; a good one has some 500
_MAX_READ = 10 * _MAX_REPLY  # characters read in vain
_CLOSED = ConfigDict(json_schema_extra={"additionalProperties": False})  # strict schemas ask for it


class RegionReply(BaseModel):
    """One described region. Any words are read; whether they are true is `grounding`'s to say."""

    model_config = _CLOSED
    region: str = Field(max_length=40, json_schema_extra={"enum": list(REGIONS)})
    types: list[str] = Field(max_length=20, json_schema_extra={"items": {"enum": list(TYPES)}})


class Reply(BaseModel):
    """The object that the prompts ask for."""

    model_config = _CLOSED
    verdict: str = Field(json_schema_extra={"enum": list(VERDICTS)})
    regions: list[RegionReply] = Field(max_length=20)
    caption: str


def reply_schema() -> dict[str, Any]:
    """Returns the JSON schema of a reply, in the subset that strict structured output accepts."""
    schema = Reply.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        model.pop("description", None)
        for field in model["properties"].values():
            for name in ("maxItems", "maxLength"):  # our own bounds, which strict mode may not know
                field.pop(name, None)
            if "enum" in field.get("items", {}):
                field["items"]["type"] = "string"
    return schema


def judge(
    text: str, finish_reason: str | None, annotation: Mapping[str, Any]
) -> tuple[Reply | None, list[Violation]]:
    """Returns the reply in a text and everything that is wrong with it.

    Args:
      text: the message of the model, which may wrap its JSON object in prose or a code fence.
      finish_reason: why the endpoint ended the text.
      annotation: the line it answers.

    Returns:
      The reply, None where none of the asked form can be read; its violations, none if it is good.
    """
    problem = "no JSON object" + (f" (ended by {finish_reason})" if finish_reason != "stop" else "")
    for candidate in _objects(text):
        try:
            reply = Reply.model_validate(candidate)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            problem = f"{place}: {first['msg']}"
        else:
            return reply, grounding.check(reply, annotation)
    return None, [Violation("bad_format", problem[:120])]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text, after the thoughts: the whole of it, else each that begins at a brace."""
    text = text.rpartition("</think>")[2][:_MAX_REPLY]
    end = 0
    left = _MAX_READ
    for brace in re.finditer(r"\{", text):
        start = brace.start()
        if start < end or left <= 0:
            continue
        left -= 100  # what a try costs in any case
        try:
            value, end = parse_json_at(text, start)
        except json.JSONDecodeError as error:
            left -= error.pos - start  # or each brace of `{"a":{"a":...` would be read to the end
            continue
        if isinstance(value, dict):
            yield value
