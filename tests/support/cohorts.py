"""What the tests of cohorts share: kinds of store, and members."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable

from service.stores.cohorts_base import CohortLimits, CohortStore, Member, Policy, Terms
from service.stores.cohorts_memory import MemoryCohorts
from service.stores.cohorts_redis import RedisCohorts
from tests.support.redis_server import shared_server
from tests.support.stores import PATIENT, FakeClock

TERMS = Terms(3, "prompt", "rules")
POLICY = Policy()
FOREVER = 3600.0
_numbers = itertools.count()


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


class RedisBackend(CohortBackend):
    """On this process's server, each store under a prefix of its own."""

    name = "redis"

    def make(self, limits: CohortLimits) -> tuple[CohortStore, Callable[[float], None]]:
        clock = FakeClock()

        def let_pass(seconds: float) -> None:
            clock.now += seconds

        prefix = f"cohorts-{next(_numbers)}"
        return RedisCohorts(shared_server().url, limits, clock, prefix, PATIENT), let_pass


COHORT_BACKENDS: list[CohortBackend] = [MemoryBackend(), RedisBackend()]
