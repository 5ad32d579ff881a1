"""The synchronous client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from gram_client import calls, reading
from gram_client import request as requests
from gram_client.items import (
    Goal,
    Group,
    GroupMethod,
    Member,
    Method,
    Normalize,
    Pair,
    Prompt,
    Reference,
    Referenced,
    Single,
)
from gram_client.link import Link
from gram_client.models import Models, Queue
from gram_client.results import Ranking, Rationale, Verdict
from gram_client.retries import Retries
from gram_client.scores import Scores
from gram_client.streams import Event
from gram_client.transport import DEFAULT_URL, Settings


class Client:
    """Asks a reward scoring service.

    Safe to use from several threads, to pickle, and to go on with after a fork: connections are made when they are
    first needed, and each process makes its own. `judge` names the judge of every call that names none (None: the
    service's default). `timeout_s` is the whole time of one call, its retries and chunks included. Big lists are sent
    as requests of at most `max_chunk` judged pairs, `concurrency` at a time.

    Every method raises a `ScoringError`; none ever makes up a score.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        judge: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008  # frozen
        max_chunk: int = 256,
        concurrency: int = 8,
    ) -> None:
        self._setup(Settings(base_url, api_key, judge, timeout_s, retries, max_chunk, concurrency))

    def _setup(self, settings: Settings) -> None:
        self._settings = settings
        self._link = Link(settings)

    def __getstate__(self) -> Settings:
        return self._settings

    def __setstate__(self, settings: Settings) -> None:
        self._setup(settings)

    def __repr__(self) -> str:
        return f"Client({self._settings.base_url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connections; the client is not used again."""
        self._link.close()

    def _judge(self, judge: str | None) -> str | None:
        return judge if judge is not None else self._settings.judge

    # --- judging ----------------------------------------------------------------------------------------------------

    def compare(
        self,
        prompt: Prompt,
        response_a: str,
        response_b: str,
        *,
        votes: int = 1,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """Which of two responses is better? Raises `FailedJudgment` where the judge gave no usable answer."""
        request = requests.compare(prompt, response_a, response_b, votes=votes, judge=self._judge(judge))
        return self._link.run(calls.one(request, reading.verdict), timeout_s)

    def compare_many(
        self,
        pairs: Sequence[Pair | Sequence[Any]],
        *,
        votes: int = 1,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict]:
        """A verdict for each `Pair`, or tuple of its fields, in order. A pair that fails is marked, never raised."""
        max_chunk = self._settings.max_chunk
        return self._link.run(
            calls.compare_many(pairs, votes=votes, judge=self._judge(judge), max_chunk=max_chunk), timeout_s
        )

    def rank(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        *,
        method: Method = "auto",
        goal: Goal = "order",
        top_k: int | None = None,
        confidence: float = 0.95,
        max_comparisons: int | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Order up to 64 responses, best first. `max_comparisons` counts pairs; docs/ranking.md compares methods."""
        request = requests.rank(
            prompt,
            responses,
            method=method,
            goal=goal,
            top_k=top_k,
            confidence=confidence,
            max_comparisons=max_comparisons,
            judge=self._judge(judge),
        )
        count = len(responses)
        return self._link.run(calls.one(request, lambda reply: Ranking.from_json(reply.json(), count)), timeout_s)

    def rationale(
        self,
        prompt: Prompt,
        response_a: str,
        response_b: str,
        *,
        votes: int = 1,
        stop_when_decided: bool = False,
        max_rationale_tokens: int | None = None,
        on_budget: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Rationale:
        """The verdict with the judge's own words. Raises `FailedJudgment`, with what was written in its details."""
        request = requests.rationale(
            prompt,
            response_a,
            response_b,
            votes=votes,
            stop_when_decided=stop_when_decided,
            max_rationale_tokens=max_rationale_tokens,
            on_budget=on_budget,
            judge=self._judge(judge),
            stream=False,
        )
        return self._link.run(calls.one(request, reading.rationale), timeout_s)

    def stream_rationale(
        self,
        prompt: Prompt,
        response_a: str,
        response_b: str,
        *,
        votes: int = 1,
        stop_when_decided: bool = False,
        max_rationale_tokens: int | None = None,
        on_budget: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Event]:
        """Pieces of text as they are written, then the `Rationale`. Tried again only before the first piece."""
        request = requests.rationale(
            prompt,
            response_a,
            response_b,
            votes=votes,
            stop_when_decided=stop_when_decided,
            max_rationale_tokens=max_rationale_tokens,
            on_budget=on_budget,
            judge=self._judge(judge),
            stream=True,
        )
        return self._link.stream(request, self._settings.deadline(timeout_s))

    # --- scores for trainers ----------------------------------------------------------------------------------------

    def score_references(
        self,
        items: Sequence[Referenced],
        *,
        normalize: Normalize | None = None,
        idempotency_key: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """P(response better than its reference), for PPO and ReMax. With `normalize` the call is one commit."""
        call = calls.score_references(
            items,
            normalize=normalize,
            judge=self._judge(judge),
            key=idempotency_key,
            max_chunk=self._settings.max_chunk,
        )
        return self._link.run(call, timeout_s)

    def score_groups(
        self,
        groups: Sequence[Group],
        *,
        normalize: Normalize | None = None,
        method: GroupMethod | None = None,
        idempotency_key: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Mean win probability over the others of the group, for GRPO and RLOO. A failed pair fails its group."""
        call = calls.score_groups(
            groups,
            method=method,
            normalize=normalize,
            judge=self._judge(judge),
            key=idempotency_key,
            max_chunk=self._settings.max_chunk,
        )
        return self._link.run(call, timeout_s)

    def score_cohort(
        self,
        members: Member | Sequence[Member],
        *,
        normalize: Normalize | None = None,
        idempotency_key: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """As groups, for callers that have one response at a time: waits until the others have come.

        A single member's conflict or incomplete group is raised, one of several marks its row.
        """
        some = [members] if isinstance(members, Member) else members
        call = calls.score_cohort(some, normalize=normalize, judge=self._judge(judge), key=idempotency_key)
        return self._link.run(call, timeout_s)

    def score_single(
        self,
        items: Sequence[Single],
        *,
        normalize: Normalize | None = None,
        idempotency_key: str | None = None,
        judge: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Responses by themselves: for scalar judges, and for prompts with a stored reference."""
        call = calls.score_single(
            items,
            normalize=normalize,
            judge=self._judge(judge),
            key=idempotency_key,
            max_chunk=self._settings.max_chunk,
        )
        return self._link.run(call, timeout_s)

    # --- around them ------------------------------------------------------------------------------------------------

    def models(self, *, timeout_s: float | None = None) -> Models:
        """The service's judges and what each can do."""
        return self._link.run(calls.one(requests.models(), reading.models), timeout_s)

    def queues(self, *, timeout_s: float | None = None) -> list[Queue]:
        """Every reward window."""
        return self._link.run(calls.one(requests.queues(), reading.queues), timeout_s)

    def queue(self, name: str, *, timeout_s: float | None = None) -> list[Queue]:
        """The windows of this name, each with the health of its scores. Raises `NotFound`."""
        return self._link.run(calls.one(requests.queue(name), reading.queues), timeout_s)

    def delete_queue(self, name: str, *, timeout_s: float | None = None) -> int:
        """Forget every window of this name; how many there were. Raises `NotFound`."""
        return self._link.run(calls.one(requests.delete_queue(name), reading.deleted), timeout_s)

    def export_queue(
        self,
        name: str,
        *,
        judge: str | None = None,
        score_kind: str | None = None,
        weight_version: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """One window with its scores, to be kept as it is. Raises `NotFound`; `Conflict` where several fit."""
        request = requests.export_queue(name, judge=judge, score_kind=score_kind, weight_version=weight_version)
        return self._link.run(calls.one(request, reading.body), timeout_s)

    def import_queue(self, name: str, data: bytes, *, timeout_s: float | None = None) -> Queue:
        """Bring an exported window back. Raises `Conflict` where it exists."""
        return self._link.run(calls.one(requests.import_queue(name, data), reading.queue), timeout_s)

    def put_references(self, items: Sequence[Reference | tuple[Prompt, str]], *, timeout_s: float | None = None) -> int:
        """Store what responses to these prompts are compared with; how many prompts have a reference then.

        All are stored or none, in the place of earlier ones; all callers share them.
        """
        return self._link.run(calls.one(requests.put_references(items), reading.stored), timeout_s)

    def metrics(self, *, timeout_s: float | None = None) -> str:
        """The service's metrics in Prometheus text format."""
        return self._link.run(calls.one(requests.metrics(), reading.text), timeout_s)

    def ready(self, *, timeout_s: float = 5.0) -> bool:
        """Does the service welcome requests now? Asked once; only a wrong address is an error."""
        return self._link.is_answered(requests.probe("/readyz"), timeout_s)

    def alive(self, *, timeout_s: float = 5.0) -> bool:
        """False when only a restart helps, or nothing listens."""
        return self._link.is_answered(requests.probe("/livez"), timeout_s)
