"""A service whose fake engine fails as planned, in virtual time, and what must come of it.

Each scenario is a function, so that tests can show both: that the service passes it, and that a service with a planted
defect does not. Hours pass in no time, so limits are the real ones, and no machine is too busy for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from unittest import mock

import httpx

from service import startup
from service.app import build_app
from service.health import Health
from tests.support.serving import PAIR, settings_for
from tests.support.virtual_time import VirtualTimeLoop

PATIENCE_S = 300.0
STARTED = 1
"""Calls that the start takes: the first canary."""


async def _inline(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return work(*args, **kwargs)


def in_virtual_time(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it on a loop and a clock that jump. What is other threads' work is done on the spot: they would not be
    waited for."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, ExitStack() as stack:
        loop = runner.get_loop()
        stack.enter_context(mock.patch.object(time, "monotonic", loop.time))
        stack.enter_context(mock.patch.object(asyncio, "to_thread", _inline))
        for place in ("fastapi.dependencies.utils", "fastapi.routing"):
            stack.enter_context(mock.patch(f"{place}.run_in_threadpool", _inline))

        async def work() -> None:
            await scenario()

        runner.run(work())


class Service:
    """A running application, a client of it, its watchdog."""

    def __init__(self, app: Any, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client

    @property
    def health(self) -> Health:
        found: Health = self.app.state.service.health
        return found

    async def compare(self, **changes: str) -> httpx.Response:
        """With more time than any scenario takes."""
        body = PAIR | {"judge": "gram"} | changes
        return await self.client.post("/compare", json=body, headers={"X-Deadline-Ms": "600000"})

    async def status(self, probe: str) -> int:
        return (await self.client.get(probe)).status_code

    async def until_status(self, probe: str, status: int) -> httpx.Response:
        """The first reply of this probe with this status."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                reply = await self.client.get(probe)
                if reply.status_code == status:
                    return reply
                await asyncio.sleep(0.2)

    async def restarts(self, outcome: str) -> float:
        text = (await self.client.get("/metrics")).text
        name = f'gram_engine_restarts_total{{outcome="{outcome}"}} '
        return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


@asynccontextmanager
async def failing(*faults: dict[str, Any], **sections: Any) -> AsyncIterator[Service]:
    """The service on a fake engine with these faults, in process; ``sections`` are further settings."""
    engine = {"type": "fake", "max_model_len": 32_768, "faults": list(faults)} | sections.pop("engine", {})
    judges = [{"name": "gram", "family": "gram"}]
    app = build_app(settings_for({"engine": engine, "judges": judges} | sections))
    with mock.patch.object(startup, "SELF_TEST_SAMPLES", 20):
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30) as client:
                yield Service(app, client)


def is_no_number(reply: httpx.Response) -> bool:
    """A typed error instead of a judgment."""
    return reply.status_code >= 500 and set(reply.json()) == {"error"}


async def a_crash() -> None:
    """A typed 503 at once, readiness gone with the reason, then the same answers from another engine."""
    async with failing({"kind": "die", "at_call": STARTED + 3}) as service:
        before = (await service.compare()).json()
        reply = await service.compare()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")
        await service.until_status("/readyz", 200)
        again = await service.compare()
        assert again.status_code == 200
        assert {**again.json(), "usage": None} == {**before, "usage": None}  # the weights' version is in it
        assert await service.restarts("started") == 1
        assert await service.status("/livez") == await service.status("/startupz") == 200


async def a_hang_while_idle() -> None:
    """Nothing is asked, nothing comes: the canary finds out; and the engine that goes on is ready again."""
    async with failing({"kind": "hang", "after_s": 100, "for_s": 60}) as service:
        await asyncio.sleep(100)
        stopped = time.monotonic()
        reply = await service.until_status("/readyz", 503)
        assert time.monotonic() - stopped <= 35
        assert "no output" in reply.json()["error"]["message"]
        assert await service.status("/livez") == 200
        await asyncio.sleep(1.1)
        async with asyncio.timeout(1):  # nobody new is left waiting for it
            assert is_no_number(await service.compare())
        await service.until_status("/readyz", 200)
        assert await service.restarts("started") == 0


async def a_hang_for_good() -> None:
    """Whoever waits inside gets a typed 503 when the engine is given up, and another engine takes over."""
    async with failing({"kind": "hang", "at_call": STARTED + 1}) as service:
        waiting = asyncio.create_task(service.compare())
        await service.until_status("/readyz", 503)
        reply = await asyncio.wait_for(waiting, PATIENCE_S)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")
        await service.until_status("/readyz", 200)
        assert (await service.compare()).status_code == 200
        assert await service.restarts("started") == 1


