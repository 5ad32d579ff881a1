"""Every error the service raises on purpose. `app.py` holds the one table from class to HTTP status.

ServiceError
+-- BadRequest                 the caller can fix it
|   +-- InvalidJson            the body is not JSON
|   +-- InvalidInput           a field is wrong (schema, non-finite number, invalid Unicode, empty response)
|   |   +-- TokenLimitExceeded a rendered prompt does not fit; nothing is ever truncated
|   |   +-- RefusedText        a response with a flag that the judge's configuration does not let pass
|   +-- UnsupportedMediaType   the body is not declared as JSON
|   +-- BodyTooLarge
|   +-- NotFound               an unknown judge, queue or route
|   +-- Conflict               the same key or queue, used differently
|   +-- NotApplied             a change of weights or adapters that was not made
+-- AuthError
|   +-- Unauthenticated        no key, or one we do not know
|   +-- Forbidden              a known key without the scope
+-- JudgmentFailed             the engine answered, but not with a usable judgment; never turned into a number
|   +-- InvalidVerdict         no anchored answer in any vote of an order
|   +-- NonFiniteScore         NaN or infinity from the model
|   +-- LowLabelMass           the model wanted to write something else than a label
+-- Unavailable                try again later
|   +-- Overloaded             admission is full
|   +-- Draining               shutting down
|   +-- EngineDead             the engine process is gone
|   +-- StoreUnavailable       the reward queue cannot be reached
|   +-- WeightsChanged         the judge that the request chose has other weights now
+-- DeadlineExceeded
|   +-- CohortIncomplete       too few members of a group came before its deadline
+-- StartupError               the service must not start: configuration, checkpoint, manifest, self-test
+-- InternalError              an invariant of ours is broken
    +-- ControlTokenViolation  untrusted text would have produced a control token
"""

from __future__ import annotations

from typing import Any, ClassVar

from service.types import Rationale


class ServiceError(Exception):
    """Base of all. ``code`` is the stable word clients switch on; ``retryable``: may the same request succeed later?"""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: str | int | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details)


class BadRequest(ServiceError):
    code = "bad_request"


class InvalidJson(BadRequest):
    code = "invalid_json"


class InvalidInput(BadRequest):
    code = "invalid_input"


class TokenLimitExceeded(InvalidInput):
    """Details: ``tokens``, ``limit``, ``field`` (the longest untrusted field of the prompt)."""

    code = "token_limit"


class RefusedText(InvalidInput):
    """Details: ``flag``, ``field``."""

    code = "refused_text"


class UnsupportedMediaType(BadRequest):
    code = "unsupported_media_type"


class BodyTooLarge(BadRequest):
    code = "body_too_large"

    @classmethod
    def beyond(cls, limit: int) -> BodyTooLarge:
        """What to say of a body of more than ``limit`` bytes."""
        return cls(f"The request body is larger than {limit} bytes; send fewer items at once.", limit=limit)


class NotFound(BadRequest):
    code = "not_found"


class UnknownJudge(NotFound):
    code = "unknown_judge"


class Conflict(BadRequest):
    code = "conflict"


class NotApplied(BadRequest):
    """An administrator's change that was refused or rolled back: the service goes on with what it had."""

    code = "not_applied"


class AuthError(ServiceError):
    code = "auth"


class Unauthenticated(AuthError):
    code = "unauthenticated"


class Forbidden(AuthError):
    code = "forbidden"


class JudgmentFailed(ServiceError):
    code = "judgment_failed"


class InvalidVerdict(JudgmentFailed):
    """``rationales`` are the judgments that were written, for those who want to see why."""

    code = "invalid_verdict"
    retryable = True

    def __init__(self, message: str, rationales: tuple[Rationale, ...] = ()) -> None:
        super().__init__(message)
        self.rationales = rationales


class NonFiniteScore(JudgmentFailed):
    code = "non_finite_score"


class LowLabelMass(JudgmentFailed):
    code = "low_label_mass"


class Unavailable(ServiceError):
    """Details may carry ``retry_after_s``, the seconds after which trying again is sensible."""

    code = "unavailable"
    retryable = True


class Overloaded(Unavailable):
    code = "overloaded"


class Draining(Unavailable):
    code = "draining"


class EngineDead(Unavailable):
    code = "engine_dead"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class WeightsChanged(Unavailable):
    """The routes begin again by themselves, so callers see it only when weights change faster than a request runs."""

    code = "weights_changed"


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"
    retryable = True


class CohortIncomplete(DeadlineExceeded):
    """Details: ``missing`` (the indices that never came, as text), ``size``."""

    code = "cohort_incomplete"


class StartupError(ServiceError):
    code = "startup"


class InternalError(ServiceError):
    code = "internal"


class ControlTokenViolation(InternalError):
    code = "control_token_violation"
