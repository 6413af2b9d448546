"""The repair turn: what is asked again after a reply that breaks the rules."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.fftg.refine.grounding import Violation
from data_pipeline.fftg.refine.prompts import Message

_MAX_QUOTED = 4_000  # characters of a reply that are sent back; a good one has about 500


def repair_messages(
    conversation: Sequence[Message], reply: str, violations: Sequence[Violation]
) -> list[Message]:
    """Returns the messages of the repair turn: the question, the reply and its violations."""
    faults = "\n".join(f"- {v.kind.replace('_', ' ')}: {v.detail}" for v in violations)
    text = (
        f"This answer breaks the rules:\n{faults}\n"
        "Answer again with the corrected JSON object and nothing else."
    )
    return [
        *conversation,
        {"role": "assistant", "content": reply[:_MAX_QUOTED]},
        {"role": "user", "content": text},
    ]
