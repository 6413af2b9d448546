"""Settings of a refinement run, and the summary of its counts."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jax_vlffd.errors import UserError
from jax_vlffd.settings import settings

#: US dollars per million tokens, (in, out), as listed by OpenAI in April 2025; flags override them.
PRICES: Final[dict[str, tuple[float, float]]] = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
}


def check_address(text: str) -> str:
    """Returns the address of an endpoint; ValueError if it is not one of HTTP."""
    try:
        parts = urllib.parse.urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:  # an invalid port, or an unclosed IPv6 address
        pass
    raise ValueError("write an address such as http://localhost:8000/v1")


@settings("--")
class RefineSettings:
    """Settings of one run; `launch.annotate` has flags of the same names.

    Attributes:
      model: the endpoint's name of the model.
      base_url: an OpenAI-compatible endpoint (`http://host:8000/v1`); None for OpenAI's own or
        $OPENAI_BASE_URL. The key comes from $OPENAI_API_KEY and from nowhere else.
      concurrency: maximum number of requests in flight.
      rpm: maximum requests per minute; None for no limit.
      tpm: maximum tokens per minute, by estimates that replies correct; None for no limit.
      timeout: seconds for one request, from sending to the last byte.
      retries: retries after a transient failure (429, 5xx, broken connection, timeout).
      backoff: seconds before the first retry; doubles, up to 60, with jitter.
      max_usd: maximum cost of all replies of this output; None for no limit. A model
        without a known price counts as the most expensive of PRICES, so that the limit holds.
      price_in: US dollars per million prompt tokens; None to use PRICES.
      price_out: the same for completion tokens.
      temperature: None leaves the endpoint's default (some models accept no other).
      max_tokens: maximum length of a reply.
      image_side: maximum side of each of the two faces in the image, in pixels; larger ones are reduced.
      detail: the endpoint's `detail` of the image: `high`, `low` or `auto`.
      prompt_version: the folder of prompts.
      mask_settings: everything that decides the mask and the regions, as JSON values; part of the key.
    """

    model: str = "gpt-4o-mini"
    base_url: Annotated[str, AfterValidator(check_address)] | None = None
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
        """US dollars per million tokens (in, out): the flags, else PRICES, else None."""
        if self.price_in is not None and self.price_out is not None:
            return self.price_in, self.price_out
        unknown = None if self.max_usd is None else max(PRICES.values())
        return PRICES.get(self.model, unknown)

    @property
    def decoding(self) -> dict[str, Any]:
        """The settings that decide a reply, besides model and prompts; part of the key."""
        names = ("temperature", "max_tokens", "image_side", "detail")
        return {name: getattr(self, name) for name in names}

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Returns the cost of tokens in US dollars; 0 if the price is unknown."""
        price_in, price_out = self.prices or (0.0, 0.0)
        return (tokens_in * price_in + tokens_out * price_out) / 1e6


@dataclass
class RefineSummary:
    """The counts of one run.

    Attributes:
      lines: lines in the input and the output.
      refined: lines with the endpoint's caption.
      fallback: lines with the raw caption although they had a question.
      raw: lines without a question (real faces, no visible forgery, failed annotations), and
        those pending.
      pending: lines left when the run stopped, or without a reply in a batch.
      kept: lines that an older version of the annotator made, and whose captions were paid for.
      requests: requests sent in this run, including retries.
      retries: attempts after a failure.
      downgrades: requests repeated with a simpler reply format or fewer parameters.
      answered: replies received in this run.
      reused: replies of earlier runs.
      repairs: lines with a repair turn (in any run).
      unanswered: requests that ended without a reply after they were sent (timeout, broken
        connection): the endpoint may have billed them.
      violations: by kind, counted once per reply and kind, over all replies of the lines.
      violating: lines whose first reply had a violation.
      judged: lines with a first reply.
      reasons: number of lines with `fallback`, by reason.
      tokens_in: prompt tokens of this run's replies, as counted by the endpoint.
      tokens_out: completion tokens of the same.
      spent_usd: cost of this run's replies; None if the price is unknown.
      total_usd: the same with the replies of earlier runs of this output.
      stopped: why the run ended early, or None.
      seconds: wall time.
    """

    lines: int = 0
    refined: int = 0
    fallback: int = 0
    raw: int = 0
    pending: int = 0
    kept: int = 0
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
        """Fraction of lines whose first reply had a violation; None before the first reply."""
        return self.violating / self.judged if self.judged else None

    def count_reply(self, tokens_in: int, tokens_out: int) -> None:
        """Counts a reply of this run."""
        self.answered += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def text(self) -> str:
        """Returns the summary as a few lines of text."""
        money = rate = ""
        if self.total_usd is not None:
            money = f", ${self.spent_usd or 0:.4f} in this run, ${self.total_usd:.4f} in total"
        if self.violation_rate is not None:
            rate = f" ({self.violation_rate:.1%} of first replies)"
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.violations.most_common())
        kept = f", kept {self.kept} of an older annotator" if self.kept else ""
        lines = [
            f"refined {self.refined}, fallback {self.fallback}, raw {self.raw}{kept} of {self.lines}",
            f"requests {self.requests}, retries {self.retries}, answered {self.answered}, "
            f"reused {self.reused}, repairs {self.repairs}, unanswered {self.unanswered}{money}",
            f"violations: {kinds or 'none'}{rate}",
        ]
        if self.reasons:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
            lines.append(f"fallback because of: {reasons}")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}; {self.pending} left; run again to continue")
        return "\n".join(lines)
