"""What each method of the clients sends and how the answers are read: written once, for sync and async alike."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from gram_client import items as wire
from gram_client import request as requests
from gram_client.chunks import Answered, Ask, Item, Part, ask_batch, split
from gram_client.errors import InvalidRequest
from gram_client.exchange import Reply, Steps
from gram_client.fields import Fields
from gram_client.items import Group, GroupMethod, Member, Normalize, Pair, Referenced, Single
from gram_client.request import Request
from gram_client.results import Verdict
from gram_client.scores import Row, Scores, joined

T = TypeVar("T")

MAX_ITEMS = 4096
MAX_GROUPS = 1024
"""What the service takes in one request."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """Parts that may run side by side, and how their results become the call's."""

    parts: Sequence[Part]
    read: Callable[[list[Any]], T]


def one(request: Request, read: Callable[[Reply], T]) -> Call[T]:
    """A call of a single request."""

    def part(ask: Ask) -> Steps[T]:
        return read((yield from ask(request)))

    return Call((part,), lambda found: found[0])


# --- pairs ---------------------------------------------------------------------------------------------------------


def compare_many(
    pairs: Sequence[Pair | Sequence[Any]], *, votes: int, judge: str | None, max_chunk: int
) -> Call[list[Verdict]]:
    items = [wire.wire_pair(pair) for pair in pairs]

    def request(some: Sequence[Item]) -> Request:
        return requests.compare_batch(some, votes=votes, judge=judge)

    def part(chunk: Sequence[Item]) -> Part:
        def steps(ask: Ask) -> Steps[list[Verdict]]:
            return _verdicts((yield from ask_batch(ask, chunk, request)), chunk)

        return steps

    chunks = split(items, [votes] * len(items), max_chunk)
    parts = [part(items[chunk.start : chunk.stop]) for chunk in chunks]
    return Call(parts, lambda found: [verdict for some in found for verdict in some])


def _verdicts(answer: Answered, items: Sequence[Item]) -> list[Verdict]:
    verdicts = {i: Verdict.failed(error, items[i].get("id")) for i, error in answer.refused.items()}
    if answer.kept:
        reply = Fields(answer.data, "verdicts")
        rows = reply.many("results")
        reply.expect(len(rows) == len(answer.kept), "are not one for each pair")
        verdicts |= zip(answer.kept, map(Verdict.of, rows), strict=True)
    return [verdicts[i] for i in range(len(items))]


# --- scores --------------------------------------------------------------------------------------------------------


def score_references(
    references: Sequence[Referenced], *, normalize: Normalize | None, judge: str | None, key: str | None, max_chunk: int
) -> Call[Scores]:
    return _score_items([wire.wire_referenced(item) for item in references], normalize, judge, key, max_chunk)


def score_single(
    singles: Sequence[Single], *, normalize: Normalize | None, judge: str | None, key: str | None, max_chunk: int
) -> Call[Scores]:
    return _score_items([wire.wire_single(item) for item in singles], normalize, judge, key, max_chunk)


def score_cohort(
    members: Sequence[Member], *, normalize: Normalize | None, judge: str | None, key: str | None
) -> Call[Scores]:
    """One request whatever its size: members wait for each other, and a chunk that waits for a later one never ends."""
    items = [wire.wire_member(member) for member in members]
    if len(items) > MAX_ITEMS:
        raise InvalidRequest(f"Members of cohorts go in one request of at most {MAX_ITEMS}; send fewer at once.")
    return _score_items(items, normalize, judge, key, MAX_ITEMS)


def _score_items(
    items: Sequence[Item], normalize: Normalize | None, judge: str | None, key: str | None, max_chunk: int
) -> Call[Scores]:
    whole = normalize is not None or any("cohort" in item for item in items)
    chunks = _chunks(items, [1] * len(items), max_chunk, MAX_ITEMS, whole)
    keys = _keys(key, len(chunks))

    def part(chunk: Sequence[Item], its_key: str) -> Part:
        def request(some: Sequence[Item]) -> Request:
            return requests.score_items(some, normalize=normalize, judge=judge, key=its_key)

        def steps(ask: Ask) -> Steps[Scores]:
            return _item_scores((yield from ask_batch(ask, chunk, request)), chunk)

        return steps

    return Call([part(items[c.start : c.stop], k) for c, k in zip(chunks, keys, strict=True)], joined)


