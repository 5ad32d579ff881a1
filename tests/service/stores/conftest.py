"""Redis servers for the tests that stop, freeze and fill them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running server of the test's own, with an append-only file."""
    server = RedisServer(tmp_path / "redis", append_only=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()
