"""How the fake engine fails on purpose: planned faults, and what of the plan is due.

A plan outlives the engine it strikes: it is one object, handed to each engine that takes over from the last, so that
"the second start fails" and "hang after a minute" mean what they say whatever was restarted in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

CallFault = Literal["hang", "die", "nan", "abort", "error"]
StartFault = Literal["slow_start", "start_failure"]
SLOW_START_S = 1.0


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault and its moment; `service.engine_settings.FaultSettings` says what the fields mean."""

    kind: CallFault | StartFault
    at_call: int | None = None
    after_s: float | None = None
    at_start: int | None = None
    times: int = 1
    for_s: float | None = None


@dataclass(slots=True)
class _Lasting:
    """A fault that goes on until a moment, or (None) until the engine is replaced."""

    kind: CallFault
    until: float | None


class FaultPlan:
    """Planned faults and how far they got. ``clock`` counts seconds (None: `time.monotonic`)."""

    def __init__(self, faults: Sequence[PlannedFault] = (), clock: Callable[[], float] | None = None) -> None:
        self._faults = list(faults)
        self._clock = clock or time.monotonic
        self._began: float | None = None
        self._calls = 0
        self._starts = 0
        self._lasting: list[_Lasting] = []

    def start(self) -> tuple[float, bool]:
        """An engine starts: how many seconds longer it takes, and whether it fails. What struck the last is over."""
        self._starts += 1
        self._lasting = []
        self._faults = [fault for fault in self._faults if fault.at_call is None or fault.at_call > self._calls]
        if self._began is None:
            self._began = self._clock()
        due = [f for f in self._faults if f.at_start is not None and f.at_start <= self._starts < f.at_start + f.times]
        slow = sum((fault.for_s or SLOW_START_S) for fault in due if fault.kind == "slow_start")
        return slow, any(fault.kind == "start_failure" for fault in due)

    def call(self) -> set[CallFault]:
        """One more call: the faults that strike it. A hang begins now and is everybody's, as a stopped process is."""
        self._calls += 1
        struck: set[CallFault] = set()
        for fault in self._faults:
            if fault.at_call is not None and fault.at_call <= self._calls < fault.at_call + fault.times:
                kind = _of_call(fault)
                if kind == "hang":
                    self._begin(kind, fault.for_s)
                struck.add(kind)
        self._tick()
        return struck.union(lasting.kind for lasting in self._lasting)

    def is_due(self, kind: CallFault) -> bool:
        """Whether a fault of this kind has come with time and lasts."""
        self._tick()
        return any(lasting.kind == kind for lasting in self._lasting)

    def hang_s(self) -> float | None:
        """How long the engine gives no output from now on: 0 for one that does not hang, None for one that will not
        come back."""
        self._tick()
        ends = [lasting.until for lasting in self._lasting if lasting.kind == "hang"]
        if None in ends:
            return None
        return max((end - self._clock() for end in ends if end is not None), default=0.0)

    def _begin(self, kind: CallFault, for_s: float | None) -> None:
        self._lasting.append(_Lasting(kind, None if for_s is None else self._clock() + for_s))

    def _tick(self) -> None:
        """Begin what its time has come for, end what is over."""
        now = self._clock()
        for fault in list(self._faults):
            if fault.after_s is not None and self._began is not None and now >= self._began + fault.after_s:
                self._faults.remove(fault)
                self._begin(_of_call(fault), fault.for_s)
        self._lasting = [lasting for lasting in self._lasting if lasting.until is None or lasting.until > now]


def _of_call(fault: PlannedFault) -> CallFault:
    if fault.kind == "slow_start" or fault.kind == "start_failure":
        raise ValueError("a fault of a start has no call")
    return fault.kind
