"""Who gets in and for how long: bounded prompts and tokens, a fair line, deadlines, shutdown.

What finds no room waits in one line, in which every key has its fair share (`service.line`); a full line refuses at
once, before any tokenization, with the seconds after which trying again is sensible (`service.pace`). Callers whose own
protocol knows no such answer are patient: their places are counted apart, and there are many of them. Everything that
ends a request early cancels its task; engines abort the work of cancelled tasks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from service.errors import DeadlineExceeded, Draining, Overloaded, ServiceError
from service.line import Cost, FairLine, Place
from service.pace import Pace

T = TypeVar("T")

MAX_RETRY_AFTER_S = 30
FIRST_RETRY_AFTER_S = 5
"""While nothing was finished that could tell."""
OWN_SHARE = 8
"""Each key may take one in so many of the line's places even when the line is full: nobody is locked out by others."""


class Running:
    """One request under its deadline; ``reason`` replaces the deadline as the error when it is stopped early."""

    def __init__(self, timer: asyncio.Timeout) -> None:
        self.timer = timer
        self.reason: ServiceError | None = None
        self._afterwards: tuple[float | None, ServiceError | None] | None = None

    def stop(self, reason: ServiceError, after_s: float = 0.0) -> None:
        """In so many seconds, if not before."""
        at = asyncio.get_running_loop().time() + after_s
        if self._afterwards is not None and _is_sooner(at, self._afterwards[0]):
            self._afterwards = (at, reason)
        self._stop_at(at, reason)

    async def within(self, seconds: float, work: Awaitable[T], reason: ServiceError) -> T:
        """The result of `work`, which has so many seconds of the request's. One timer serves for both times."""
        self._afterwards = (self.timer.when(), self.reason)
        self._stop_at(asyncio.get_running_loop().time() + seconds, reason)
        result = await work
        (when, self.reason), self._afterwards = self._afterwards, None
        self.timer.reschedule(when)
        return result

    def _stop_at(self, at: float, reason: ServiceError) -> None:
        if not self.timer.expired() and _is_sooner(at, self.timer.when()):
            self.reason = reason
            self.timer.reschedule(at)


