"""Voting with written judgments: what stopping as soon as the answer stands saves, and that it changes no answer."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import httpx
from rich.progress import Progress

from benchmarks.figures import Bar, Report
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import DEADLINE, service_url
from service.aggregation import VoteReading, combine_votes, vote_slots, votes_worth_asking
from service.errors import InvalidVerdict
from service.types import OrderReading, Rationale

SUMMARY = "/rationale with k sampled votes in each order on held-out pairs, all of them and with stop_when_decided."
CLIENTS = 4
HEADERS = ("k", "pairs", "tokens, all votes", "tokens, stopping", "saved", "95 % interval", "votes skipped", "seconds")


@dataclass(frozen=True, slots=True)
class Vote:
    """A judgment as the reply shows it: ``p_a`` is P(a better) read at its verdict, None for an invalid one."""

    order: str
    number: int
    verdict: str
    p_a: float | None
    tokens: int


@dataclass(slots=True)
class Round:
    """One way of voting over all pairs: every pair's votes, and the seconds that its request took."""

    votes: list[list[Vote]] = field(default_factory=list)
    preferred: list[str | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def tokens(self) -> list[int]:
        return [sum(vote.tokens for vote in votes) for votes in self.votes]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=120, help="held-out pairs (default 120)")
    parser.add_argument("--votes", type=int, default=16, help="votes in each display order (default 16)")
    parser.add_argument("--seed", type=int, default=2026, help="of the pairs; the votes themselves are never seeded")


def run(arguments: Namespace) -> Report:
    items = [_in_text_order(item) for item in as_items(draw_pairs(arguments.pairs, arguments.seed))]
    with service_url(arguments) as url, Progress(transient=True) as progress:
        step = progress.add_task("pairs voted on", total=2 * len(items))
        every, stopping = asyncio.run(_vote(url, items, arguments.votes, lambda: progress.advance(step)))
    return report(every, stopping, arguments)


def _in_text_order(item: dict[str, Any]) -> dict[str, Any]:
    """The order in which the service judges a pair, whoever is named first: so its votes are ours."""
    first, second = sorted((item["response_a"], item["response_b"]))
    return item | {"response_a": first, "response_b": second}


