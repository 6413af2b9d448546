"""From annotation lines to questions, and from paid replies back to lines.

What a line becomes follows from the line and the journal alone. So a run that was killed, a batch
that came back in parts and a run that ended well all write the same output by the same code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_pipeline.core.files import atomic_write_text
from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.refine.completions import Completion
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
    repair_messages,
)
from data_pipeline.fftg.refine.replies import Reply, judge
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE

Line = Mapping[str, Any]
#: Gives the pair of a line, RGB uint8 [H, W, 3]; called from threads; may raise UNREADABLE.
LoadImages = Callable[[Line], tuple[Image, Image]]
UNREADABLE = (UserError, PairError, OSError, ValueError)


@dataclass
class Question:
    """What is asked once, for all lines of the same content.

    Attributes:
      key: see `prompts.content_key`.
      line: the first line that asks it.
      tokens: estimate of its prompt tokens.
    """

    key: str
    line: Line
    tokens: int


@dataclass
class RefinePlan:
    """All questions of a run.

    Attributes:
      questions: one a key, in the order of the lines.
      keys: a line's key, by its place in the input; lines that ask nothing are missing.
      unreadable: why a line's images could not be read, by its place.
    """

    questions: list[Question] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asker:
    """What every question of a run shares: settings, prompts, and how to read images."""

    settings: RefineSettings
    prompts: Prompts
    load_images: LoadImages

    def plan(self, lines: Sequence[Line]) -> RefinePlan:
        """Reads every pair that has something to refine, and gives it its key.

        Real faces, fakes without visible forgery and failed annotations ask nothing
        (`nothing_to_refine`).
        """
        plan = RefinePlan()
        seen: set[str] = set()
        for place, line in enumerate(lines):
            if nothing_to_refine(line):
                continue
            try:
                real, fake = self.load_images(line)
            except UNREADABLE as error:
                plan.unreadable[place] = f"images: {error}"
                continue
            key = content_key(line, real, fake, self.prompts, self.settings)
            plan.keys[place] = key
            if key not in seen:
                seen.add(key)
                text = messages(line, b"", self.prompts, self.settings.detail)
                side = min(1.0, self.settings.image_side / max(real.shape[:2]))
                size = (round(real.shape[0] * side), round(real.shape[1] * side))
                tokens = estimate_tokens(text, size, self.settings.model)
                plan.questions.append(Question(key, line, tokens))
        return plan

    def picture(self, question: Question) -> bytes:
        """Returns the JPEG composite of a question."""
        real, fake = self.load_images(question.line)
        return composite(real, fake, self.settings.image_side)

    def conversation(self, question: Question, journal: Journal, turn: int) -> list[Message]:
        """Returns the messages of a turn; the repair turn quotes the first reply."""
        picture = self.picture(question)
        asked = messages(question.line, picture, self.prompts, self.settings.detail)
        if turn == 0:
            return asked
        first = journal.get(question.key, 0)
        assert first is not None, "a repair without a reply"
        _, violations = judge(first["text"], first.get("finish_reason"), question.line)
        return repair_messages(asked, first["text"], violations)

    def record(self, question: Question, turn: int, answer: Completion, how: str) -> dict[str, Any]:
        """Returns the journal's line for a reply, with all of its provenance."""
        return {
            "key": question.key,
            "turn": turn,
            "id": question.line.get("id"),
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "model": self.settings.model,
            "answered_by": answer.model,
            "prompts": f"{self.prompts.version}-{self.prompts.digest}",
            "decoding": self.settings.decoding
            | dict.fromkeys({"temperature"} & set(answer.left_out)),
            "format": answer.format,
            "how": how,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
            "cost_usd": self.settings.cost(answer.tokens_in, answer.tokens_out),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def nothing_to_refine(line: Line) -> str | None:
    """Returns why the raw caption of a line says all there is, or None where it may be refined."""
    if not line.get("raw_caption"):
        return "no annotation"
    if line.get("label") != FAKE:
        return "real face"
    return None if forged_regions(line) else "no visible forgery"


def next_turn(question: Question, journal: Journal) -> int | None:
    """Returns the turn that a question still has to take, or None once it is settled."""
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
    """Writes every line with the best caption that the journal holds, and counts into the summary.

    Args:
      out: the annotation file; written aside and renamed, in the order of the input.
      lines: annotation lines.
      plan: their questions.
      journal: the paid replies.
      failures: why a question got no reply, by its key.
      summary: its counts of lines, violations and reasons are filled in.
    """
    summary.lines = len(lines)
    texts = []
    for place, line in enumerate(lines):
        key = plan.keys.get(place)
        if key is not None:
            settled = _settle(line, key, journal, failures.get(key), summary)
        elif place in plan.unreadable:
            settled = _fall_back(line, plan.unreadable[place], summary)
        else:
            settled = {"source": "raw", "refinement": {"reason": nothing_to_refine(line)}}
            summary.raw += 1
        texts.append(json.dumps({**line, **settled}, ensure_ascii=False))
    atomic_write_text(out, "".join(text + "\n" for text in texts))


def _settle(
    line: Line, key: str, journal: Journal, failure: str | None, summary: RefineSummary
) -> dict[str, Any]:
    """The fields of a line that asked a question."""
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
    good = next((reply for reply, found in judged if reply is not None and not found), None)
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
    """Where the words of a line come from: the key, the replies, and what was wrong with each."""
    names = ("model", "answered_by", "prompts", "decoding", "format", "how", "time")
    return {
        "key": key,
        "turns": len(replies),
        "violations": [[list(v) for v in violations] for _, violations in judged],
        "cost_usd": sum(usd(r) for r in replies),
        "tokens_in": sum(_count(r.get("tokens_in")) for r in replies),
        "tokens_out": sum(_count(r.get("tokens_out")) for r in replies),
        **({name: replies[-1].get(name) for name in names} if replies else {}),
    }


def _count(tokens: Any) -> int:
    return int(tokens) if isinstance(tokens, int | float) and tokens >= 0 else 0
