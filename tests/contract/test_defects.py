"""Planted defects: the suite's own checks must fail on a store or service that is wrong on purpose."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from service.engines.fake import FakeEngine
from service.errors import ServiceError
from tests.support import failure_properties, queue_histories, queue_properties, service_defects
from tests.support.defects import STORE_DEFECTS, Defect, DefectiveBackend, Wrapped, zero_on_failure
from tests.support.probes.base import CAUGHT as SEEN
from tests.support.probes.base import Check, Probe, failing, watched
from tests.support.probes.control_tokens import CONTROL_TOKENS
from tests.support.probes.orders import POSITION
from tests.support.probes.verdicts import READERS
from tests.support.properties import VARIABLE
from tests.support.queue_bench import Bench, opened
from tests.support.serving import Api, listening, serving
from tests.support.stores import Backend, MemoryBackend

CASES = [(defect, name) for defect in STORE_DEFECTS for name in defect.caught_by]


ENOUGH = 3.0
"""Scale at the least: a quick run's few examples may miss a defect, and a check ends where it has caught one."""


@pytest.fixture(autouse=True)
def only_generate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These failures are wanted: no shrinking, no record of them for later runs."""
    monkeypatch.setenv(VARIABLE, str(max(ENOUGH, float(os.environ.get(VARIABLE, "1")))))
    before = settings.get_current_profile_name()
    settings.register_profile("defects", phases=(Phase.generate,), database=None)
    settings.load_profile("defects")
    yield
    settings.load_profile(before)


def named(check: str) -> Callable[[Bench], None]:
    """The very function that the contract suite runs under this name."""
    if check.startswith("q11_"):
        return functools.partial(queue_histories.q11_replicas_see_one_history, seed=0)
    found: Callable[[Bench], None] = getattr(queue_properties, check)
    return found


CAUGHT = (AssertionError, pytest.fail.Exception, ServiceError)
"""How a check fails: its assertion, an error it expects that does not come, or one of ours where it expects none.
Anything else is a mistake in the double, and raised."""


def fails(check: Callable[[Bench], None], bench: Bench) -> bool:
    try:
        check(bench)
    except CAUGHT:
        return True
    except BaseExceptionGroup as several:  # hypothesis found more than one way to fail
        if several.split(CAUGHT)[1] is not None:
            raise
        return True
    return False


@pytest.mark.parametrize(("defect", "check"), CASES, ids=[f"{defect.name}: {check}" for defect, check in CASES])
def test_the_check_catches_the_defect(
    backend: Backend, tmp_path: Path, defect: Defect, check: str, record_property: Callable[[str, str], None]
) -> None:
    record_property("defect", defect.name)
    record_property("caught_by", check)
    with defect.switch(), opened(DefectiveBackend(backend, defect.wrap), tmp_path) as bench:
        assert fails(named(check), bench), f"{check} does not see: {defect.name}"


@pytest.mark.parametrize("check", sorted({check for _, check in CASES}))
def test_the_double_alone_is_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """What the checks catch is the mistake, not the wrapping."""
    monkeypatch.setenv(VARIABLE, "0.2")  # the checks themselves run elsewhere
    with opened(DefectiveBackend(MemoryBackend(), Wrapped), tmp_path) as bench:
        named(check)(bench)


def every(*probes: Probe) -> Check:
    """Probes of `tests/service/test_hostile.py` as one check."""

    async def check(api: Api) -> None:
        failed = await failing(probes, api, first=True)
        assert not failed, failed

    return check


async def no_number_for_a_failure(api: Api) -> None:
    await failure_properties.a_failed_row_has_no_numbers_and_enters_no_window(api, "bad-day")


@dataclass(frozen=True)
class ServiceDefect:
    """A mistake around the stores. ``check`` is what the suite runs on a sound service; ``caught_by`` names it."""

    name: str
    switch: Callable[[], AbstractContextManager[object]]
    caught_by: str
    check: Check
    serve: Callable[..., AbstractAsyncContextManager[Api]] = serving


CUT_OFF = every(*(probe for probe in READERS.probes if "is cut off" in probe.name))
SERVICE_DEFECTS = (
    ServiceDefect(
        "split_special_tokens only",
        service_defects.split_special_tokens_only,
        "probes of family 1",
        every(*CONTROL_TOKENS.probes),
    ),
    ServiceDefect(
        "parse-first verdict", service_defects.parse_first_verdict, "probes of family 3b", every(*READERS.probes)
    ),
    ServiceDefect("swap skipped", service_defects.swap_skipped, "probes of family 8", every(*POSITION.probes)),
    ServiceDefect(
        "finish_reason ignored", service_defects.finish_reason_ignored, "probes of family 3b: is cut off", CUT_OFF
    ),
    ServiceDefect(
        "health always true",
        service_defects.health_always_true,
        "a_dead_engine_is_not_ready",
        failure_properties.a_dead_engine_is_not_ready,
    ),
    ServiceDefect(
        "no abort on disconnect",
        service_defects.no_abort_on_disconnect,
        "hanging_up_empties_the_engine",
        failure_properties.hanging_up_empties_the_engine,
        listening,
    ),
    ServiceDefect(
        "0.0 on failure",
        zero_on_failure,
        "a_failed_row_has_no_numbers_and_enters_no_window",
        no_number_for_a_failure,
    ),
)


@pytest.mark.parametrize("defect", SERVICE_DEFECTS, ids=[defect.name for defect in SERVICE_DEFECTS])
async def test_the_service_s_defect_is_caught(
    defect: ServiceDefect, record_property: Callable[[str, str], None]
) -> None:
    record_property("defect", defect.name)
    record_property("caught_by", defect.caught_by)
    async with defect.serve(None, FakeEngine(watched())) as api:
        await defect.check(api)
    with defect.switch():
        async with defect.serve(None, FakeEngine(watched())) as api:
            with pytest.raises(SEEN):
                await defect.check(api)