async def broken_weights() -> None:
    """Answers come as fast as ever, and are no numbers: each is an error, and the engine is replaced."""
    async with failing({"kind": "nan", "after_s": 10}) as service:
        assert (await service.compare()).status_code == 200
        reply = await service.until_status("/readyz", 503)
        assert is_no_number(await service.compare(prompt="Another question"))
        assert "not finite" in reply.json()["error"]["message"]
        await service.until_status("/readyz", 200)
        assert (await service.compare()).status_code == 200
        assert await service.restarts("started") == 1


async def broken_weights_while_busy() -> None:
    """With answers flowing no canary is due; the broken ones call for it."""
    async with failing({"kind": "nan", "after_s": 10}, limits={"canary_s": 3600.0, "stall_s": 7200.0}) as service:
        async with asyncio.timeout(PATIENCE_S):
            while await service.status("/readyz") == 200:
                await service.compare()
                await asyncio.sleep(0.1)
        await service.until_status("/readyz", 200)


async def starts_that_fail() -> None:
    """Each failed start is one try; the third engine works, and until then callers are told so."""
    async with failing(
        {"kind": "die", "at_call": STARTED + 1}, {"kind": "start_failure", "at_start": 2, "times": 2}
    ) as service:
        assert (await service.compare()).status_code == 503
        reply = await service.until_status("/readyz", 503)
        assert int(reply.headers["retry-after"]) >= 1
        await service.until_status("/readyz", 200)
        assert (await service.restarts("failed"), await service.restarts("started")) == (2, 1)


async def a_slow_restart() -> None:
    """While the other engine starts, requests are refused at once, and the process counts as alive and started."""
    async with failing(
        {"kind": "die", "at_call": STARTED + 1}, {"kind": "slow_start", "at_start": 2, "for_s": 60.0}
    ) as service:
        await service.compare()
        await service.until_status("/readyz", 503)
        await asyncio.sleep(20)
        async with asyncio.timeout(1):
            assert (await service.compare()).status_code == 503
        assert await service.status("/livez") == await service.status("/startupz") == 200
        assert "restarted" in (await service.client.get("/readyz")).json()["error"]["message"]
        await service.until_status("/readyz", 200)


async def too_many_failures() -> None:
    """After ``max_restarts`` tries the process is to exit, and says why."""
    faults = {"kind": "die", "at_call": STARTED + 1}, {"kind": "start_failure", "at_start": 2, "times": 99}
    async with failing(*faults, recovery={"max_restarts": 3}) as service:
        assert (await service.compare()).status_code == 503
        reply = await service.until_status("/livez", 503)
        assert "told to fail" in reply.json()["error"]["message"]
        assert service.health.given_up is not None
        assert await service.restarts("failed") == 3
        assert (await service.compare()).status_code == 503


async def a_burst() -> None:
    """More work than the engine gets through, for ten times as long as it may be silent: no hang, and no canary."""
    async with failing(engine={"delay_s": 1.0}) as service:
        engine = service.app.state.service.health._engine._engine
        before, ends, sent = engine.calls, time.monotonic() + 300, 0

        async def one_caller(number: int) -> None:
            nonlocal sent
            while time.monotonic() < ends:
                sent += 1
                assert (await service.compare(prompt=f"{number}, {sent}")).status_code == 200

        callers = [asyncio.create_task(one_caller(number)) for number in range(3)]
        while time.monotonic() < ends:
            assert await service.status("/readyz") == 200
            await asyncio.sleep(10)
        await asyncio.gather(*callers)
        assert engine.calls == before + 2 * sent


async def a_watchdog_that_slept() -> None:
    """A process that was stopped, or busy, for longer than an engine may be silent: that proves nothing."""
    async with failing() as service:
        await asyncio.sleep(10)
        engine = service.app.state.service.health._engine._engine
        with mock.patch.object(time, "monotonic", lambda clock=time.monotonic: clock() + 500):
            await asyncio.sleep(1.01)  # the tick that comes late
            for _ in range(10):
                assert await service.status("/readyz") == await service.status("/livez") == 200
                await asyncio.sleep(1)
        assert engine is service.app.state.service.health._engine._engine


async def answers_are_not_inherited() -> None:
    """What the dead engine answered is asked again: its numbers may be what it died of."""
    async with failing({"kind": "die", "at_call": STARTED + 3}, cache={}) as service:
        first = await service.compare()
        assert (await service.compare()).json()["usage"]["cached_tokens"] > first.json()["usage"]["cached_tokens"]
        assert (await service.compare(prompt="Another question")).status_code == 503
        await service.until_status("/readyz", 200)
        again = (await service.compare()).json()["usage"]
        assert again["cached_tokens"] < again["prompt_tokens"]


SCENARIOS = (
    a_crash,
    a_hang_while_idle,
    a_hang_for_good,
    broken_weights,
    broken_weights_while_busy,
    starts_that_fail,
    a_slow_restart,
    too_many_failures,
    answers_are_not_inherited,
    a_burst,
    a_watchdog_that_slept,
)
