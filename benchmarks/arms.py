"""The ways to judge pairs that throughput compares. Each measures the same thing: both display orders of every pair."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from benchmarks.processes import Program, Server, Worker
from benchmarks.questions import ChatMessages, LabelJudge
from benchmarks.servers import DEADLINE

Item = dict[str, Any]
CLIENTS = 32
CHAT_THREADS = 16
TOP_LOGPROBS = 20
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a set of pairs took, and P(a better) of each (NaN where the answer held no label).

    ``cpu_seconds`` is the processor time of the program that judged, all its processes together.
    """

    seconds: float
    p_first: list[float]
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    cpu_seconds: float = math.nan
    dtype: str | None = None

    @property
    def rate(self) -> float:
        """Judged comparisons a second."""
        return len(self.p_first) / self.seconds


class Arm(Protocol):
    """``key`` is short and stable, ``title`` for people, ``program`` what computes."""

    @property
    def key(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def program(self) -> Program: ...

    def measure(self, items: Sequence[Item]) -> Measured: ...


@dataclass(frozen=True)
class Offline:
    """(a) `LLM.generate` on token ids that were rendered beforehand."""

    program: Worker
    judge: LabelJudge
    key: str = "a"
    title: str = "vLLM offline, LLM.generate"

    def measure(self, items: Sequence[Item]) -> Measured:
        answer = self.program.ask((self.judge.prompt_ids(items), self.judge.label_ids), TIMEOUT_S)
        p_first = probabilities(answer["logprobs"])
        return Measured(answer["seconds"], p_first, answer["prompt_tokens"], answer["cached_tokens"])


@dataclass(frozen=True)
class ServiceBatch:
    """(b) this service: one /compare request with all pairs."""

    program: Server
    key: str = "b"
    title: str = "this service, batched /compare"

    def measure(self, items: Sequence[Item]) -> Measured:
        with httpx.Client(base_url=self.program.url, timeout=TIMEOUT_S, headers=DEADLINE, trust_env=False) as client:
            started = time.perf_counter()
            reply = client.post("/compare", json={"items": items}).raise_for_status()
            seconds = time.perf_counter() - started
        body = reply.json()
        usage = body["usage"]
        return Measured(seconds, [_p(r) for r in body["results"]], usage["prompt_tokens"], usage["cached_tokens"])


@dataclass(frozen=True)
class ServiceClients:
    """(b) this service: one pair a request, from clients that each wait for their answer."""

    program: Server
    key: str = "b32"
    title: str = f"this service, {CLIENTS} single-pair clients"

    def measure(self, items: Sequence[Item]) -> Measured:
        return asyncio.run(self._measure(items))

    async def _measure(self, items: Sequence[Item]) -> Measured:
        replies: list[Item] = [{}] * len(items)
        waiting = iter(range(len(items)))
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)

        async def work(client: httpx.AsyncClient) -> None:
            for i in waiting:
                replies[i] = (await client.post("/compare", json=items[i])).raise_for_status().json()

        url = self.program.url
        async with httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, headers=DEADLINE, limits=limits, trust_env=False
        ) as client:
            started = time.perf_counter()
            await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
            seconds = time.perf_counter() - started
        tokens, cached = (sum(r["usage"][key] for r in replies) for key in ("prompt_tokens", "cached_tokens"))
        return Measured(seconds, [_p(reply) for reply in replies], tokens, cached)


@dataclass(frozen=True)
class ChatClient:
    """(c) chat completions with top log-probabilities from vLLM's OpenAI server, each order a request."""

    program: Server
    judge: LabelJudge
    key: str
    title: str

    def measure(self, items: Sequence[Item]) -> Measured:
        chats = self.judge.chats(items)
        limits = httpx.Limits(max_connections=CHAT_THREADS, max_keepalive_connections=CHAT_THREADS)
        with (
            httpx.Client(base_url=self.program.url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as client,
            ThreadPoolExecutor(CHAT_THREADS) as pool,
        ):
            started = time.perf_counter()
            rows = list(pool.map(lambda chat: self._ask(client, chat), chats))
            seconds = time.perf_counter() - started
        return Measured(seconds, probabilities(rows))

    def _ask(self, client: httpx.Client, chat: ChatMessages) -> tuple[float, ...]:
        body = {
            "model": self.judge.model,
            "messages": chat,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        choice = client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
        top = {entry["token"]: entry["logprob"] for entry in choice["logprobs"]["content"][0]["top_logprobs"]}
        return tuple(top.get(label, math.nan) for label in self.judge.labels)


@dataclass(frozen=True)
class OnePair:
    """(d) transformers, a pair at a time, in the number format that is faster for it."""

    program: Worker
    judge: LabelJudge
    key: str = "d"
    title: str = "transformers, one pair at a time"

    def measure(self, items: Sequence[Item]) -> Measured:
        answer = self.program.ask((self.judge.chats(items), self.judge.label_ids), TIMEOUT_S)
        return Measured(answer["seconds"], probabilities(answer["logprobs"]), dtype=answer["dtype"])


def probabilities(rows: Sequence[tuple[float, ...]]) -> list[float]:
    """Two rows of label log-probabilities an item (a first, then b first) to P(a better)."""
    shown_first = [1.0 / (1.0 + math.exp(second - first)) for first, second in rows]
    return [(ab + 1.0 - ba) / 2.0 for ab, ba in zip(shown_first[::2], shown_first[1::2], strict=True)]


def _p(verdict: Item) -> float:
    if verdict["status"] != "ok":
        raise RuntimeError(f"The service failed on a pair: {verdict['error']}")
    return float(verdict["p_first"])
