"""What both clients ask of httpx: options, the deadline as its timeouts, and its errors as ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from gram_client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    MalformedReply,
    ScoringError,
)
from gram_client.exchange import Deadline, Reply, Send
from gram_client.retries import Retries

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "GRAM_API_KEY"
"""Where commands and adapters find the service's key: a command line is seen by everybody on its machine."""
CONNECT_S = 5.0
"""For making a connection; a host that does not answer is tried again within the call's time."""
KEEP_ALIVE_S = 30.0
"""Less than the service's own 65 s, so that it seldom closes a connection as we reuse it."""
MAX_CONNECTIONS = 512


@dataclass(frozen=True)
class Settings:
    """What a client is made of, and all that is pickled of it."""

    base_url: str
    api_key: str | None = field(repr=False)
    judge: str | None
    timeout_s: float
    retries: Retries
    max_chunk: int
    concurrency: int

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url begins with http:// or https://, as http://127.0.0.1:8000 does.")
        if not self.timeout_s > 0 or self.max_chunk < 1 or self.concurrency < 1:
            raise ValueError("timeout_s must be positive, max_chunk and concurrency at least 1.")

    def deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self.timeout_s if timeout_s is None else timeout_s)

    def http(self) -> dict[str, Any]:
        """Options of an httpx client."""
        headers = {"User-Agent": "gram-client", "Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
        )
        return {"base_url": self.base_url, "headers": headers, "limits": limits, "timeout": None, "verify": _trust()}


@cache
def _trust() -> ssl.SSLContext:
    """The certificates that are trusted, read once a process: it takes longer than a call."""
    return httpx.create_ssl_context()


def timeouts(left_s: float) -> dict[str, float]:
    """httpx's four timeouts where so much time is left; each bounds one wait, not their sum."""
    left_s = max(0.001, left_s)
    return {"connect": min(CONNECT_S, left_s), "read": left_s, "write": left_s, "pool": left_s}


def shrinking(deadline: Deadline, limits: dict[str, float]) -> Callable[[str, dict[str, Any]], None]:
    """A trace function that cuts the timeouts down to what is left as each phase of a request begins."""

    def trace(event: str, info: dict[str, Any]) -> None:
        limits.update(timeouts(deadline.left_s))

    return trace


def build(http: httpx.Client | httpx.AsyncClient, send: Send, extensions: dict[str, Any]) -> httpx.Request:
    """Raises `InvalidRequest` for what cannot be sent at all."""
    request = send.request
    content = request.content()
    headers = dict(send.headers)
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        return http.build_request(request.method, request.path, content=content, headers=headers, extensions=extensions)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise InvalidRequest(f"The request cannot be sent: {error}.") from error


def reply_of(response: httpx.Response, body: bytes) -> Reply:
    """Headers matter, and take their time, where something went wrong."""
    headers = {} if response.is_success else {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body)


def error_of_transport(error: Exception, deadline: Deadline) -> ScoringError:
    """What httpx could not do, as one of ours, chained to it."""
    ours = _translated(error, deadline)
    ours.__cause__ = error
    return ours


def _translated(error: Exception, deadline: Deadline) -> ScoringError:
    said = str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return ConnectionLost.before_sending(f"No connection to the service ({said}); is it running at this address?")
    if deadline.left_s <= 0.001 or isinstance(error, (httpx.TimeoutException, TimeoutError, asyncio.TimeoutError)):
        return too_late()
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return InvalidRequest(f"The request cannot be sent: {said}.")
    if isinstance(error, httpx.DecodingError):
        return MalformedReply(f"The answer cannot be read: {said}.")
    return ConnectionLost(f"The connection broke before the answer was complete ({said}).")


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The answer did not come within the call's time; allow more time or ask for less at once.")
