"""The demo judge on fresh held-out pairs, over HTTP: /compare, /rationale (greedy, by vote, and whether what it states
is true), and baselines that see no question."""

from __future__ import annotations

import asyncio
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
from matplotlib.figure import Figure
from rich.progress import Progress

from benchmarks.figures import DOCS, Bar, Report
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import DEADLINE, service_url
from training.data.demo_tasks import TASKS, DemoPair, draw
from training.evaluation.demo import length_baseline, style_baseline
from training.evaluation.facts import Checked, Faithfulness, Letter, check
from training.evaluation.statistics import PairedTest, paired_test, wilson_interval

SUMMARY = "The demo judge on fresh held-out pairs, over HTTP."
PLOT = DOCS.with_name("heldout.png")
BATCH = 100
RATIONALE_CLIENTS = 64
BASELINE_TRAINING_PAIRS = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pair judged; ``p_right`` is P(the right response is better). ``checked``: what its judgments state, and the
    letters they end in."""

    task: str
    p_right: float
    consistent: bool
    label_mass: float | None
    parsed: int = 0
    written: int = 0
    checked: tuple[tuple[Checked, Letter | None], ...] = ()

    @property
    def correct(self) -> bool:
        """An exact tie is not correct."""
        return self.p_right > 0.5


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=int, default=2000, help="pairs for /compare (default 2000; 0 for a judge that only writes)"
    )
    parser.add_argument(
        "--rationales", type=int, default=2000, help="pairs for /rationale, the first so many (default 2000)"
    )
    parser.add_argument(
        "--voted", type=int, default=300, help="pairs judged by vote too, the first so many (default 300)"
    )
    parser.add_argument("--votes", type=int, default=8, help="votes in each display order for those (default 8)")
    parser.add_argument(
        "--seed", type=int, default=2026, help="of the pairs; training uses none of them under any seed"
    )
    parser.add_argument("--plot", type=Path, help=f"where to draw accuracy by task (with --write-docs: {PLOT.name})")


def run(arguments: Namespace) -> Report:
    pairs = draw_pairs(max(arguments.pairs, arguments.rationales), arguments.seed)
    voters = min(arguments.voted, arguments.rationales)
    with service_url(arguments) as url, Progress(transient=True) as progress:
        compared = asyncio.run(_compare(url, pairs[: arguments.pairs], progress))
        written = asyncio.run(_write(url, pairs[: arguments.rationales], progress))
        voted = asyncio.run(_write(url, pairs[:voters], progress, arguments.votes))
    baselines = _baselines(pairs, arguments.seed)
    plot = arguments.plot or (PLOT if arguments.write_docs else None)
    if plot:
        draw_plot(by_task(compared), by_task(written), plot)
    return _report(compared, written, voted, baselines, arguments)


async def _compare(url: str, pairs: Sequence[DemoPair], progress: Progress) -> list[Outcome]:
    items, step = as_items(pairs), progress.add_task("/compare", total=len(pairs))
    verdicts: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            reply = (await client.post("/compare", json={"items": batch})).raise_for_status().json()
            verdicts += reply["results"]
            progress.advance(step, len(batch))
    return [_outcome(i, pair, verdict) for i, (pair, verdict) in enumerate(zip(pairs, verdicts, strict=True))]


async def _write(url: str, pairs: Sequence[DemoPair], progress: Progress, votes: int = 1) -> list[Outcome]:
    """One request a pair, many at a time. A pair without any parsable judgment is wrong, not left out."""
    title = "/rationale" if votes == 1 else f"/rationale, {votes} votes"
    items, step = as_items(pairs), progress.add_task(title, total=len(pairs))
    clients = max(1, RATIONALE_CLIENTS // votes)
    outcomes: list[Outcome | None] = [None] * len(items)
    waiting = iter(range(len(items)))

    async def work(client: httpx.AsyncClient) -> None:
        for i in waiting:
            reply = await client.post("/rationale", json=items[i] | {"votes": votes})
            failed = reply.status_code == 502 and reply.json()["error"]["code"] == "invalid_verdict"
            shown = {"status": "failed"} | reply.json()["error"]["details"] if failed else {}
            body = shown or reply.raise_for_status().json()
            outcomes[i] = _outcome(i, pairs[i], body)
            progress.advance(step)

    async with httpx.AsyncClient(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return [outcome for outcome in outcomes if outcome is not None]


def _outcome(number: int, pair: DemoPair, verdict: dict[str, Any]) -> Outcome:
    """`as_items` put the right response first in every pair of even number."""
    rationales = verdict.get("rationales") or []
    parsed = sum(rationale["verdict"] != "invalid" for rationale in rationales)
    checked = tuple(_checked(number, pair, rationale) for rationale in rationales)
    if verdict["status"] != "ok":
        return Outcome(pair.task, math.nan, False, None, parsed, len(rationales), checked)
    p_right = verdict["p_first"] if number % 2 == 0 else 1.0 - verdict["p_first"]
    mass = verdict["label_mass"]
    return Outcome(pair.task, p_right, verdict["consistent"], mass, parsed, len(rationales), checked)


def _checked(number: int, pair: DemoPair, rationale: dict[str, Any]) -> tuple[Checked, Letter | None]:
    """What one judgment states, and its verdict as the letter that it wrote."""
    a_first = rationale["order"] == "ab"
    letters: dict[str, Letter] = {"a": "A", "b": "B"} if a_first else {"a": "B", "b": "A"}
    found = check(rationale["sections"], pair, right_first=(number % 2 == 0) == a_first)
    return found, letters.get(rationale["verdict"])


def by_task(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """(correct, pairs) of each task, in the order of the task family."""
    counts: dict[str, tuple[int, int]] = {}
    for task in TASKS:
        mine = [outcome.correct for outcome in outcomes if outcome.task == task]
        if mine:
            counts[task] = (sum(mine), len(mine))
    return counts


def _baselines(pairs: Sequence[DemoPair], seed: int) -> dict[str, float]:
    """Rules that see no question, fitted on training pairs."""
    random, names = Random(seed), sorted({pair.task for pair in pairs})
    train = [draw(names[i % len(names)], random, from_held_out=False) for i in range(BASELINE_TRAINING_PAIRS)]
    return {"length": length_baseline(train, pairs), "style": style_baseline(train, pairs)}


def _report(
    compared: Sequence[Outcome],
    written: Sequence[Outcome],
    voted: Sequence[Outcome],
    baselines: dict[str, float],
    arguments: Namespace,
) -> Report:
    tasks, written_tasks = by_task(compared), by_task(written)
    names = tasks or written_tasks
    rows = [[task, *_accuracy(tasks.get(task)), *_accuracy(written_tasks.get(task))] for task in names]
    rows.append(["all", *_accuracy(_total(tasks)), *_accuracy(_total(written_tasks))])
    bars = _compare_bars(compared) if compared else []
    bars += [Bar(f"{name}-only baseline accuracy", accuracy, "<=", 0.55) for name, accuracy in baselines.items()]
    failed = sum(math.isnan(outcome.p_right) for outcome in (*compared, *written))
    raw: dict[str, Any] = {"seed": arguments.seed, "compare": tasks, "rationale": written_tasks, "failed": failed}
    notes = [f"Seed {arguments.seed}; intervals are 95 % (Wilson); {failed} failed judgments, counted as wrong."]
    if written:
        stated = Faithfulness.of(one for outcome in written for one in outcome.checked)
        bars += _written_bars(written, stated)
        notes.append(_stated(stated))
        raw["stated"] = asdict(stated)
    if voted:
        gap = paired_test([o.correct for o in voted], [o.correct for o in written[: len(voted)]], _names(voted))
        bars.append(Bar(f"votes@{arguments.votes} minus greedy, high end of the 95 % interval", gap.high, ">=", 0.0))
        notes.append(_voted(voted, written[: len(voted)], gap, arguments.votes))
        raw["voted"] = {"pairs": len(voted), "correct": sum(o.correct for o in voted), "votes": arguments.votes}
    headers = ["task", "/compare", "interval", "pairs", "/rationale", "interval", "pairs"]
    return Report("heldout", SUMMARY, headers, rows, bars, raw, notes)


def _compare_bars(compared: Sequence[Outcome]) -> list[Bar]:
    tasks = by_task(compared)
    flips = sum(not outcome.consistent for outcome in compared) / len(compared)
    mass = math.fsum(outcome.label_mass or 0.0 for outcome in compared) / len(compared)
    return [
        Bar("/compare accuracy", _share(_total(tasks)), ">=", 0.95),
        Bar("/compare flips between the orders", flips, "<=", 0.03),
        Bar("/compare mean label mass", mass, ">=", 0.95),
        Bar("/compare accuracy of the hardest task", min(map(_share, tasks.values())), ">=", 0.90),
        Bar("tasks", len(tasks), ">=", 6),
    ]


def _written_bars(written: Sequence[Outcome], stated: Faithfulness) -> list[Bar]:
    parsed = sum(o.parsed for o in written) / max(1, sum(o.written for o in written))
    return [
        Bar("/rationale parsed", parsed, ">=", 0.99),
        Bar("/rationale accuracy", _share(_total(by_task(written))), ">=", 0.97),
        Bar("/rationale stated facts that are true", _share((stated.true, stated.statements)), ">=", 0.95),
    ]


def _stated(stated: Faithfulness) -> str:
    low, high = wilson_interval(stated.all_true, stated.judgments)
    kinds = ", ".join(f"{kind} {true / total:.4f}" for kind, (true, total) in stated.by_kind.items())
    return (
        f"{stated.judgments} greedy judgments state {stated.statements} facts: true by kind {kinds}; "
        f"{stated.all_true / stated.judgments:.4f} ({low:.4f} - {high:.4f}) of the judgments state nothing false, "
        f"{stated.silent} state nothing that can be checked; the verdict is the one that the statements imply in "
        f"{stated.follow} of {stated.implying}."
    )


def _voted(voted: Sequence[Outcome], greedy: Sequence[Outcome], gap: PairedTest, votes: int) -> str:
    by_vote, alone = sum(o.correct for o in voted), sum(o.correct for o in greedy)
    return (
        f"votes@{votes} against greedy on the same {len(voted)} pairs: {by_vote / len(voted):.4f} and "
        f"{alone / len(greedy):.4f}, difference {gap.difference:+.4f} ({gap.low:+.4f} - {gap.high:+.4f}, paired)."
    )


def _names(outcomes: Sequence[Outcome]) -> list[str]:
    """Every pair is its own cluster."""
    return [str(i) for i in range(len(outcomes))]


def _accuracy(count: tuple[int, int] | None) -> tuple[str, str, str]:
    if count is None or count[1] == 0:
        return "", "", "0"
    low, high = wilson_interval(*count)
    return f"{_share(count):.4f}", f"{low:.4f} - {high:.4f}", str(count[1])


def _share(count: tuple[int, int]) -> float:
    return count[0] / count[1] if count[1] else math.nan


def _total(tasks: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(correct for correct, _ in tasks.values()), sum(total for _, total in tasks.values())


def draw_plot(compared: dict[str, tuple[int, int]], written: dict[str, tuple[int, int]], path: Path) -> None:
    """Accuracy by task with its interval, one mark for each endpoint."""
    tasks = compared or written
    figure = Figure(figsize=(7, 0.38 * len(tasks) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    names = [*tasks, "all"]
    for counts, shift, marker, label in ((compared, -0.14, "o", "/compare"), (written, 0.14, "s", "/rationale")):
        if not counts:
            continue
        counts = counts | {"all": _total(counts)}
        places = [names.index(name) + shift for name in counts]
        shares = [_share(count) for count in counts.values()]
        ends = [wilson_interval(*count) for count in counts.values()]
        errors = [
            [s - low for s, (low, _) in zip(shares, ends, strict=True)],
            [high - s for s, (_, high) in zip(shares, ends, strict=True)],
        ]
        axes.errorbar(shares, places, xerr=errors, fmt=marker, markersize=5, capsize=3, linestyle="none", label=label)
    axes.axvline(0.95, color="grey", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on held-out pairs, 95 % interval (dotted: the promised 0.95 over all)")
    axes.legend(loc="lower left")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
