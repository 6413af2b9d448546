"""Turns annotation lines into questions, and replies in the journal into refined lines.

The refined line depends only on the raw line and the journal. So a killed run, a batch returned in
parts and an uninterrupted run all write the same output with the same code.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.measure.versions import VERSION
from data_pipeline.fftg.refine.completions import Completion
from data_pipeline.fftg.refine.earlier import earlier_line
from data_pipeline.fftg.refine.grounding import Violation, final_caption, forged_regions
from data_pipeline.fftg.refine.journal import Journal, usd
from data_pipeline.fftg.refine.prompts import (
    Image,
    Message,
    Prompts,
    composite,
    content_key,
    estimate_tokens,
    messages,
)
from data_pipeline.fftg.refine.repair import repair_messages
from data_pipeline.fftg.refine.replies import judge
from data_pipeline.fftg.refine.reply_schema import Reply
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.vocabulary import FAKE

Line = Mapping[str, Any]
#: Returns the pair of a line, RGB uint8 [H, W, 3]; called from threads; may raise UNREADABLE.
LoadImages = Callable[[Line], tuple[Image, Image]]
UNREADABLE = (UserError, PairError, OSError, ValueError)
_MAX_FIELD, _MAX_NAMES = 300, 20  # characters and names of a field of the provenance


@dataclass
class Question:
    """A question, asked once for all lines of the same content.

    Attributes:
      key: see `prompts.content_key`.
      line: the first line with this question.
      tokens: estimate of its prompt tokens.
    """

    key: str
    line: Line
    tokens: int


@dataclass
class RefinePlan:
    """All questions of a run.

    Attributes:
      questions: one per key, in the order of the lines.
      keys: the key of a line, by its index in the input; lines without a question are missing.
      unreadable: the error in reading a line's images, by its index.
    """

    questions: list[Question] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompter:
    """Makes the questions of a run from its settings, prompts and images."""

    settings: RefineSettings
    prompts: Prompts
    load_images: LoadImages

    def plan(self, lines: Sequence[Line]) -> RefinePlan:
        """Reads every pair that can be refined (see `nothing_to_refine`) and computes its key.

        Lines that were refined with an older version of the annotator are kept as they are.
        """
        plan = RefinePlan()
        planned: set[str] = set()
        for index, line in enumerate(lines):
            if nothing_to_refine(line) or earlier_line(line).is_older:
                continue
            try:
                real, fake = self.load_images(line)
            except UNREADABLE as error:
                plan.unreadable[index] = f"images: {error}"
                continue
            key = content_key(line, real, fake, self.prompts, self.settings)
            plan.keys[index] = key
            if key not in planned:
                planned.add(key)
                text = messages(line, b"", self.prompts, self.settings.detail)
                scale = min(1.0, self.settings.image_side / max(real.shape[:2]))
                size = (round(real.shape[0] * scale), round(real.shape[1] * scale))
                tokens = estimate_tokens(text, size, self.settings.model)
                plan.questions.append(Question(key, line, tokens))
        return plan

    def picture(self, question: Question) -> bytes:
        """Returns the JPEG composite of a question."""
        real, fake = self.load_images(question.line)
        return composite(real, fake, self.settings.image_side)

    def conversation(self, question: Question, journal: Journal, turn: int) -> list[Message]:
        """Returns the messages of a turn (0, or 1 for the repair, which quotes the first reply)."""
        picture = self.picture(question)
        conversation = messages(question.line, picture, self.prompts, self.settings.detail)
        if turn == 0:
            return conversation
        first = journal.get(question.key, 0)
        assert first is not None, "a repair needs a first reply"
        _, violations = judge(first["text"], first.get("finish_reason"), question.line)
        return repair_messages(conversation, first["text"], violations)

    def record(
        self, question: Question, turn: int, completion: Completion, how: str
    ) -> dict[str, Any]:
        """Returns the journal's line for a reply, with its provenance; `how` is `online` or `batch`."""
        return {
            "key": question.key,
            "turn": turn,
            "id": question.line.get("id"),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "model": self.settings.model,
            "answered_by": completion.model,
            "prompts": f"{self.prompts.version}-{self.prompts.digest}",
            "decoding": self.settings.decoding
            | dict.fromkeys({"temperature"} & set(completion.omitted)),
            "format": completion.format,
            "how": how,
            "tokens_in": completion.tokens_in,
            "tokens_out": completion.tokens_out,
            "cost_usd": self.settings.cost(completion.tokens_in, completion.tokens_out),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def nothing_to_refine(line: Line) -> str | None:
    """Returns why the caption of a line is not refined, or None if it can be."""
    if not line.get("raw_caption"):
        return "no annotation"
    if line.get("label") != FAKE:
        return "real face"
    return None if forged_regions(line) else "no visible forgery"


def next_turn(question: Question, journal: Journal) -> int | None:
    """Returns the next turn of a question, or None once it is settled."""
    first = journal.get(question.key, 0)
    if first is None:
        return 0
    _, violations = judge(first["text"], first.get("finish_reason"), question.line)
    return 1 if violations and journal.get(question.key, 1) is None else None


def write_output(
    out: Path,
    lines: Sequence[Line],
    plan: RefinePlan,
    journal: Journal,
    failures: Mapping[str, str],
    summary: RefineSummary,
) -> None:
    """Writes every line with its best caption, and counts them in the summary.

    Args:
      out: the annotation file; written atomically, in the order of the input.
      lines: annotation lines.
      plan: their questions.
      journal: the paid replies.
      failures: errors of questions without a reply, by their key.
      summary: its counts of lines, violations and reasons are updated.
    """
    summary.lines = len(lines)
    texts = []
    for index, line in enumerate(lines):
        key = plan.keys.get(index)
        if key is not None:
            settled = _settle(line, key, journal, failures.get(key), summary)
        elif index in plan.unreadable:
            settled = _fall_back(line, plan.unreadable[index], summary)
        elif earlier_line(line).is_older:
            settled = {}
            summary.kept += 1
        else:
            settled = {"source": "raw", "refinement": {"reason": nothing_to_refine(line)}}
            summary.raw += 1
        texts.append(json.dumps({**line, **settled}, ensure_ascii=False))
    atomic_write_text(out, "".join(text + "\n" for text in texts))


def _settle(
    line: Line, key: str, journal: Journal, failure: str | None, summary: RefineSummary
) -> dict[str, Any]:
    """The new fields of a line with a question."""
    replies = [r for r in (journal.get(key, 0), journal.get(key, 1)) if r is not None]
    judged: list[tuple[Reply | None, list[Violation]]] = [
        judge(r["text"], r.get("finish_reason"), line) for r in replies
    ]
    summary.repairs += len(replies) == 2
    summary.judged += bool(replies)
    summary.violating += bool(replies and judged[0][1])
    for _, violations in judged:
        summary.violations.update({v.kind for v in violations})
    provenance = _provenance(key, replies, judged)
    good = next((reply for reply, violations in judged if reply and not violations), None)
    if good is not None:
        summary.refined += 1
        text = final_caption(good, int(line["label"]))
        return {"caption": text, "source": "refined", "refinement": provenance}
    if failure is None and len(replies) < 2:
        summary.raw += 1
        summary.pending += 1
        return {"caption": line["raw_caption"], "source": "raw", "refinement": provenance}
    kinds = sorted({v.kind for v in judged[-1][1]}) if judged else []
    reason = failure or "violations: " + ", ".join(kinds)
    return _fall_back(line, reason, summary, provenance)


def _fall_back(
    line: Line, reason: str, summary: RefineSummary, provenance: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    summary.fallback += 1
    summary.reasons[reason.split(":")[0] if "violations" not in reason else reason] += 1
    refinement = {**(provenance or {}), "reason": reason}
    return {"caption": line["raw_caption"], "source": "fallback", "refinement": refinement}


def _provenance(
    key: str,
    replies: Sequence[Mapping[str, Any]],
    judged: Sequence[tuple[Reply | None, list[Violation]]],
) -> dict[str, Any]:
    """The provenance of a caption: the key, the replies, and the violations of each."""
    names = ("model", "answered_by", "prompts", "decoding", "format", "how", "time")
    return {
        "key": key,
        "annotator": VERSION,
        "turns": len(replies),
        "violations": [[list(v) for v in violations] for _, violations in judged],
        "cost_usd": sum(usd(r) for r in replies),
        "tokens_in": sum(_count(r.get("tokens_in")) for r in replies),
        "tokens_out": sum(_count(r.get("tokens_out")) for r in replies),
        **({name: _plain(replies[-1].get(name)) for name in names} if replies else {}),
    }


def _plain(value: Any) -> Any:
    """A field of a journal's line, which may hold anything, as we write it: flat, short, finite, else None."""
    if isinstance(value, dict):
        return {
            name[:_MAX_FIELD]: None if isinstance(part, dict) else _plain(part)
            for name, part in itertools.islice(value.items(), _MAX_NAMES)
        }
    if isinstance(value, str):
        return value[:_MAX_FIELD]
    number = isinstance(value, int | float) and math.isfinite(value)
    return value if number else None


def _count(tokens: Any) -> int:
    return int(tokens) if isinstance(tokens, int | float) and tokens >= 0 else 0
