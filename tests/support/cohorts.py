"""What the tests of cohorts share: kinds of store, and members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from service.stores.cohorts_base import CohortLimits, CohortStore, Member, Policy, Terms
from service.stores.cohorts_memory import MemoryCohorts
from tests.support.stores import FakeClock

TERMS = Terms(3, "prompt", "rules")
POLICY = Policy()
FOREVER = 3600.0


def member(index: int, response: str | None = None) -> Member:
    return Member(index, f"response {index}" if response is None else response)


class CohortBackend(ABC):
    """One kind of cohort store, on a clock that tests move."""

    name: str

    @abstractmethod
    def make(self, limits: CohortLimits) -> tuple[CohortStore, Callable[[float], None]]:
        """A store, not yet started, and what lets its time pass (seconds)."""


class MemoryBackend(CohortBackend):
    name = "memory"

    def make(self, limits: CohortLimits) -> tuple[CohortStore, Callable[[float], None]]:
        clock = FakeClock()

        def let_pass(seconds: float) -> None:
            clock.now += seconds

        return MemoryCohorts(limits, clock), let_pass


COHORT_BACKENDS: list[CohortBackend] = [MemoryBackend()]
