"""HTTP client for the endpoint: no redirects to other origins, bounded responses without the API key."""

from __future__ import annotations

from typing import Any, Final

import httpx2
import openai

from data_pipeline.fftg.refine.redaction import printable, redacted
from jax_vlffd.errors import UserError

_MAX_BODY = 1 << 20  # bytes; a reply has a few thousand
_MAX_REDIRECTS = 3
_READ_HEADERS: Final = ("content-type", "retry-after")
#: Control characters except "\n", "\r" and "\t", which JSON allows.
_CONTROLS = dict.fromkeys(code for code in range(32) if code not in (9, 10, 13))


class EndpointRefused(UserError):
    """The endpoint refuses every request: a wrong key, model or address, no quota, or it is down."""


class SafeClient(openai.DefaultAsyncHttpxClient):
    """The SDK's HTTP client, with responses that are safe to store and show: the body and two headers, without
    the API key.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends a request and reads the full response, whatever `stream` says.

        Raises:
          EndpointRefused: the endpoint redirects to another origin; nothing is sent there.
          httpx2.HTTPError: no response, or one that is too long.
        """
        options |= {"stream": True, "follow_redirects": False}
        for number in range(_MAX_REDIRECTS + 1):
            response = await super().send(request, **options)
            next_request = response.next_request
            if next_request is None:
                return await _read(response)
            await response.aclose()
            # A 301, 302 or 303 would turn the POST into a GET without its body.
            same = _origin(next_request.url) == _origin(request.url)
            if not same or next_request.method != request.method or number == _MAX_REDIRECTS:
                raise EndpointRefused(_redirect_message(response.status_code, next_request.url))
            request = next_request
        raise AssertionError("the last redirect is refused")


async def _read(response: httpx2.Response) -> httpx2.Response:
    body = b""
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _MAX_BODY:
                raise httpx2.ReadError("the response is too long", request=response.request)
    finally:
        await response.aclose()
    text = redacted(body.decode("utf-8-sig", "replace").translate(_CONTROLS))
    headers = {
        name: redacted(response.headers[name]).encode("ascii", "replace").decode()
        for name in _READ_HEADERS
        if name in response.headers
    }
    kind = headers.get("content-type", "").partition(";")[0]
    return httpx2.Response(
        response.status_code,
        headers=headers | {"content-type": f"{kind}; charset=utf-8"},
        content=text.encode(),
        request=response.request,
    )


def _redirect_message(code: int, url: httpx2.URL) -> str:
    shown = redacted(str(url.copy_with(userinfo=b"", query=None, fragment=None)))
    return (
        f"the endpoint redirects to {printable(shown)[:200]} (HTTP {code}); nothing was sent there: give "
        "that address as --base_url if you trust it"
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
