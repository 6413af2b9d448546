"""The settings of a refinement run, and the counts that it ends with."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jax_vlffd.errors import UserError
from jax_vlffd.settings import settings

#: US dollars a million tokens, (in, out), as OpenAI listed them in April 2025; flags go before.
PRICES: Final[dict[str, tuple[float, float]]] = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
}


def _address(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:  # a port that is none, or half an IPv6 address
        pass
    raise ValueError("write an address such as http://localhost:8000/v1")


@settings("--")
class RefineSettings:
    """Settings of one run; the flags of `launch.annotate` by the same names.

    Attributes:
      model: the endpoint's name of the model.
      base_url: an OpenAI-compatible endpoint (`http://host:8000/v1`); None for OpenAI's own or
        $OPENAI_BASE_URL. The key comes from $OPENAI_API_KEY and from nowhere else.
      concurrency: requests under way at once.
      rpm: requests a minute at most; None for no limit.
      tpm: tokens a minute at most, by estimates that the replies correct; None for no limit.
      timeout: seconds for one request, from sending to the last byte.
      retries: further attempts after a failure that may pass (429, 5xx, cut, timeout).
      backoff: seconds before the first retry; doubles, up to 60, with jitter.
      max_usd: what all replies of this output may cost together; None for no limit. A model
        without a known price counts as the dearest of PRICES, so that the limit holds.
      price_in: US dollars a million prompt tokens; None to look in PRICES.
      price_out: the same for completion tokens.
      temperature: None leaves the endpoint's own default (some models accept no other).
      max_tokens: the longest reply.
      image_side: the longest side of each of the two faces in the composite; larger ones shrink.
      detail: the endpoint's `detail` of the image: `high`, `low` or `auto`.
      prompt_version: the folder of prompts.
      mask_settings: whatever decides the mask and the regions, as JSON values; part of the key.
    """

    model: str = "gpt-4o-mini"
    base_url: Annotated[str, AfterValidator(_address)] | None = None
    concurrency: PositiveInt = 8
    rpm: PositiveFloat | None = None
    tpm: PositiveFloat | None = None
    timeout: PositiveFloat = 60.0
    retries: NonNegativeInt = 5
    backoff: NonNegativeFloat = 1.0
    max_usd: NonNegativeFloat | None = None
    price_in: NonNegativeFloat | None = None
    price_out: NonNegativeFloat | None = None
    temperature: float | None = None
    max_tokens: PositiveInt = 400
    image_side: PositiveInt = 512
    detail: Literal["high", "low", "auto"] = "high"
    prompt_version: str = "v1"
    mask_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("--price_in and --price_out go together: give both or neither")

    @property
    def prices(self) -> tuple[float, float] | None:
        """US dollars a million tokens (in, out): the flags, else PRICES, else None."""
        if self.price_in is not None and self.price_out is not None:
            return self.price_in, self.price_out
        guess = None if self.max_usd is None else max(PRICES.values())
        return PRICES.get(self.model, guess)

    @property
    def decoding(self) -> dict[str, Any]:
        """Whatever else decides a reply, beside model and prompts; part of the key."""
        names = ("temperature", "max_tokens", "image_side", "detail")
        return {name: getattr(self, name) for name in names}

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Returns US dollars for so many tokens; 0 where no price is known."""
        price_in, price_out = self.prices or (0.0, 0.0)
        return (tokens_in * price_in + tokens_out * price_out) / 1e6


@dataclass
class RefineSummary:
    """The counts of one run.

    Attributes:
      lines: lines given, and lines in the output.
      refined: lines whose caption is the endpoint's.
      fallback: lines that kept the raw caption though a better one was asked for.
      raw: lines that asked for nothing: real faces, no visible forgery, failed annotations, and
        those left when the run stopped.
      pending: of `raw`, those left when the run stopped, or without a reply in a batch.
      requests: requests sent in this run, retries among them.
      retries: further attempts after a failure.
      downgrades: requests repeated in a simpler reply format.
      answered: replies received and kept in this run.
      reused: replies that an earlier run had paid for.
      repairs: lines that took a repair turn (in any run).
      unanswered: requests that ended without a reply after they were sent (timeout, cut): the
        endpoint may have billed them.
      violations: by kind, one a reply and kind, over all replies of the lines.
      violating: lines whose first reply had a violation.
      judged: lines with a first reply.
      reasons: why lines fell back, by reason.
      tokens_in: prompt tokens of the replies of this run, as the endpoint counted them.
      tokens_out: completion tokens, the same.
      spent_usd: cost of this run's replies; None where no price is known.
      total_usd: with the replies of earlier runs of this output.
      stopped: why the run ended early, or None.
      seconds: wall time.
    """

    lines: int = 0
    refined: int = 0
    fallback: int = 0
    raw: int = 0
    pending: int = 0
    requests: int = 0
    retries: int = 0
    downgrades: int = 0
    answered: int = 0
    reused: int = 0
    repairs: int = 0
    unanswered: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    violating: int = 0
    judged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    spent_usd: float | None = None
    total_usd: float | None = None
    stopped: str | None = None
    seconds: float = 0.0

    @property
    def violation_rate(self) -> float | None:
        """Share of lines whose first reply had a violation; None before the first reply."""
        return self.violating / self.judged if self.judged else None

    def as_json(self) -> dict[str, Any]:
        """Returns the counts as JSON values, the violation rate among them."""
        values = asdict(self) | {"violation_rate": self.violation_rate}
        return values | {n: dict(values[n]) for n in ("violations", "reasons")}

    def text(self) -> str:
        """Returns the summary in a few plain lines for the end of a run."""
        money = "" if self.total_usd is None else f", {_usd(self.spent_usd)} now, "
        money += "" if self.total_usd is None else f"{_usd(self.total_usd)} in all"
        rate = (
            "" if self.violation_rate is None else f" ({self.violation_rate:.1%} of first replies)"
        )
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.violations.most_common())
        lines = [
            f"refined {self.refined}, fallback {self.fallback}, raw {self.raw} of {self.lines}",
            f"requests {self.requests}, retries {self.retries}, answered {self.answered}, "
            f"reused {self.reused}, repairs {self.repairs}, unanswered {self.unanswered}{money}",
            f"violations: {kinds or 'none'}{rate}",
        ]
        if self.reasons:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
            lines.append(f"fallback because of: {reasons}")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}; {self.pending} left, run again to go on")
        return "\n".join(lines)


def _usd(value: float | None) -> str:
    return f"${value or 0:.4f}"
