"""The same pair gets the same answer alone, in a batch and after a cache hit, and turned round its exact complement."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import httpx
from rich.progress import Progress

from benchmarks.figures import Bar, Report, largest_gap
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import DEADLINE, engine_environment, running_service

SUMMARY = "/compare asked again in other company: largest differences over all pairs and numbers of a verdict."
NUMBERS = ("p_first", "margin", "p_ab", "p_ba", "label_mass")
BOUNDS = {"float32": 0.0, "bfloat16": 1e-6}
Item = dict[str, Any]
Verdicts = list[dict[str, Any]]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=int, default=200, help="pairs asked alone first, and as many batched first (default 200)"
    )
    parser.add_argument("--dtypes", default=",".join(BOUNDS), help="number formats, each with a service of its own")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: Namespace) -> Report:
    rows: list[list[str]] = []
    bars: list[Bar] = []
    raw: dict[str, Any] = {"pairs": 2 * arguments.pairs, "seed": arguments.seed}
    dtypes = arguments.dtypes.split(",")
    with Progress(transient=True) as progress:
        step = progress.add_task("verdicts", total=len(dtypes) * arguments.pairs * 10)
        for dtype in dtypes:
            with (
                running_service(engine_environment(arguments, dtype=dtype)) as server,
                httpx.Client(base_url=server.url, timeout=600, headers=DEADLINE, trust_env=False) as client,
            ):
                asker = Asker(client, lambda done: progress.advance(step, done))
                gaps = _gaps(asker, arguments.pairs, arguments.seed)
            raw[dtype] = gaps
            rows += [[dtype, name, f"{gap:.3g}"] for name, gap in gaps.items()]
            bars += _bars(dtype, gaps)
    return Report("repeatability", SUMMARY, ["number format", "compared", "largest difference"], rows, bars, raw)


class Asker:
    """Asks for the same pairs in the ways that could matter."""

    def __init__(self, client: httpx.Client, advance: Callable[[int], None]) -> None:
        self._client, self._advance = client, advance

    def alone(self, items: Sequence[Item]) -> Verdicts:
        return [self._post(item, 1) for item in items]

    def batched(self, items: Sequence[Item], order: Sequence[int]) -> Verdicts:
        """All pairs in one request, in the given order; the verdicts come back in the order of ``items``."""
        results = self._post({"items": [items[i] for i in order]}, len(items))["results"]
        verdicts: Verdicts = [{}] * len(items)
        for place, verdict in zip(order, results, strict=True):
            verdicts[place] = verdict
        return verdicts

    def _post(self, body: Item, done: int) -> dict[str, Any]:
        reply: dict[str, Any] = self._client.post("/compare", json=body).raise_for_status().json()
        self._advance(done)
        return reply


def _gaps(asker: Asker, n: int, seed: int) -> dict[str, float]:
    """One half of the pairs meets the engine alone first, the other half in a batch; both again when cached."""
    random, items = Random(seed), as_items(draw_pairs(2 * n, seed))
    orders = [random.sample(range(n), n) for _ in range(3)]
    lone, packed = items[:n], items[n:]
    alone, alone_again, alone_batched = asker.alone(lone), asker.alone(lone), asker.batched(lone, orders[0])
    batched, batched_alone = asker.batched(packed, orders[1]), asker.alone(packed)
    batched_again = asker.batched(packed, orders[2])
    turned = asker.batched([_turned(item) for item in items], range(2 * n))
    same = asker.batched([{**item, "response_b": item["response_a"]} for item in lone], range(n))
    return {
        "alone, then alone from the cache": _gap(alone, alone_again),
        "alone, then batched": _gap(alone, alone_batched),
        "batched, then alone": _gap(batched, batched_alone),
        "batched, then in another batch": _gap(batched, batched_again),
        "compare(a, b) and 1 - compare(b, a)": complement_gap([*alone_batched, *batched_again], turned),
        "identical responses and 0.5": max(abs(v["p_first"] - 0.5) for v in same),
    }


def _bars(dtype: str, gaps: dict[str, float]) -> list[Bar]:
    exact = list(gaps)[-2:]
    repeated = max(gap for name, gap in gaps.items() if name not in exact)
    return [
        Bar(f"{dtype}: the same answer again", repeated, "<=", BOUNDS.get(dtype, 1e-6)),
        *(Bar(f"{dtype}: {name}", gaps[name], "<=", 0.0) for name in exact),
    ]


def _gap(left: Verdicts, right: Verdicts) -> float:
    return max(largest_gap([v[name] for v in left], [v[name] for v in right]) for name in NUMBERS)


def complement_gap(verdicts: Verdicts, turned: Verdicts) -> float:
    """How far p(a, b) is from 1 - p(b, a), and each margin from the other's negative: 0 when exact."""
    p = largest_gap([v["p_first"] for v in verdicts], [1.0 - v["p_first"] for v in turned])
    margin = largest_gap([v["margin"] for v in verdicts], [-v["margin"] for v in turned])
    return max(p, margin)


def _turned(item: Item) -> Item:
    return {**item, "response_a": item["response_b"], "response_b": item["response_a"]}