async def _vote(url: str, items: Sequence[dict[str, Any]], k: int, done: Any) -> tuple[Round, Round]:
    """Each pair both ways, one right after the other, so that a machine that slows down slows both."""
    found: dict[int, tuple[dict[str, Any], float, dict[str, Any], float]] = {}
    waiting = iter(range(len(items)))

    async def work(client: httpx.AsyncClient) -> None:
        for i in waiting:
            replies: list[Any] = []
            for stop in (False, True) if i % 2 else (True, False):
                started = perf_counter()
                body = items[i] | {"votes": k, "stop_when_decided": stop}
                reply = await client.post("/rationale", json=body)
                replies.append((stop, reply, perf_counter() - started))
                done()
            (_, every, every_s), (_, stopped, stopped_s) = sorted(replies, key=lambda one: bool(one[0]))
            found[i] = (_content(every), every_s, _content(stopped), stopped_s)

    async with httpx.AsyncClient(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
    rounds = Round(), Round()
    for i in range(len(items)):
        for one, content, seconds in zip(rounds, found[i][::2], found[i][1::2], strict=True):
            one.votes.append(votes_of(content))
            one.preferred.append(content.get("preferred"))
            one.seconds.append(seconds)
    return rounds


def _content(reply: httpx.Response) -> dict[str, Any]:
    """The verdict, or what was written for none."""
    content: dict[str, Any] = reply.json()
    if reply.status_code == 502 and content["error"]["code"] == "invalid_verdict":
        details: dict[str, Any] = content["error"]["details"]
        return details
    reply.raise_for_status()
    return content


def votes_of(content: Mapping[str, Any]) -> list[Vote]:
    """In the order in which votes are asked for."""
    votes = [
        Vote(r["order"], r["vote"], r["verdict"], r.get("probability"), r["tokens"]) for r in content["rationales"]
    ]
    return sorted(votes, key=lambda vote: (vote.number, vote.order))


@dataclass(frozen=True, slots=True)
class Replay:
    """Stopping, replayed on votes that were all cast: what it would have taken, and the answer before and after."""

    tokens: int
    votes: int
    stopped: str | None
    full: str | None
    majority_stopped: int
    majority_full: int

    @property
    def changed(self) -> bool:
        return self.stopped != self.full

    @property
    def majority_turned(self) -> bool:
        """The letters' majority names the other response. A draw names none."""
        return self.majority_stopped * self.majority_full < 0


def replay(votes: Sequence[Vote], k: int) -> Replay:
    """The rule that the service stops by, on the very votes that were cast: sampling noise has no part in it."""
    readings = [_reading(vote) for vote in votes]
    if [(vote.order, vote.number) for vote in votes] != list(vote_slots(k)):
        raise ValueError("The reply does not hold every vote.")
    asked = 0
    while number := votes_worth_asking(readings[:asked], k):
        asked += number
    tokens = sum(vote.tokens for vote in votes[:asked])
    stopped, full = _preferred(readings[:asked], k), _preferred(readings, k)
    return Replay(tokens, asked, stopped, full, _lead(votes[:asked]), _lead(votes))


def _reading(vote: Vote) -> VoteReading:
    rationale = Rationale(vote.order, vote.number, "", {}, vote.verdict, None, "stop")  # type: ignore[arg-type]
    if vote.p_a is None:
        return VoteReading(rationale, None)
    shown_first = vote.p_a if vote.order == "ab" else 1.0 - vote.p_a
    return VoteReading(rationale, OrderReading(shown_first, 0.0, None))


def _preferred(readings: Sequence[VoteReading], k: int) -> str | None:
    try:
        return combine_votes(readings, k).preferred
    except InvalidVerdict:
        return None


def _lead(votes: Sequence[Vote]) -> int:
    """Letters for a minus letters for b."""
    return sum((vote.verdict == "a") - (vote.verdict == "b") for vote in votes)


def report(every: Round, stopping: Round, arguments: Namespace) -> Report:
    """Live figures, and the replay that shows that answers are the same."""
    k, pairs = arguments.votes, len(every.votes)
    replays = [replay(votes, k) for votes in every.votes]
    full, live = every.tokens(), stopping.tokens()
    saved = 1.0 - sum(live) / sum(full)
    replayed = 1.0 - sum(one.tokens for one in replays) / sum(full)
    low, high = _saved_interval(full, live)
    skipped = 1.0 - sum(map(len, stopping.votes)) / (2 * k * pairs)
    changed = sum(one.changed for one in replays)
    turned = sum(one.majority_turned for one in replays)
    seconds = (median(every.seconds), median(stopping.seconds))
    row = [str(k), str(pairs), str(sum(full)), str(sum(live)), f"{saved:.3f}", f"{low:.3f} - {high:.3f}"]
    row += [f"{skipped:.3f}", f"{seconds[0]:.2f} / {seconds[1]:.2f}"]
    bars = [
        Bar("generated tokens saved by stopping", saved, ">=", 0.30),
        Bar("generated tokens saved, replayed on the same votes", replayed, ">=", 0.30),
        Bar("answers changed by stopping, same votes", changed, "<=", 0),
        Bar("majorities of letters turned by stopping, same votes", turned, "<=", 0),
    ]
    differ = sum(a != b for a, b in zip(every.preferred, stopping.preferred, strict=True))
    unanimous = sum(len({vote.verdict for vote in votes}) == 1 for votes in every.votes)
    notes = [
        f"Two samplings of one pair differ in their answer for {differ} of {pairs} pairs: votes are never seeded.",
        f"All {2 * k} votes agree for {unanimous} of {pairs} pairs. Seconds: a request's median, all votes / stopping, "
        f"{CLIENTS} at a time. Seed {arguments.seed}; the interval is a bootstrap over pairs.",
    ]
    raw = {
        "tokens_full": full,
        "tokens_stopping": live,
        "tokens_replayed": [one.tokens for one in replays],
        "votes_replayed": [one.votes for one in replays],
        "unanimous": unanimous,
        "answers_differing_between_samplings": differ,
        "failed": [every.preferred.count(None), stopping.preferred.count(None)],
        "seed": arguments.seed,
    }
    return Report("votes", SUMMARY, HEADERS, [row], bars, raw, notes)


def _saved_interval(full: Sequence[int], live: Sequence[int], draws: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap of the share saved, whole pairs drawn again."""
    random, tokens = Random(0), list(zip(full, live, strict=True))
    samples = ([random.choice(tokens) for _ in tokens] for _ in range(draws))
    shares = sorted(1.0 - sum(after for _, after in sample) / sum(before for before, _ in sample) for sample in samples)
    return shares[int(0.025 * draws)], shares[int(0.975 * draws)]
