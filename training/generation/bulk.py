"""Many requests to one engine, their answers in a file that survives interruptions.

jobs = [Job(pair.id, EngineRequest(ids, "generate", max_tokens=512, temperature=0.75, seed=seed_of(pair.id, 0)))]
async with offline_engine(checkpoint, "vllm") as engine:
    throughput = await answer_all(engine, tokenizer, jobs, Path("proofs.jsonl"), title="proofs")
answers = dict(read_answers(Path("proofs.jsonl")))
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from service.engines.base import Engine, EngineRequest
from service.errors import EngineDead, ServiceError
from service.tokenization import ChatTokenizer
from service.types import Completion, Usage
from training.data.pairs import DataError
from training.generation.ledger import Ledger, Row, digest_of, failure_of, read_rows, unique
from training.generation.outcomes import Answer, Failure, GenerationError, Throughput

IN_FLIGHT = 64
"""Requests inside the engine at a time: enough to fill its batches, few enough to be lost without regret."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One request; ``key`` names it in the file. What is sampled must carry a seed (`seed_of`), to be repeatable."""

    key: str
    request: EngineRequest


async def answer_all(
    engine: Engine, tokenizer: ChatTokenizer, jobs: Sequence[Job], output: Path, *, title: str, at_once: int = IN_FLIGHT
) -> Throughput:
    """Answer every job that ``output`` does not answer yet; `read_answers` gives all of them, in the jobs' order.

    A job that fails is in the file with its reason; where that may pass, the next start asks again. Raises `DataError`
    for a file of other weights or other jobs, two jobs of one key and unseeded sampling; `GenerationError` when the
    engine can answer no more (what it answered is kept) or answered nothing at all.
    """
    unique(job.key for job in jobs)
    for job in jobs:
        _check(job)
    asked = {job.key: _digest(job.request) for job in jobs}
    requests = {job.key: job.request for job in jobs}
    run = Run(title)

    async def answer(key: str) -> Row | Failure:
        completion = await engine.complete(requests[key])
        run.count(completion.usage)
        return _row(requests[key], completion, tokenizer)

    with Ledger(output, made_by(engine), asked) as ledger:
        return await run.all(ledger, list(asked), answer, at_once)


def read_answers(path: Path) -> Iterator[tuple[str, Answer | Failure]]:
    """Key and answer of every job of a finished file, in the order of the jobs. Raises `DataError`."""
    for row in read_rows(path):
        yield row["key"], _answer(row)


def made_by(engine: Engine, **more: Any) -> dict[str, Any]:
    """What a file's answers depend on, for its first line."""
    info = engine.info
    limits = {"dtype": info.dtype, "max_model_len": info.max_model_len}
    return {"engine": info.engine, "weights": info.weight_version, **limits, **more}


class Run:
    """Rows answered a number at a time, with a bar, counts, and one rule for what ends the run."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tokens = 0
        self._prompt_tokens = 0
        self._failed = 0
        self._first: Failure | None = None

    def count(self, usage: Usage) -> None:
        self._tokens += usage.completion_tokens
        self._prompt_tokens += usage.prompt_tokens

    async def all(
        self, ledger: Ledger, keys: Sequence[str], answer: Callable[[str], Awaitable[Row | Failure]], at_once: int
    ) -> Throughput:
        """Ask for every key that ``ledger`` does not hold, then put the file in order."""
        done = ledger.done
        waiting = iter([key for key in keys if key not in done])
        started = time.perf_counter()
        with tqdm(total=len(keys), initial=len(done), desc=self._title, unit="row", disable=None) as bar:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(at_once):
                        workers.create_task(self._work(ledger, waiting, answer, bar))
            except ExceptionGroup as errors:
                raise _first_leaf(errors) from errors
        seconds = time.perf_counter() - started
        rows = len(keys) - len(done)
        if rows and self._failed == rows and self._first is not None:
            raise GenerationError(
                f"{self._title}: none of {rows} rows was answered ({self._first.message}); see {ledger.path}."
            )
        ledger.finish()
        found = Throughput(rows, self._failed, len(done), self._tokens, self._prompt_tokens, seconds)
        print(f"{self._title}: {found}")
        return found

    async def _work(
        self, ledger: Ledger, keys: Iterator[str], answer: Callable[[str], Awaitable[Row | Failure]], bar: Any
    ) -> None:
        for key in keys:
            try:
                found = await answer(key)
            except EngineDead as error:
                raise GenerationError(
                    f"{self._title}: the engine cannot go on ({error.message}); what was answered is kept, start again."
                ) from error
            except ServiceError as error:
                found = Failure.of(error)
            if isinstance(found, Failure):
                self._failed += 1
                self._first = self._first or found
                ledger.fail(key, found)
            else:
                ledger.add(key, found)
            bar.update()


def _first_leaf(errors: BaseExceptionGroup[Exception]) -> BaseException:
    """The error that ended a group of workers; the others were cancelled."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _digest(request: EngineRequest) -> str:
    """Names all that decides an answer; not where it is computed. What is as usual has no name, so that a new kind of
    option leaves old files valid."""
    wanted = [(field.name, getattr(request, field.name)) for field in fields(request) if field.compare]
    usual = EngineRequest((), request.task)
    return digest_of(request.task, *((name, value) for name, value in wanted if value != getattr(usual, name)))


def _check(job: Job) -> None:
    request = job.request
    if request.task not in ("generate", "likelihood"):
        raise DataError(f"Job {job.key}: a {request.task} request writes nothing; judge with judge_all.")
    if request.task == "generate" and request.temperature > 0 and request.seed is None:
        raise DataError(f"Job {job.key} samples without a seed; give it one (seed_of), or no start can repeat it.")


def _row(request: EngineRequest, completion: Completion, tokenizer: ChatTokenizer) -> Row | Failure:
    if request.task == "likelihood":
        total = completion.log_likelihood
        if total is None or not math.isfinite(total):
            return Failure("non_finite_score", "The model returned a non-finite likelihood; check the weights.")
        row = {"text": "", "tokens": completion.scored_tokens, "finish_reason": completion.finish_reason}
        return {**row, "log_likelihood": total}
    # Decoded as judgments are, whatever the engine; a text that ends at a stop string is the engine's own cut.
    text = completion.text if request.stop else tokenizer.decode(completion.token_ids)
    return {"text": text, "tokens": len(completion.token_ids), "finish_reason": completion.finish_reason}


def _answer(row: Mapping[str, Any]) -> Answer | Failure:
    if "error" in row:
        return failure_of(row)
    return Answer(row["key"], row["text"], row["tokens"], row["finish_reason"], row.get("log_likelihood"))