def _is_sooner(at: float, when: float | None) -> bool:
    return when is None or at < when


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that may be inside at once, and how many requests may wait for room: ordinary ones and patient ones."""

    prompts: int
    tokens: int = 2**63
    waiting: int = 256
    patient: int = 4096


class Admission:
    """Bounds what is inside the service and watches every request's time. Lives on one event loop."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._prompts = 0
        self._tokens = 0
        self._line = FairLine()
        self._pace = Pace(clock)
        self._running: set[Running] = set()
        self._draining = False
        self._cut_off = 0
        self._empty = asyncio.Event()
        self._on_drain: list[Callable[[], None]] = []

    @property
    def held(self) -> int:
        """Engine prompts of the requests inside."""
        return self._prompts

    @property
    def held_tokens(self) -> int:
        """Their tokens, as guessed when they came in."""
        return self._tokens

    @property
    def in_line(self) -> int:
        """Requests that wait for room."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Requests inside."""
        return len(self._running)

    @property
    def is_draining(self) -> bool:
        return self._draining

    @property
    def cut_off(self) -> int:
        """Requests that were still running when the time to drain was over."""
        return self._cut_off

    def turn_away(self, key: str, patient: bool = False) -> None:
        """Raise `Overloaded` if a request of `key` would find neither room nor a place in line.

        For the moment before its body is read: what cannot be served should cost next to nothing.
        """
        if self._line or not self._fits(Cost(1)):
            self._refuse_if_full(key, patient)

    def room(self, cost: Cost, wait_s: float, key: str = "-", patient: bool = False) -> Room:
        """Hold room for `cost`; one larger than all the room gets in when nothing else is inside.

        Entering raises `Overloaded` with ``retry_after_s``: at once where the line is full, or moves so slowly that
        `wait_s` would pass in it (an ordinary caller can use that time, a patient one cannot); else after `wait_s`.
        """
        return Room(self, cost, wait_s, key, patient)

    def deadline(self, seconds: float) -> Deadline:
        """Around one request. Raises `DeadlineExceeded`, `Draining`, or what `stop_all` was given."""
        return Deadline(self, seconds)

    def begin(self, timer: asyncio.Timeout) -> Running:
        """A request is inside from now on."""
        running = Running(timer)
        self._running.add(running)
        return running

    def end(self, running: Running) -> None:
        """It is no more."""
        self._running.discard(running)
        self._note_if_drained()

    def late(self, running: Running) -> ServiceError:
        """Why it was stopped."""
        self._cut_off += isinstance(running.reason, Draining)
        message = "The deadline passed before the answer was ready; allow more time or ask for less at once."
        return running.reason or DeadlineExceeded(message)

    async def take(self, cost: Cost, wait_s: float, key: str, patient: bool) -> None:
        """Returns with the room held. `Room` gives it back."""
        work = self._work(cost)
        if not self._line and self._fits(cost):
            self._enter(key, cost, work)
        else:
            await self._wait(cost, work, wait_s, key, patient)

    def give_back(self, cost: Cost, finished: bool) -> None:
        """Room that was taken; ``finished``: its work was done, which tells the pace."""
        if finished:
            self._pace.finished(self._work(cost))
        self._leave(cost)

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when draining begins: for what waits for requests that will not come any more."""
        self._on_drain.append(callback)

    def drain(self, seconds: float) -> None:
        """Refuse new requests from now on; those inside have `seconds` left."""
        self._draining = True
        for callback in self._on_drain:
            callback()
        for running in self._running:
            running.stop(Draining("The service is shutting down; try another replica.", retry_after_s=1), seconds)
        self._note_if_drained()

    async def drained(self) -> None:
        """Returns when draining has begun and nobody is inside any more."""
        await self._empty.wait()

    def stop_all(self, reason: ServiceError) -> None:
        """End every request inside with `reason`, now."""
        for running in self._running:
            running.stop(reason)

    def _note_if_drained(self) -> None:
        if self._draining and not self._running:
            self._empty.set()

    async def _wait(self, cost: Cost, work: float, wait_s: float, key: str, patient: bool) -> None:
        """Returns with the room held."""
        self._refuse_if_full(key, patient)
        if not patient and self._pace.is_known:
            seconds = self._pace.seconds_for(self._line.ahead_of(key) + work)
            if seconds is not None and seconds > wait_s:
                raise self._overloaded("The line is too long for this deadline; try again later or allow more time.")
        place = Place(key, cost, work, asyncio.get_running_loop().create_future(), patient)
        self._line.join(place)
        try:
            async with asyncio.timeout(wait_s):
                await place.turn
        except BaseException as error:
            if place.turn.cancelled():
                self._line.leave(place)
                self._serve_line()
            else:  # it was its turn in the same moment
                self._leave(cost)
            if isinstance(error, TimeoutError):
                raise self._overloaded("There was no room before the deadline; try again later.") from error
            raise

    def _refuse_if_full(self, key: str, patient: bool) -> None:
        waiting = self._line.patient if patient else len(self._line) - self._line.patient
        places = self._bounds.patient if patient else self._bounds.waiting
        if waiting >= places and self._line.of(key) >= math.ceil(places / OWN_SHARE):
            raise self._overloaded("The service is full, and so is the line before it; try again later.")

    def _fits(self, cost: Cost) -> bool:
        bounds = self._bounds
        fits = self._prompts + cost.prompts <= bounds.prompts and self._tokens + cost.tokens <= bounds.tokens
        return fits or not self._prompts

    def _work(self, cost: Cost) -> float:
        """A cost as the larger of its shares of all the room."""
        return max(cost.prompts / self._bounds.prompts, cost.tokens / self._bounds.tokens)

    def _enter(self, key: str, cost: Cost, work: float) -> None:
        self._prompts += cost.prompts
        self._tokens += cost.tokens
        self._line.charge(key, work)
        self._pace.resume()

    def _leave(self, cost: Cost) -> None:
        self._prompts -= cost.prompts
        self._tokens -= cost.tokens
        if not self._prompts:
            self._pace.rest()
        if self._line:
            self._serve_line()

    def _serve_line(self) -> None:
        """Let those in whose turn it is and who fit: the room is theirs before anybody else can ask for it."""
        while (place := self._line.first()) is not None:
            if not place.turn.cancelled():
                if not self._fits(place.cost):
                    return
                self._enter(place.key, place.cost, place.work)
                place.turn.set_result(None)
            self._line.leave(place)

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded(message, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """Seconds until what is inside and in line has passed, at the measured pace."""
        seconds = self._pace.seconds_for(self._work(Cost(self._prompts, self._tokens)) + self._line.work)
        if seconds is None:
            return FIRST_RETRY_AFTER_S
        return max(1, math.ceil(min(seconds, MAX_RETRY_AFTER_S) - 1e-6))


class Room:
    """Of `Admission.room`. Contexts of every request are classes: a generator each would cost three times as much."""

    __slots__ = ("_admission", "_asked")

    def __init__(self, admission: Admission, cost: Cost, wait_s: float, key: str, patient: bool) -> None:
        self._admission = admission
        self._asked = (cost, wait_s, key, patient)

    async def __aenter__(self) -> None:
        await self._admission.take(*self._asked)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._admission.give_back(self._asked[0], finished=kind is None)


class Deadline:
    """Of `Admission.deadline`."""

    __slots__ = ("_admission", "_running", "_timer")

    def __init__(self, admission: Admission, seconds: float) -> None:
        self._admission = admission
        self._timer = asyncio.timeout(seconds)

    async def __aenter__(self) -> Running:
        if self._admission.is_draining:
            raise Draining("The service is shutting down; send this to another replica.", retry_after_s=1)
        await self._timer.__aenter__()
        self._running = self._admission.begin(self._timer)
        return self._running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError as error:
            raise self._admission.late(self._running) from error
        finally:
            self._admission.end(self._running)
