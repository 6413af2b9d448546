"""The form of a reply, as pydantic models and as the JSON schema that is sent with a question."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jax_vlffd.vocabulary import REGIONS, TYPES, VERDICTS

_CLOSED = ConfigDict(
    json_schema_extra={"additionalProperties": False}
)  # required by strict schemas


class RegionReply(BaseModel):
    """One described region. Any words are accepted here; `grounding` checks them."""

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
            for name in (
                "maxItems",
                "maxLength",
            ):  # our own bounds, which strict mode may not support
                field.pop(name, None)
            if "enum" in field.get("items", {}):
                field["items"]["type"] = "string"
    return schema
