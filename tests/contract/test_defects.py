"""Planted defects: the suite's own checks must fail on a store or service that is wrong on purpose."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from service.errors import ServiceError
from tests.support import failure_properties, queue_histories, queue_properties
from tests.support.defects import STORE_DEFECTS, Defect, DefectiveBackend, Wrapped, zero_on_failure
from tests.support.properties import VARIABLE
from tests.support.queue_bench import Bench, opened
from tests.support.serving import serving
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
def test_the_check_catches_the_defect(backend: Backend, tmp_path: Path, defect: Defect, check: str) -> None:
    with defect.switch(), opened(DefectiveBackend(backend, defect.wrap), tmp_path) as bench:
        assert fails(named(check), bench), f"{check} does not see: {defect.name}"


@pytest.mark.parametrize("check", sorted({check for _, check in CASES}))
def test_the_double_alone_is_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """What the checks catch is the mistake, not the wrapping."""
    monkeypatch.setenv(VARIABLE, "0.2")  # the checks themselves run elsewhere
    with opened(DefectiveBackend(MemoryBackend(), Wrapped), tmp_path) as bench:
        named(check)(bench)


async def test_zero_on_failure_is_caught() -> None:
    async with serving() as api:
        await failure_properties.a_failed_row_has_no_numbers_and_enters_no_window(api, "right")
        with zero_on_failure(), pytest.raises(AssertionError):
            await failure_properties.a_failed_row_has_no_numbers_and_enters_no_window(api, "wrong")
