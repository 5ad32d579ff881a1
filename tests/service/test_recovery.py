"""What comes of an engine that fails, over HTTP; and that these tests would notice a service that does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.admission import Admission
from service.engines import supervised
from service.engines.base import ProgressMeter
from service.engines.fake import FakeEngine
from service.engines.supervised import SupervisedEngine
from service.health import Health, Patience
from service.recovery import Recovery, RecoveryPolicy
from tests.support import failing as scenarios
from tests.support.failing import SCENARIOS, STARTED, failing, in_virtual_time, is_no_number
from tests.support.serving import options

Scenario = Callable[[], Awaitable[None]]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_it_comes_back(scenario: Scenario) -> None:
    in_virtual_time(scenario)


async def _nothing(*args: Any) -> None:
    return None


DEFECTS: list[tuple[str, Any, str, Any, Scenario]] = [
    ("the engine's death is not noticed", Health, "_failure", _nothing, scenarios.a_crash),
    ("nobody asks a silent engine", Health, "_ask_canary_if_needed", lambda self: None, scenarios.a_hang_while_idle),
    ("silence is never too long", Health, "silent_s", property(lambda self: 0.0), scenarios.a_hang_for_good),
    ("any number will do", supervised, "is_sound", lambda completion: True, scenarios.broken_weights),
    ("a refusal is forgotten", SupervisedEngine, "take_down", None, scenarios.a_slow_restart),
    ("tries are not counted", Recovery, "_next_wait_s", lambda self: 0.0, scenarios.too_many_failures),
    ("sleep counts as silence", Health, "_excuse", lambda self, late_s: None, scenarios.a_watchdog_that_slept),
    ("only the last answer is a sign of life", ProgressMeter, "moved", lambda self: None, scenarios.a_burst),
    ("memory survives the engine", SupervisedEngine, "on_replaced", None, scenarios.answers_are_not_inherited),
]


@pytest.mark.parametrize(("what", "owner", "name", "instead", "scenario"), DEFECTS, ids=[d[0] for d in DEFECTS])
def test_a_planted_defect_is_caught(
    what: str, owner: Any, name: str, instead: Any, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: SupervisedEngine, *args: Any) -> Any:
        return self._gone()

    monkeypatch.setattr(owner, name, instead or careless)
    with pytest.raises((AssertionError, TimeoutError)):
        in_virtual_time(lambda: asyncio.wait_for(scenario(), 2000))


def test_exit_is_at_once() -> None:
    async def scenario() -> None:
        async with failing({"kind": "die", "at_call": STARTED + 1}, recovery={"on_failure": "exit"}) as service:
            assert is_no_number(await service.compare())
            await service.until_status("/livez", 503)
            assert service.health.given_up is not None
            assert await service.restarts("started") == await service.restarts("failed") == 0

    in_virtual_time(scenario)


def test_stay_leaves_it_to_the_probes() -> None:
    async def scenario() -> None:
        async with failing({"kind": "die", "at_call": STARTED + 1}, recovery={"on_failure": "stay"}) as service:
            assert is_no_number(await service.compare())
            assert await service.status("/readyz") == await service.status("/livez") == 503
            assert service.health.given_up is None
            assert await service.status("/startupz") == 200

    in_virtual_time(scenario)


async def test_servers_elsewhere_come_back_by_themselves() -> None:
    """A remote engine that is away makes the service unready; restarting the service would not help."""
    engine = FakeEngine(options())
    held = SupervisedEngine(lambda: engine, None, 60)
    await held.start()
    policy = RecoveryPolicy("stay", heals_itself=True)
    admission = Admission(100)
    watchdog = Health(held, _Store(), admission, Patience(), Recovery(held, admission, policy))  # type: ignore[arg-type]
    await watchdog.check_alive()
    engine.die()
    await watchdog.check_alive()
    with pytest.raises(supervised.EngineDead):
        await watchdog.check_ready()


class _Store:
    async def ping(self) -> None:
        return None


async def test_waits_double_up_to_a_limit_and_tries_grow_old() -> None:
    now = 0.0
    engine = SupervisedEngine(lambda: FakeEngine(options()), None, 60)
    policy = RecoveryPolicy("restart", max_restarts=4, window_s=100, backoff_s=2, max_backoff_s=5)
    recovery = Recovery(engine, Admission(10), policy, clock=lambda: now)
    waits = []
    for _ in range(5):
        waits.append(recovery._next_wait_s())
        recovery._tries.append(now)
    assert waits == [0.0, 2.0, 4.0, 5.0, None]
    now = 101.0
    assert recovery._next_wait_s() == 0.0


async def test_while_draining_nothing_is_restarted() -> None:
    built = []

    def make() -> FakeEngine:
        built.append(FakeEngine(options()))
        return built[-1]

    engine, admission = SupervisedEngine(make, None, 60), Admission(10)
    await engine.start()
    admission.drain(1)
    await Recovery(engine, admission, RecoveryPolicy("restart")).after("It died.")
    assert len(built) == 1


async def test_requests_inside_end_with_the_reason() -> None:
    engine, admission = SupervisedEngine(lambda: FakeEngine(options()), None, 60), Admission(10)
    await engine.start()

    async def inside() -> None:
        async with admission.deadline(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(inside())
    await asyncio.sleep(0)
    recovery = Recovery(engine, admission, RecoveryPolicy("exit"))
    await recovery.after("It died.")
    with pytest.raises(supervised.EngineDead, match="It died"):
        await asyncio.wait_for(task, 5)
    assert recovery.given_up == "It died."
