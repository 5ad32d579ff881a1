"""README's examples, run: on the fake engine always, and on the demo judge in real vLLM as `make serve` starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.architecture.documents import code_blocks
from tests.support.examples import README, ROOT, Curl, parse_curl, readme_curls, run_python_example
from tests.support.serving import listening

PATHS = {"/compare", "/rank", "/rationale", "/score", "/models", "/queues", "/readyz", "/metrics"}


def check(curl: Curl, reply: httpx.Response) -> None:
    """A good answer in the shape the README speaks of."""
    assert reply.status_code == 200, f"{curl.path}: {reply.text[:500]}"
    if reply.headers["content-type"].startswith("text/event-stream"):
        assert "event: verdict" in reply.text
    elif curl.path in ("/compare", "/rationale"):
        assert reply.json()["status"] == "ok"
    elif curl.path == "/score":
        assert {row["status"] for row in reply.json()["results"]} == {"ok"}


def test_examples_cover_the_endpoints() -> None:
    assert {curl.path for curl in readme_curls()} >= PATHS


async def test_curl_examples_on_the_fake_engine() -> None:
    async with listening() as api:
        for curl in readme_curls():
            check(curl, await asyncio.to_thread(curl.send, api.url))


@pytest.mark.slow
async def test_python_examples_on_the_fake_engine() -> None:
    async with listening() as api:
        for source in code_blocks(README, "python"):
            assert (await asyncio.to_thread(run_python_example, source, api.url)).strip()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Curl]]:
    """The service as `make serve` starts it, on a free port: its address and the request it printed."""
    folder = tmp_path_factory.mktemp("serve")
    command = [sys.executable, "-m", "service", "serve", "--engine", "vllm", "--device", "cpu", "--port", "0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--store", "memory"], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as server,
    ):
        try:
            yield _banner(server, folder / "log")
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=60)
    assert status == 0, "the service did not end cleanly:\n" + (folder / "log").read_text()[-3000:]


def _banner(server: subprocess.Popen[str], log: Path) -> tuple[str, Curl]:
    """Reads on until the printed request; the port opens only when the judge has passed its self-test."""
    assert server.stdout is not None
    for line in server.stdout:
        if line.strip().startswith("curl "):
            curl = parse_curl(line.strip())
            url = httpx.URL(curl.url)
            return f"http://{url.host}:{url.port}", curl
    raise AssertionError("the service ended before it was ready:\n" + log.read_text()[-3000:])


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_the_printed_request_is_answered(demo: tuple[str, Curl]) -> None:
    url, curl = demo
    reply = curl.send(url)
    check(curl, reply)
    assert reply.json()["preferred"] == "a", "7 + 5 = 12 is the right one"


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_curl_examples_on_the_demo_judge(demo: tuple[str, Curl]) -> None:
    """The README's first responses are the right ones; the demo judge must say so."""
    url, _ = demo
    for curl in readme_curls():
        reply = curl.send(url)
        check(curl, reply)
        if curl.path in ("/compare", "/rationale") and not json.loads(curl.body or "{}").get("stream"):
            assert reply.json()["preferred"] == "a", curl.body


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_python_examples_on_the_demo_judge(demo: tuple[str, Curl]) -> None:
    url, _ = demo
    for source in code_blocks(README, "python"):
        assert run_python_example(source, url).strip()
