"""Every error the client raises. None of them is ever turned into a score.

ScoringError
+-- InvalidRequest         the request is wrong and would be wrong again (400, 413, 415, 422)
|   +-- NotFound           no such judge, queue or path (404)
|   +-- Conflict           the same key, queue or group, used differently (409)
+-- Unauthorized           no key, an unknown one, or one without the scope (401, 403)
+-- Overloaded             not now: full, draining, engine or store away (429, 503)
+-- DeadlineExceeded       the call's time is over, here or in the service (504)
+-- ConnectionLost         no connection, or it broke before the answer was complete
+-- FailedJudgment         the judge gave no usable answer
|   +-- EngineUnusable     the answer of a whole request (502)
+-- ServerFault            an error of the service's own (500 and whatever else)
+-- MalformedReply         the answer is not what the service promises
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ScoringError(Exception):
    """Base of all. ``code`` is the service's stable word (docs/errors.md), empty where the error arose here.

    ``tries`` says how often the request was sent. All are picklable: pools carry errors between processes.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retryable = retryable
        """What the service said; None where it said nothing."""
        self.retry_after_s = retry_after_s
        self.details: dict[str, Any] = dict(details or {})
        self.tries = 1

    @property
    def message(self) -> str:
        """One sentence."""
        return str(self.args[0])

    def __str__(self) -> str:
        facts = [str(self.status)] if self.status is not None else []
        facts += [self.code] if self.code else []
        facts += [f"{self.tries} tries"] if self.tries > 1 else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


class InvalidRequest(ScoringError):
    """Sending it again changes nothing. ``details["errors"]`` names the fields where the service did."""


class NotFound(InvalidRequest):
    pass


class Conflict(InvalidRequest):
    pass


class Unauthorized(ScoringError):
    pass


class Overloaded(ScoringError):
    """``retry_after_s`` is the service's own estimate."""


class DeadlineExceeded(ScoringError):
    pass


class ConnectionLost(ScoringError):
    """``maybe_done``: the request may have reached the service."""

    maybe_done = True

    @classmethod
    def before_sending(cls, message: str) -> ConnectionLost:
        """Nothing of the request was sent."""
        error = cls(message)
        error.maybe_done = False
        return error


class FailedJudgment(ScoringError):
    pass


class EngineUnusable(FailedJudgment):
    pass


class ServerFault(ScoringError):
    pass


class MalformedReply(ScoringError):
    pass


_BY_STATUS: dict[int, type[ScoringError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    429: Overloaded,
    502: EngineUnusable,
    503: Overloaded,
    504: DeadlineExceeded,
}


_BY_CODE: dict[str, type[ScoringError]] = {
    "deadline_exceeded": DeadlineExceeded,
    "cohort_incomplete": DeadlineExceeded,
    "conflict": Conflict,
    "invalid_input": InvalidRequest,
    "token_limit": InvalidRequest,
    "unavailable": Overloaded,
    "overloaded": Overloaded,
    "draining": Overloaded,
    "engine_dead": Overloaded,
    "store_unavailable": Overloaded,
    "weights_changed": Overloaded,
    "internal": ServerFault,
    "control_token_violation": ServerFault,
}


def error_of_code(
    code: str, message: str, retryable: bool, request_id: str | None = None, details: Mapping[str, Any] | None = None
) -> ScoringError:
    """The error of one item, or of a stream that had begun: there is a code and no status."""
    kind = _BY_CODE.get(code, FailedJudgment)
    return kind(message, code=code, retryable=retryable, request_id=request_id, details=details)


def error_of(status: int, body: Any, retry_after_s: float | None = None) -> ScoringError:
    """The error of a reply that is not 2xx. `body` is its JSON, or None where it has none (a proxy's page)."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {}
    kind = _BY_STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else ServerFault)
    details, retryable = told.get("details"), told.get("retryable")
    return kind(
        str(told.get("message") or f"The server answered with status {status} and no reason."),
        code=str(told.get("code") or ""),
        status=status,
        request_id=str(told["request_id"]) if told.get("request_id") else None,
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after_s=retry_after_s,
        details=details if isinstance(details, dict) else None,
    )
