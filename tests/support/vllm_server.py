"""Servers for the remote engine: vLLM's own on the CPU, and a quick double of it around the fake engine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.engines.base import EngineRequest, Repetition
from service.engines.fake import FakeEngine
from service.errors import EngineDead
from service.types import Completion

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints


@contextmanager
def real_server(made: TinyCheckpoints, log: Path) -> Iterator[str]:
    """vLLM's OpenAI server on the tiny model with its adapter, in float32; yields its root URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(made.causal), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        str(made.max_model_len),
        "--block-size",
        "32",
    ]
    command += ["--kv-cache-memory-bytes", str(64 * 2**20), "--enable-prompt-tokens-details"]
    command += ["--enable-lora", "--lora-modules", f"lora={made.adapter}"]
    variables = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url + "/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError("vLLM's server did not start:\n" + log.read_text(errors="replace")[-4000:])


class StubServer:
    """The routes the remote engine uses, answered by a fake engine. ``status`` overrides every answer's status."""

    def __init__(self, engine: FakeEngine, model: str = "tiny", api_key: str | None = None) -> None:
        self.engine = engine
        self.model = model
        self.api_key = api_key
        self.healthy = True
        self.status = 200
        self.tokens = 0
        self.bodies: list[dict[str, Any]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> StubServer:
        routes = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/classify", self._classify, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """As a killed process would: connections are cut, the port refuses."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(10)
        self._socket.close()

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _metrics(self, request: Request) -> Response:
        lines = [f'vllm:{kind}_tokens_total{{engine="0"}} {self.tokens / 2}' for kind in ("prompt", "generation")]
        return Response("\n".join(["# HELP of others", *lines, "vllm:other_total 9.0"]))

    async def _models(self, request: Request) -> Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return Response(status_code=401)
        limit = self.engine.info.max_model_len
        cards = [{"id": self.model, "parent": None, "max_model_len": limit}]
        cards += [{"id": name, "parent": self.model, "max_model_len": None} for name in self.engine.options.adapters]
        return JSONResponse({"data": cards})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, status_code=self.status)
        adapter = body["model"] if body["model"] != self.model else None
        labels = tuple(body.get("logprob_token_ids", ()))
        if "prompt_logprobs" in body:
            return JSONResponse(await self._likelihoods(tuple(body["prompt"]), adapter, body.get("cache_salt")))
        wanted = EngineRequest(
            prompt_ids=tuple(body["prompt"]),
            task="label" if labels else "generate",
            label_ids=labels,
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            stop=tuple(body.get("stop", ())),
            repetition=_repetition(body.get("repetition_detection")),
            adapter=adapter,
            cache_salt=body.get("cache_salt"),
            seed=body.get("seed"),
        )
        if body.get("stream"):
            return StreamingResponse(self._events(wanted), media_type="text/event-stream")
        try:
            done = await self._until_gone(request, wanted)
        except EngineDead:
            return Response(status_code=500)
        return JSONResponse(_answer(done, labels))

    async def _likelihoods(self, ids: tuple[int, ...], adapter: str | None, salt: str | None) -> dict[str, Any]:
        """Each prompt token's own log-probability, as the server gives it; none for the first."""
        rows: list[Any] = [None]
        for end in range(2, len(ids) + 1):
            wanted = EngineRequest(ids[:end], "likelihood", adapter=adapter, cache_salt=salt, scored_from=end - 1)
            done = await self.engine.complete(wanted)
            rows.append({str(ids[end - 1]): {"logprob": done.log_likelihood, "rank": 1, "decoded_token": ""}})
        choice = {"text": "", "token_ids": [0], "finish_reason": "length", "prompt_logprobs": rows}
        return {"choices": [choice], "usage": _usage(done)}

    async def _until_gone(self, request: Request, wanted: EngineRequest) -> Completion:
        """The engine's answer, given up when the client disconnects, as vLLM's server does."""
        work = asyncio.ensure_future(self.engine.complete(wanted))
        while not work.done():
            await asyncio.wait([work], timeout=0.02)
            if await request.is_disconnected():
                work.cancel()
        return await work

    async def _events(self, wanted: EngineRequest) -> AsyncIterator[str]:
        sent = 0
        async for item in self.engine.stream(wanted):
            if isinstance(item, Completion):
                choice = {"text": "", "token_ids": list(item.token_ids)[sent:], "finish_reason": item.finish_reason}
                yield _event({"choices": [choice], "usage": _usage(item)})
            else:
                ids = list(self.engine.options.encode(item.text))
                sent += len(ids)
                yield _event({"choices": [{"text": item.text, "token_ids": ids, "finish_reason": None}]})
        yield "data: [DONE]\n\n"

    async def _classify(self, request: Request) -> Response:
        body = await request.json()
        done = await self.engine.complete(EngineRequest(tuple(body["input"]), "scalar"))
        return JSONResponse({"data": [{"index": 0, "probs": [done.score], "num_classes": 1}]})


def _repetition(rule: dict[str, int] | None) -> Repetition | None:
    return rule and Repetition(rule["min_count"], rule["min_pattern_size"], rule["max_pattern_size"])


def _answer(done: Completion, labels: tuple[int, ...]) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": done.text, "token_ids": list(done.token_ids), "finish_reason": done.finish_reason}
    if labels:
        row = {f"token_id:{label}": value for label, value in zip(labels, done.label_logprobs, strict=True)}
        choice["logprobs"] = {"top_logprobs": [{"token_id:9": -0.1} | row]}
    return {"choices": [choice], "usage": _usage(done)}


def _usage(done: Completion) -> dict[str, Any]:
    return {"prompt_tokens": done.prompt_tokens, "prompt_tokens_details": {"cached_tokens": done.cached_tokens}}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
