"""What of an older annotator's lines is kept: captions that were paid for (ours)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from data_pipeline.fftg.measure.versions import VERSION

#: The last version that did not write its number into a refined line.
_UNSTATED: Final = 2
_MAX_USD: Final = 1_000.0  # larger costs of a caption are not plausible


@dataclass(frozen=True)
class EarlierLine:
    """What decides whether the line of an earlier run is still valid.

    Attributes:
      key: a hash of everything that decided it.
      paid_version: of the annotator, where an MLLM was asked about the caption; else None.
      cost_usd: of its replies.
    """

    key: str = ""
    paid_version: int | None = None
    cost_usd: float = 0.0

    @property
    def is_older(self) -> bool:
        """Whether it was paid for with an older version of the annotator."""
        return self.paid_version is not None and self.paid_version < VERSION


def earlier_line(line: Mapping[str, Any]) -> EarlierLine:
    """Reads these facts of an annotation line; what is damaged counts as not paid for."""
    key, refinement = str(line.get("key", "")), line.get("refinement")
    if not isinstance(refinement, dict):
        return EarlierLine(key)
    turns = refinement.get("turns")
    if not isinstance(turns, int) or turns < 1:
        return EarlierLine(key)
    version, cost = refinement.get("annotator", _UNSTATED), refinement.get("cost_usd")
    return EarlierLine(
        key,
        version if isinstance(version, int) else _UNSTATED,
        float(cost) if isinstance(cost, int | float) and 0 <= cost < _MAX_USD else 0.0,
    )


def older_text(lines: Iterable[EarlierLine], reannotate: bool, refine: bool) -> str | None:
    """A line on captions that were paid for with an older version of the annotator; None without any.

    Args:
      lines: the earlier lines of the pairs of this run.
      reannotate: whether they are annotated again, else kept.
      refine: whether this run refines captions.
    """
    older = [line for line in lines if line.is_older]
    if not older:
        return None
    what = f"{len(older)} captions were refined with an older version of the annotator"
    cost = sum(line.cost_usd for line in older)
    price = f"about ${cost:.2f}, as they did" if cost else "as many replies as they did"
    if not reannotate:
        return (
            f"note: {what} and are kept; --reannotate annotates these pairs again, and to refine them anew "
            f"would cost {price}"
        )
    if refine:
        return (
            f"note: {what}; these pairs are annotated again, and to refine them anew costs {price}"
        )
    return f"note: {what}; these pairs are annotated again, and without --model their captions stay unrefined"