def _item_scores(answer: Answered, items: Sequence[Item]) -> Scores:
    """A row for each item. Raises `MalformedReply`."""
    rows = {i: Row.failed(error, items[i].get("id")) for i, error in answer.refused.items()}
    if not answer.kept:
        return Scores(tuple(rows[i] for i in range(len(items))))
    scores = Scores.from_json(answer.data)
    Fields(answer.data, "scores").expect(len(scores.rows) == len(answer.kept), "are not one for each item")
    rows |= zip(answer.kept, scores.rows, strict=True)
    return replace(scores, rows=tuple(rows[i] for i in range(len(items))))


def score_groups(
    groups: Sequence[Group],
    *,
    method: GroupMethod | None,
    normalize: Normalize | None,
    judge: str | None,
    key: str | None,
    max_chunk: int,
) -> Call[Scores]:
    items = [wire.wire_group(group) for group in groups]
    weights = [_pairs(len(item["responses"]), method) for item in items]
    chunks = _chunks(items, weights, max_chunk, MAX_GROUPS, normalize is not None)
    keys = _keys(key, len(chunks))

    def part(chunk: range, its_key: str) -> Part:
        def request(some: Sequence[Item]) -> Request:
            return requests.score_groups(some, method=method, normalize=normalize, judge=judge, key=its_key)

        def steps(ask: Ask) -> Steps[Scores]:
            some = items[chunk.start : chunk.stop]
            return _group_scores((yield from ask_batch(ask, some, request)), some, chunk.start)

        return steps

    return Call([part(c, k) for c, k in zip(chunks, keys, strict=True)], joined)


def _group_scores(answer: Answered, groups: Sequence[Item], first: int) -> Scores:
    """A row for each response; `first` is the first group's number in the call. Raises `MalformedReply`."""
    rows: dict[tuple[int, int], Row] = {}
    for group, error in answer.refused.items():
        for index in range(len(groups[group]["responses"])):
            rows[group, index] = Row.failed(error, groups[group].get("id"), first + group, index)
    if not answer.kept:
        return Scores(tuple(rows[place] for place in sorted(rows)))
    scores = Scores.from_json(answer.data)
    places = [(kept, i) for kept in answer.kept for i in range(len(groups[kept]["responses"]))]
    sent = [(place, i) for place, kept in enumerate(answer.kept) for i in range(len(groups[kept]["responses"]))]
    same = [(row.group, row.index) for row in scores.rows] == sent
    Fields(answer.data, "scores").expect(same, "are not one for each response")
    for (group, index), row in zip(places, scores.rows, strict=True):
        rows[group, index] = replace(row, group=first + group)
    return replace(scores, rows=tuple(rows[place] for place in sorted(rows)))


def _pairs(size: int, method: GroupMethod | None) -> int:
    """Judged pairs of a group, as a weight: exact for all pairs, about right for the others."""
    return max(1, size - 1 if method == "pivot" else size * (size - 1) // 2)


def _chunks(items: Sequence[Item], weights: Sequence[int], max_chunk: int, most: int, whole: bool) -> list[range]:
    """As `split`; one range where the call is one commit or one wait (`whole`). Raises `InvalidRequest`."""
    if not whole:
        return split(items, weights, max_chunk)
    if len(items) > most:
        raise InvalidRequest(
            f"With normalize a call is one commit, and {len(items)} are more than the {most} that the service takes at "
            "once. Call it with fewer: each call is then a commit with statistics of its own."
        )
    return [range(len(items))] if items else []


def _keys(key: str | None, count: int) -> list[str]:
    """An Idempotency-Key for each chunk: derived from the caller's, so that his repeated call repeats them."""
    if key is None:
        return [uuid.uuid4().hex for _ in range(count)]
    return [key] if count == 1 else [f"{key}/{i}" for i in range(count)]
