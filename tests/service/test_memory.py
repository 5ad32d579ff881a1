"""A service of its own process keeps nothing of what it has answered; one with a planted leak is seen to leak."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest

from tests.support.properties import count, scaled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 2**20
OVER_LIMIT, OVER_LIMIT_MIB = 100, 1.0
REQUESTS, REQUESTS_MIB = 10_000, 20.0
LIMIT = 4 * MIB
SMALL_CACHES = {"GRAM_CACHE__ENTRIES": "300", "GRAM_SCORE_HEALTH__WINDOW": "100"}
"""What is kept on purpose is full after the warm-up, so that growth behind it is none."""
WARM_UP, WARM_UP_CHARS = 250, 5000
START_S = 300
"""A machine that is busy with other tests takes its time."""


@dataclass(frozen=True)
class Running:
    """A service in a process of its own."""

    url: str
    process: psutil.Process

    def mib(self) -> float:
        """Resident memory, when it has come to rest."""
        time.sleep(0.3)
        return float(self.process.memory_info().rss) / MIB


@contextmanager
def service(module: str) -> Iterator[Running]:
    """``python -m module serve`` on a free port, with the fake engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, "serve", "--engine", "fake", "--store", "memory", "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | SMALL_CACHES, stdout=subprocess.DEVNULL) as child:
        try:
            _wait(f"http://127.0.0.1:{port}/readyz", child)
            yield Running(f"http://127.0.0.1:{port}", psutil.Process(child.pid))
        finally:
            child.terminate()
            child.wait(30)


def _wait(url: str, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the service did not start")


def ask(running: Running, number: int, start: int = 0, chars: int = 0) -> None:
    """So many requests of four kinds; no text comes twice."""
    with httpx.Client(base_url=running.url, timeout=60) as client:
        for n in range(start, start + number):
            count()
            prompt = f"What is {n} + 5? {'x' * chars}"
            pair = {"prompt": prompt, "response_a": f"{n + 5}", "response_b": f"It is {n + 6}."}
            route, body = (
                ("/compare", pair),
                ("/rank", {"prompt": prompt, "responses": [f"{n + k}" for k in range(3)]}),
                ("/score", {"items": [{"prompt": prompt, "response": f"{n + 5}", "reference": f"{n + 6}"}]}),
                ("/rationale", pair),
            )[n % 4 if not chars else 0]
            reply = client.post(route, json=body)
            assert reply.status_code == 200, reply.text[:300]


def overload(running: Running, number: int) -> None:
    """Bodies over the limit, announced so or only found to be, in turns."""
    for n in range(number):
        count()
        with socket.create_connection(running.url.removeprefix("http://").split(":"), timeout=30) as connection:  # type: ignore[arg-type]
            _send_too_much(connection, announced=n % 2 == 0)
            assert connection.recv(64).startswith(b"HTTP/1.1 413")


def _send_too_much(connection: socket.socket, *, announced: bool) -> None:
    size = f"Content-Length: {LIMIT + 1}" if announced else "Transfer-Encoding: chunked"
    head = f"POST /compare HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{size}\r\n\r\n"
    connection.sendall(head.encode())
    piece = b" " * 65_536
    with contextlib.suppress(ConnectionError):  # refused meanwhile
        for _ in range(0 if announced else LIMIT // len(piece) + 1):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))


@pytest.fixture(scope="module")
def sound() -> Iterator[Running]:
    with service("service") as running:
        ask(running, WARM_UP, chars=WARM_UP_CHARS)
        ask(running, 200, start=WARM_UP)
        overload(running, 20)
        yield running


def test_bodies_over_the_limit_leave_nothing(sound: Running) -> None:
    before = sound.mib()
    overload(sound, OVER_LIMIT)
    assert sound.mib() - before <= OVER_LIMIT_MIB


def test_requests_leave_nothing(sound: Running) -> None:
    before = sound.mib()
    ask(sound, scaled(REQUESTS), start=10_000)
    assert sound.mib() - before <= REQUESTS_MIB


def test_a_planted_leak_is_seen(record_property: Callable[[str, str], None]) -> None:
    """64 KiB kept of each request: both bounds are broken long before their counts."""
    record_property("defect", "Some memory of every request is kept.")
    record_property("caught_by", "test_bodies_over_the_limit_leave_nothing, test_requests_leave_nothing")
    with service("tests.support.leaking") as running:
        overload(running, 20)
        before = running.mib()
        overload(running, OVER_LIMIT)
        assert running.mib() - before > OVER_LIMIT_MIB
        before = running.mib()
        ask(running, 400, start=10_000)
        assert running.mib() - before > REQUESTS_MIB
