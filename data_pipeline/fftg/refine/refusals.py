"""HTTP errors of an endpoint: which end the run, which concern one question, which are worth another try."""

from __future__ import annotations

import email.utils
import math
import time

import openai

from data_pipeline.fftg.refine.completions import error_texts, error_words
from data_pipeline.fftg.refine.settings import RefineSettings
from data_pipeline.fftg.refine.transport import EndpointRefused

_FORMAT_STATUSES = (400, 415, 422, 501)  # of requests refused as wrong, perhaps for their format
_TRANSIENT_STATUSES = (408, 409, 425, 429)  # and every 5xx


class TransientFailure(Exception):
    """A failure that may pass; `after` is the pause that the endpoint asked for, in seconds."""

    def __init__(self, message: str, after: float | None = None):
        super().__init__(message)
        self.after = after


class RequestRefused(Exception):
    """A request refused as wrong.

    Attributes:
      texts: the endpoint's error in full.
      adaptable: whether another reply format, or fewer parameters, may be accepted.
    """

    def __init__(self, message: str, texts: str, adaptable: bool):
        super().__init__(message)
        self.texts = texts
        self.adaptable = adaptable


def refusal(error: openai.APIStatusError, settings: RefineSettings) -> Exception:
    """The exception that an HTTP error is handled by, with the endpoint's own words."""
    code = error.status_code
    body = error.response.text
    words = error_words(body)
    side = settings.image_side
    refusals = {
        401: f"refused the key (HTTP 401): check OPENAI_API_KEY ({words})",
        402: f"requires payment (HTTP 402: {words}); the replies so far are kept",
        403: f"denied access (HTTP 403: {words}): check OPENAI_API_KEY, --model and "
        "whether it serves your region",
        404: f"does not know this model or address (HTTP 404: {words}): check --model and --base_url, "
        "which mostly ends in /v1",
        405: f"does not accept such requests (HTTP 405: {words}): check --base_url",
        413: f"refused a request with an image of up to {2 * side}x{side} pixels as too large (HTTP 413: "
        f"{words}): raise its limit",
    }  # fmt: skip
    if code in refusals:
        return EndpointRefused(f"the endpoint {refusals[code]}")
    texts = " ".join(error_texts(body))
    if code == 429 and "insufficient_quota" in texts:
        return EndpointRefused(
            f"the quota at the endpoint is used up (HTTP 429: {words}); the replies so far are kept: run the "
            "same command again later"
        )
    if code in _TRANSIENT_STATUSES or (code >= 500 and code != 501):
        after = _retry_after(error.response.headers.get("retry-after"))
        return TransientFailure(f"http {code}: {words}", after)
    return RequestRefused(f"http {code}: {words}", texts, code in _FORMAT_STATUSES)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if it is invalid or names no pause."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, IndexError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
