"""What every reply must be: an error of the one shape, or numbers that are numbers."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import httpx

SECRET = "xyzzy-secret-text"
"""Sent where a reply must not repeat it."""


def check_error(reply: httpx.Response) -> dict[str, Any]:
    """The one shape, small, without what was sent and without a trace. Returns the error."""
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) <= {"code", "message", "request_id", "retryable", "details"}
    assert error["code"]
    assert error["message"]
    assert error["request_id"] == reply.headers["x-request-id"]
    assert len(reply.content) < 4096
    assert SECRET not in reply.text
    assert "Traceback" not in reply.text
    return error


def check_numbers(text: str) -> Any:
    """JSON without NaN and infinities, which some readers take and others die of. Returns the value."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(word: str) -> NoReturn:
    raise AssertionError(f"{word} is no number")
