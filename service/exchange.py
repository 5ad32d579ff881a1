"""Who may judge with which weights, and when: requests use the weights, a change of weights waits until nobody does.

A request holds the weights from the moment it judges to its verdicts, never while it waits for room or for the other
members of its group. A change closes the door, waits until those inside have their answers, changes, and opens it
again; whoever comes meanwhile waits at the door under its own deadline. A request that chose its judge before the
change and comes to the door after it is told so (`WeightsChanged`), and begins again with the judge of that name that
there is now: no reply names weights that did not make it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import Overloaded, WeightsChanged
from service.types import JudgeVersion


@dataclass(slots=True, eq=False)
class Weights:
    """One version: whether it may be used from now on, and how many judge with it now."""

    version: JudgeVersion
    admitted: bool = True
    users: int = 0


class Exchange:
    """The door. Lives on one event loop; going through it costs nothing while no change is under way."""

    def __init__(self) -> None:
        self._weights: dict[JudgeVersion, Weights] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._left = asyncio.Event()

    @property
    def is_changing(self) -> bool:
        """Whether the weights are being changed now: the engine answers nobody else meanwhile."""
        return not self._open.is_set()

    @property
    def waiting_for(self) -> int:
        """Judgings that hold the weights."""
        return sum(weights.users for weights in self._weights.values())

    def admit(self, versions: Iterable[JudgeVersion]) -> None:
        """From now on these may be used, and no others."""
        before = self._weights
        self._weights = {version: Weights(version) for version in versions}
        for version, weights in before.items():
            weights.admitted = version in self._weights
            if weights.admitted or weights.users:
                self._weights[version] = weights

    def use(self, version: JudgeVersion) -> Use:
        """Judge with these weights. Entering raises `WeightsChanged` where they are not the service's any more."""
        return Use(self, version)

    async def take(self, version: JudgeVersion) -> Weights:
        """The weights, held. `Use` gives them back."""
        while not self._open.is_set():
            await self._open.wait()
        weights = self._weights.get(version)
        if weights is None or not weights.admitted:
            raise WeightsChanged("The judge's weights were changed meanwhile; send the request again.", retry_after_s=1)
        weights.users += 1
        return weights

    def give_back(self, weights: Weights) -> None:
        """Weights that were taken."""
        weights.users -= 1
        if not weights.users:
            if not weights.admitted:
                del self._weights[weights.version]
            self._left.set()

    @asynccontextmanager
    async def alone(self, wait_s: float) -> AsyncIterator[None]:
        """Have the weights to oneself. Raises `Overloaded` when those inside are not done after ``wait_s`` seconds."""
        self._open.clear()
        try:
            await self._until(lambda: not self.waiting_for, wait_s)
            yield
        finally:
            self._open.set()

    async def given_up(self, version: JudgeVersion, wait_s: float) -> None:
        """Returns when nobody judges with this version any more; it must not be admitted. Raises as `alone` does."""
        await self._until(lambda: not self._users(version), wait_s)

    def _users(self, version: JudgeVersion) -> int:
        weights = self._weights.get(version)
        return 0 if weights is None else weights.users

    async def _until(self, free: Callable[[], bool], wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while not free():
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError as error:
            message = f"Requests inside did not finish in {wait_s:g} s; nothing was changed, try again."
            raise Overloaded(message, retry_after_s=5) from error


class Use:
    """Of `Exchange.use`."""

    __slots__ = ("_exchange", "_version", "_weights")

    def __init__(self, exchange: Exchange, version: JudgeVersion) -> None:
        self._exchange, self._version = exchange, version

    async def __aenter__(self) -> None:
        self._weights = await self._exchange.take(self._version)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._exchange.give_back(self._weights)
