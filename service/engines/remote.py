"""Judges on other machines: one or more vLLM OpenAI servers (0.32 or newer) over HTTP, all serving the same model.

Everything goes to ``/v1/completions`` with token ids as the prompt, so control tokens stay ours. Label reads use its
``logprob_token_ids``: exactly the labels' full-vocabulary log-probabilities, never a top-k that may miss one.
Requests with an affinity go to their group's replica, others to the one with the fewest of ours in flight. A replica
that cannot be reached is left out until it answers again, and its requests are tried once on each of the others. Every
read is repeatable, so that is safe.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import httpx

from service.engines.affinity import Router
from service.engines.base import (
    NO_SCORING,
    TASKS_OF,
    TRACE_HEADERS,
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    TextDelta,
    check_request,
    fingerprint_weights,
    room_for,
)
from service.engines.remote_wire import ABORTED, read_answer, read_scalar, tokens_of
from service.errors import (
    EngineDead,
    InvalidInput,
    JudgmentFailed,
    NotApplied,
    NotFound,
    Overloaded,
    ServiceError,
    StartupError,
)
from service.types import Completion

T = TypeVar("T")

DEAD = "None of the vLLM servers answers; start one or correct the engine's urls."
# Shorter than the servers' own 5 s, so that no request meets a connection that is just being closed.
KEEPALIVE_S = 2.0
# Sampling defaults of the served checkpoint must not leak into judgments, so each is set to "off".
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """``urls`` are server roots (``http://host:8000``).

    ``model`` is the local directory of the same checkpoint, for its name and weight version; ``served_model`` the name
    the servers use (None: their only base model). LoRA adapters are those the servers list. ``read_timeout_s`` bounds
    one answer; callers' own deadlines usually come first. ``seeds`` sends a request's seed on instead of refusing it:
    for servers on GPUs, or started without chunked prefill (a server on a CPU with it dies of a seeded request).
    """

    urls: tuple[str, ...]
    model: str = ""
    served_model: str | None = None
    api_key: str | None = None
    runner: Literal["generate", "pooling"] = "generate"
    weight_version: str | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 600.0
    check_interval_s: float = 2.0
    max_connections: int = 512
    seeds: bool = False


@dataclass(frozen=True, slots=True)
class _Served:
    """What a server says of itself; replicas must agree."""

    model: str
    max_model_len: int
    adapters: frozenset[str]


@dataclass(slots=True, eq=False)
class _Replica:
    url: str
    client: httpx.AsyncClient
    up: bool = False
    outstanding: int = 0
    tokens: float = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        self.outstanding += 1
        try:
            yield
        finally:
            self.outstanding -= 1


class _LostError(Exception):
    """A replica could not be reached, or went away before its answer."""


class RemoteEngine:
    """See the module."""

    def __init__(self, options: RemoteOptions) -> None:
        self.options = options
        self._tasks = TASKS_OF[options.runner]
        self._meter = ProgressMeter()
        self._replicas: list[_Replica] = []
        self._turn = itertools.count()
        self._router = Router()
        self._served: _Served | None = None
        self._info: EngineInfo | None = None
        self._watch: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDead(DEAD)
        return self._info

    @property
    def progress(self) -> Progress:
        return self._meter.progress

    async def start(self) -> None:
        """Raises `StartupError` where no server answers, one refuses the key, or two serve different models."""
        self._replicas = [_Replica(url, self._client(url)) for url in self.options.urls]
        try:
            for replica in self._replicas:
                await self._look_at(replica)
            if self._served is None:
                raise StartupError(f"No vLLM server answers at {', '.join(self.options.urls)}; start one first.")
            self._info = self._describe(self._served)
            if "label" in self._tasks:
                await self._probe_labels()
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.create_task(self._keep_looking())

    def _client(self, url: str) -> httpx.AsyncClient:
        o = self.options
        return httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {o.api_key}"} if o.api_key else {},
            timeout=httpx.Timeout(o.read_timeout_s, connect=o.connect_timeout_s),
            limits=httpx.Limits(max_connections=o.max_connections, keepalive_expiry=KEEPALIVE_S),
            trust_env=False,
        )

    def _describe(self, served: _Served) -> EngineInfo:
        o = self.options
        version = o.weight_version or fingerprint_weights(o.model or served.model)
        names = {name: name for name in served.adapters}
        return EngineInfo("remote", o.model or served.model, served.max_model_len, version, "remote", names)

    async def reload(self, model: str | None, version: str | None) -> None:
        """The servers hold the weights, and hold the new ones already: here only their name changes."""
        if version is None or self._served is None:
            raise NotApplied("The servers hold the weights: change them there, then send the version they have now.")
        self.options = replace(self.options, model=model or self.options.model, weight_version=version)
        self._info = self._describe(self._served)

    def another(self) -> RemoteEngine:
        return RemoteEngine(self.options)

    async def _look_at(self, replica: _Replica) -> None:
        """Is it healthy? A server that comes (back) must serve what the others serve."""
        try:
            timeout = self.options.connect_timeout_s
            healthy = (await replica.client.get("/health", timeout=timeout)).is_success
            if healthy and not replica.up:
                served = _parse_models(await replica.client.get("/v1/models", timeout=timeout), self.options)
                if self._served is not None and served != self._served:
                    raise StartupError(f"{replica.client.base_url} serves another model than the other servers.")
                self._served = served
            replica.up = healthy
        except httpx.HTTPError:
            replica.up = False

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self.options.check_interval_s)
            for replica in self._replicas:
                with suppress(StartupError):  # such a server stays out
                    await self._look_at(replica)
                if replica.up and replica.outstanding:
                    await self._listen_to(replica)

    async def _listen_to(self, replica: _Replica) -> None:
        """A long text is one answer at its end; the server's count of tokens is a sign of life before that."""
        with suppress(httpx.HTTPError, ValueError):
            reply = await replica.client.get("/metrics", timeout=self.options.connect_timeout_s)
            if (tokens := tokens_of(reply.text)) > replica.tokens:
                self._meter.moved()
            replica.tokens = tokens

    async def _probe_labels(self) -> None:
        """A server too old for ``logprob_token_ids`` ignores it silently: find out now, not in a judgment."""
        try:
            await self.complete(EngineRequest((0, 1), "label", label_ids=(0, 1, 2)))
        except ServiceError as error:
            raise StartupError("The vLLM servers cannot read label probabilities; they need vLLM 0.32.") from error

    async def check(self) -> None:
        if self._closed or not any(replica.up for replica in self._replicas):
            raise EngineDead(DEAD)

    async def _admit(self, request: EngineRequest) -> None:
        await self.check()
        check_request(request, self.info, self._tasks, self.info.adapter_versions)
        if request.is_seeded and not self.options.seeds:
            raise InvalidInput("A seeded request can kill a vLLM server on a CPU; allow seeds where it cannot.")
        if request.task == "likelihood" and self.info.adapter_versions:
            raise InvalidInput(NO_SCORING)

    async def complete(self, request: EngineRequest) -> Completion:
        await self._admit(request)
        with self._meter.request():
            for replica in self._in_turn(request.affinity):
                with suppress(_LostError), replica.request():
                    answer = await self._call(self._post(replica, request))
                    self._meter.moved()
                    return read_scalar(request, answer) if request.task == "scalar" else read_answer(request, answer)
        raise EngineDead(DEAD)

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        """A replica lost in mid-text is an error: another one may go on differently."""
        await self._admit(request)
        with self._meter.request():
            for replica in self._in_turn(request.affinity):
                text, ids, last = "", list[int](), None
                with replica.request():
                    try:
                        async with aclosing(self._chunks(replica, request)) as chunks:
                            while (chunk := await self._call(anext(chunks, None))) is not None:
                                self._meter.moved()
                                last = chunk
                                ids.extend(chunk["choices"][0].get("token_ids") or ())
                                if piece := chunk["choices"][0]["text"]:
                                    text += piece
                                    yield TextDelta(piece)
                    except _LostError as error:
                        if last is not None:
                            raise JudgmentFailed(ABORTED) from error
                        continue
                yield replace(read_answer(request, last or {"choices": []}), text=text, token_ids=tuple(ids))
                return
        raise EngineDead(DEAD)

    async def close(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for call in list(self._calls):
            call.cancel()
        for replica in self._replicas:
            replica.up = False
            await replica.client.aclose()

    def _in_turn(self, affinity: bytes | None) -> Iterator[_Replica]:
        """Where to send a request: the best replica for it, then the others, then once more whoever is still up."""
        tried: list[_Replica] = []
        for _ in range(len(self._replicas) + 1):
            ready = [replica for replica in self._replicas if replica.up]
            if not ready:
                return
            fewest = min(map(tried.count, ready))
            tried.append(self._best([replica for replica in ready if tried.count(replica) == fewest], affinity))
            yield tried[-1]

    def _best(self, ready: list[_Replica], affinity: bytes | None) -> _Replica:
        """The group's replica, or the least busy one; those take turns when equally busy."""
        if affinity is not None:
            url = self._router.pick(affinity, {replica.url: replica.outstanding for replica in ready})
            return next(replica for replica in ready if replica.url == url)
        turn = next(self._turn)
        return min(enumerate(ready, turn), key=lambda one: (one[1].outstanding, one[0] % len(ready)))[1]

    async def _call(self, work: Awaitable[T]) -> T:
        """Await it; when the engine closes meanwhile, that is `EngineDead` and not a cancelled caller."""
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise EngineDead(DEAD) from None
            raise
        finally:
            self._calls.discard(call)

    async def _post(self, replica: _Replica, request: EngineRequest) -> dict[str, Any]:
        path, body = self._body(request)
        async with self._watching(replica):
            response = await replica.client.post(path, json=body, headers=TRACE_HEADERS.get())
            await self._raise_for_status(replica, response)
            return cast(dict[str, Any], response.json())

    async def _chunks(self, replica: _Replica, request: EngineRequest) -> AsyncGenerator[dict[str, Any], None]:
        """The server-sent events with text in them, and the counts at the end merged into the last one."""
        path, body = self._body(request)
        body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        headers = TRACE_HEADERS.get()
        async with self._watching(replica), replica.client.stream("POST", path, json=body, headers=headers) as response:
            await self._raise_for_status(replica, response)
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise JudgmentFailed(ABORTED)
                if chunk["choices"]:
                    yield chunk

    @asynccontextmanager
    async def _watching(self, replica: _Replica) -> AsyncIterator[None]:
        """Connection errors as `_LostError`, after looking whether the replica is still there."""
        try:
            yield
        except (httpx.ReadTimeout, httpx.PoolTimeout) as error:
            raise JudgmentFailed("The vLLM server gave no answer in time; see whether it hangs.") from error
        except httpx.TransportError as error:
            replica.up = False
            await self._look_at(replica)
            raise _LostError from error

    async def _raise_for_status(self, replica: _Replica, response: httpx.Response) -> None:
        """The server's refusals in this project's words; its own words may quote the prompt."""
        status = response.status_code
        if status == 404:
            raise NotFound("The vLLM server does not serve this model or adapter; load it there.")
        if status in (401, 403):
            raise JudgmentFailed("The vLLM server refuses the API key; correct it.")
        if 400 <= status < 500:
            raise InvalidInput("The model cannot take this prompt; check that the tokenizer belongs to the model.")
        if status >= 500:
            await self._look_at(replica)
            if not replica.up:
                raise _LostError
            if status == 503:
                raise Overloaded("The vLLM server's own queue is full; try again later.")
            raise JudgmentFailed("The vLLM server failed on this request; its log says why.")

    def _body(self, request: EngineRequest) -> tuple[str, dict[str, Any]]:
        """Path and JSON of one request."""
        assert self._served is not None
        ids = list(request.prompt_ids)
        common = {"model": request.adapter or self._served.model, "add_special_tokens": False}
        if request.cache_salt is not None:
            common["cache_salt"] = request.cache_salt
        if request.task == "scalar":
            return "/classify", common | {"input": ids, "use_activation": False}
        common |= NEUTRAL | {"prompt": ids}
        if request.task == "label":
            # ``logprobs`` must be set for label ids to be allowed; the server then asks its engine for the labels only.
            read = {"logprobs": 1, "logprob_token_ids": list(request.label_ids), "return_tokens_as_token_ids": True}
            return "/v1/completions", common | {"max_tokens": 1, "temperature": 0.0} | read
        if request.task == "likelihood":
            return "/v1/completions", common | {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        if (rule := request.repetition) is not None:
            sizes = {"min_pattern_size": rule.shortest, "max_pattern_size": rule.longest}
            common["repetition_detection"] = sizes | {"min_count": rule.times}
        seed = {"seed": request.seed} if request.is_seeded else {}
        return "/v1/completions", common | seed | {
            "max_tokens": room_for(request, self.info),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop),
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        }


def _parse_models(response: httpx.Response, options: RemoteOptions) -> _Served:
    """What ``/v1/models`` lists: base models, and LoRA adapters with their base model as parent."""
    if not response.is_success:
        raise StartupError(f"{response.url} answers {response.status_code}; correct the url or the API key.")
    try:
        cards = [(card["id"], card.get("parent"), card["max_model_len"]) for card in response.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{response.url} is not answered by a vLLM server; correct the url.") from error
    bases = [(name, limit) for name, parent, limit in cards if not parent and options.served_model in (None, name)]
    if len(bases) != 1:
        raise StartupError(f"{response.url} lists {len(bases)} fitting models; name one of them as served_model.")
    name, limit = bases[0]
    return _Served(name, limit, frozenset(name for name, parent, _ in cards if parent))
