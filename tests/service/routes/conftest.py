"""One application for all route tests of a session; what a test changes of the fake engine is put back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.serving import Api, options, serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


@pytest.fixture
def api(shared_api: Api) -> Iterator[Api]:
    yield shared_api
    shared_api.engine.options = options()
    assert shared_api.admission.held == 0
    assert shared_api.admission.running == 0
    assert shared_api.engine.in_flight == 0
