"""What comes of one row, and of a whole run."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import InvalidVerdict, LowLabelMass, NonFiniteScore, ServiceError, TokenLimitExceeded
from service.types import FinishReason, Rationale


class GenerationError(Exception):
    """The run cannot go on: one sentence that says what to do. What was answered so far is kept."""


FINAL = frozenset(error.code for error in (TokenLimitExceeded, InvalidVerdict, NonFiniteScore, LowLabelMass))
"""What the same weights would say of the same row again: seeds and greedy texts repeat themselves. Not what an engine
refuses because of how it was started."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer. ``code`` is the service's stable word, ``rationales`` what was written."""

    code: str
    message: str
    rationales: tuple[Rationale, ...] = ()

    @classmethod
    def of(cls, error: ServiceError) -> Failure:
        return cls(error.code, error.message, error.rationales if isinstance(error, InvalidVerdict) else ())

    @property
    def is_final(self) -> bool:
        """Whether asking again is pointless. Drawing until an answer parses would count a judge by its lucky tries."""
        return self.code in FINAL


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine wrote or read for one job.

    ``tokens`` counts generated tokens, of a likelihood the scored ones; ``log_likelihood`` is in nats, None for texts.
    """

    key: str
    text: str
    tokens: int
    finish_reason: FinishReason
    log_likelihood: float | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """A run in numbers. ``rows``, ``tokens`` and ``seconds`` are of this start; ``kept`` rows were there before.

    ``tokens`` are written ones, ``prompt_tokens`` read ones, cached or not; ``failed`` rows are in the file, too.
    """

    rows: int
    failed: int
    kept: int
    tokens: int
    prompt_tokens: int
    seconds: float

    @property
    def rows_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def tokens_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        kept = f" ({self.kept:,} kept from before)" if self.kept else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return (
            f"{self.rows:,} rows{kept}{failed} in {self.seconds:,.1f} s: {self.rows_s:,.1f} rows/s, "
            f"{self.tokens_s:,.0f} tokens/s written, {self.prompt_tokens / max(self.seconds, 1e-9):,.0f} tokens/s read"
        )
