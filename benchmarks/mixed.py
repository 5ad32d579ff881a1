"""Requests of every kind, and what each of them is answered when it is the only one."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.progress import Progress

from benchmarks.questions import draw_pairs
from benchmarks.wire import Connection, Cut, Reply, connected, open_connection, post
from training.data.demo_tasks import DemoPair

_CACHED = re.compile(rb'"cached_tokens":\d+')
LONGEST_MS = "600000"
FILLING = " Add the parts one after the other, write down what is carried, and check the sum by taking a part away."
KINDS = ("pair", "pairs", "rank", "references", "group", "rationale")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it stands on the wire."""

    kind: str
    request: bytes


@dataclass(slots=True)
class Tally:
    """What came back. ``wrong``: a 200 that is not the answer expected; ``mispaired``: those of them that are another
    request's answer; ``lost``: no reply at all."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    mispaired: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def others(self) -> int:
        """Replies that were neither 200 nor a server's error."""
        return self.answered - self.statuses[200] - self.server_errors


def draw(count: int, seed: int, weights: Sequence[int], chars: int = 0) -> list[Asked]:
    """So many different requests, of the `KINDS` in proportion to `weights`; responses have at least `chars`
    characters."""
    pairs = [_lengthened(pair, chars) for pair in draw_pairs(4 * count, seed)]
    chooser = random.Random(seed)
    kinds = chooser.choices(KINDS, weights, k=count)
    return [_asked(kind, pairs[4 * number : 4 * number + 4]) for number, kind in enumerate(kinds)]


def _lengthened(pair: DemoPair, chars: int) -> DemoPair:
    def long(text: str) -> str:
        return text + (FILLING * (chars // len(FILLING) + 1))[: max(0, chars - len(text))]

    return replace(pair, right=long(pair.right), wrong=long(pair.wrong))


def _asked(kind: str, pairs: Sequence[DemoPair]) -> Asked:
    first = pairs[0]
    question = {"prompt": first.prompt, "response_a": first.right, "response_b": first.wrong}
    responses = [text for pair in pairs for text in (pair.right, pair.wrong)][:5]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "pair": ("/compare", question),
        "pairs": (
            "/compare",
            {"items": [{"prompt": p.prompt, "response_a": p.wrong, "response_b": p.right} for p in pairs]},
        ),
        "rank": ("/rank", {"prompt": first.prompt, "responses": responses}),
        "references": (
            "/score",
            {"items": [{"prompt": p.prompt, "response": p.right, "reference": p.wrong} for p in pairs[:3]]},
        ),
        "group": ("/score", {"groups": [{"prompt": first.prompt, "responses": responses[:4]}]}),
        "rationale": ("/rationale", question),
    }
    path, body = bodies[kind]
    return Asked(kind, post(path, body, x_deadline_ms=LONGEST_MS))


def lasting(reply: Reply) -> bytes:
    """A reply without what depends on the requests before it: which tokens were cached."""
    return _CACHED.sub(b"", reply.body)


async def alone(url: str, requests: Sequence[Asked], progress: Progress) -> list[bytes]:
    """What each is answered, one after the other. Raises `RuntimeError` for anything but a 200."""
    task, found = progress.add_task("each one alone", total=len(requests)), []
    async with connected(url) as connection:
        for asked in requests:
            reply = await connection.ask(asked.request)
            if reply.status != 200:
                raise RuntimeError(f"A {asked.kind} request alone was answered {reply.status}: {reply.body[:300]!r}")
            found.append(lasting(reply))
            progress.advance(task)
    return found


async def together(
    url: str, requests: Sequence[Asked], expected: Sequence[bytes], count: int, clients: int, progress: Progress
) -> Tally:
    """`count` requests, each of `requests` in turn, by so many clients at once; every reply is compared."""
    tally, numbers = Tally(), iter(range(count))
    owners = set(expected)
    task = progress.add_task(f"{clients} clients", total=count)

    async def client() -> None:
        connection: Connection | None = None
        for number in numbers:
            place = number % len(requests)
            try:
                if connection is None or not connection.is_open:
                    connection = await open_connection(url)
                reply = await connection.ask(requests[place].request)
            except (Cut, OSError):
                tally.lost += 1
                connection = None
                continue
            tally.statuses[reply.status] += 1
            tally.seconds.append(reply.seconds)
            if reply.status == 200 and (answer := lasting(reply)) != expected[place]:
                tally.wrong += 1
                tally.mispaired += answer in owners
            progress.advance(task)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally
