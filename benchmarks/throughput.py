"""Judged comparisons a second: this service against vLLM offline, vLLM's OpenAI server and transformers.

All arms stay loaded; those whose turn it is not are paused, so an idle engine costs the others nothing. Every round has
pairs of its own, the same for all arms, so that no arm finds answers of an earlier round in its prefix cache.
"""

from __future__ import annotations

import math
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from benchmarks.arms import CHAT_THREADS, Arm, ChatClient, Measured, Offline, OnePair, ServiceBatch, ServiceClients
from benchmarks.figures import Bar, Report, median_ratio
from benchmarks.machine import describe_machine
from benchmarks.processes import Worker
from benchmarks.questions import LabelJudge, as_items, draw_pairs
from benchmarks.servers import READY_S, as_flags, engine_environment, start_openai_server, start_service

SUMMARY = "Judged comparisons (both orders) a second; median of alternating rounds."
WARM_UP_PAIRS = 64
IDLE_S = 5.0
SECOND_SET = 1_000_000
"""Seed distance of the pairs for single-pair clients: their server has seen the round's own."""
BOUNDS = {"a": 0.9, "c": 3.0, "d": 2.0}
"""What (b) batched must reach, as a multiple of the other arm's rate."""
ARMS = ("a", "b", "b32", "c", "c=", "d")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=512, help="pairs a round (default 512)")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default 5)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the pairs (default: the clock)")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {','.join(ARMS)} (default: all)")


def run(arguments: Namespace) -> Report:
    judge = LabelJudge.load(arguments.model)
    chosen = arguments.arms.split(",")
    with ExitStack() as stack, Progress(transient=True) as progress:
        arms, engine = _start(stack, arguments, judge, chosen)
        steps = progress.add_task("warm-up", total=(arguments.rounds + 1) * len(arms))

        def advance(title: str) -> None:
            progress.update(steps, advance=1, description=title)

        _round(arms, WARM_UP_PAIRS, arguments.seed, advance)
        idle = _idle_share(arms)
        rounds = [
            _round(arms, arguments.pairs, arguments.seed + number, advance) for number in range(1, arguments.rounds + 1)
        ]
    return _report(arms, rounds, idle, engine, arguments)


def _start(
    stack: ExitStack, arguments: Namespace, judge: LabelJudge, chosen: Sequence[str]
) -> tuple[list[Arm], dict[str, Any]]:
    """Load the chosen arms one after another; also the engine settings that (a), (b) and (c=) share."""
    environment = engine_environment(arguments)
    offline = stack.enter_context(Worker("benchmarks.offline", environment))
    engine = offline.receive(READY_S)
    arms: list[Arm] = [Offline(offline, judge)] if "a" in chosen else []
    if {"b", "b32"} & set(chosen):
        # The memory of answers costs what it costs by default, but keeps one: no arm profits from another's pairs.
        service = stack.enter_context(start_service(environment | {"GRAM_CACHE__ENTRIES": "1"}))
        service.wait("/readyz", READY_S)
        arms += [arm for arm in (ServiceBatch(service), ServiceClients(service)) if arm.key in chosen]
    for key, (title, flags, extra) in _openai_servers(engine).items():
        if key in chosen:
            server = stack.enter_context(start_openai_server(judge.model, flags, extra))
            server.wait("/health", READY_S)
            arms.append(ChatClient(server, judge, key, f"{title}, {CHAT_THREADS} chat threads"))
    if "d" in chosen:
        one_pair = stack.enter_context(Worker("benchmarks.one_pair"))
        one_pair.ask((judge.model, describe_machine()["cores"]), READY_S)
        arms.append(OnePair(one_pair, judge))
    return arms, engine


def _openai_servers(engine: dict[str, Any]) -> dict[str, tuple[str, list[str], dict[str, str]]]:
    """Title, flags and environment of (c) and (c=).

    Two defaults cannot stand beside other programs: by default it takes 92 % of the memory for its cache and does not
    start when that much is not free, and without a C++ compiler it does not start unless told not to compile.
    """
    cache = {"kv_cache_memory_bytes": engine["arguments"]["kv_cache_memory_bytes"]}
    title, defaults, environment = "vLLM's OpenAI server, its defaults (cache size as here)", as_flags(cache), {}
    if shutil.which("g++") is None:
        title, environment = "vLLM's OpenAI server, its defaults (not compiled: no g++)", {"TORCHDYNAMO_DISABLE": "1"}
        defaults += ["--enforce-eager"]
    return {
        "c": (title, defaults, environment),
        "c=": ("vLLM's OpenAI server, the service's settings", as_flags(engine["arguments"]), engine["environment"]),
    }


def _round(arms: Sequence[Arm], pairs: int, seed: int, advance: Callable[[str], None]) -> dict[str, Measured]:
    """Every arm once. The single-pair clients get other pairs, because their server has just seen the batch's."""
    items, others = (as_items(draw_pairs(pairs, s)) for s in (seed, seed + SECOND_SET))
    measured = {}
    for arm in arms:
        for other in arms:
            other.program.pause()
        arm.program.resume()
        before = arm.program.cpu_seconds()
        one = arm.measure(others if arm.key == "b32" else items)
        measured[arm.key] = replace(one, cpu_seconds=arm.program.cpu_seconds() - before)
        advance(f"{arm.title}: {measured[arm.key].rate:.1f}/s")
    return measured


def _idle_share(arms: Sequence[Arm]) -> dict[str, float]:
    """Part of one core that each loaded program uses while it has nothing to do (they are paused all the same)."""
    programs = {arm.key: arm.program for arm in arms if arm.key != "b32"}
    for program in programs.values():
        program.resume()
    time.sleep(IDLE_S)  # vLLM's processes poll for a second after their last request
    before = {key: program.cpu_seconds() for key, program in programs.items()}
    time.sleep(IDLE_S)
    return {key: (program.cpu_seconds() - before[key]) / IDLE_S for key, program in programs.items()}


def _report(
    arms: Sequence[Arm],
    rounds: Sequence[dict[str, Measured]],
    idle: dict[str, float],
    engine: dict[str, Any],
    arguments: Namespace,
) -> Report:
    rates = {arm.key: [measured[arm.key].rate for measured in rounds] for arm in arms}
    agreement = _agreement(rounds)
    bars = [
        Bar(f"(b) batched / ({other})", median_ratio(rates["b"], rates[other]), ">=", bound)
        for other, bound in BOUNDS.items()
        if "b" in rates and other in rates
    ]
    raw = {
        "rates": rates,
        "pairs": arguments.pairs,
        "seed": arguments.seed,
        "cpu_seconds_a_pair": {arm.key: _cpu(rounds, arm.key) for arm in arms},
        "engine": engine | {"arguments": engine["arguments"] | {"model": Path(engine["arguments"]["model"]).name}},
        "transformers_dtype": next((one.dtype for one in rounds[0].values() if one.dtype), None),
        "idle_share": idle,
        "largest_difference_to_b": agreement,
    }
    notes = [
        f"The engines compute in {engine['arguments']['dtype']}, transformers in {raw['transformers_dtype']}.",
        f"{arguments.pairs} pairs a round, {arguments.rounds} rounds; ratios are medians of the rounds' ratios.",
        f"Largest difference of P(a better) from (b): {_listed(agreement, '.1e')}.",
        f"Idle programs were paused; unpaused they use this part of a core: {_listed(idle, '.3f')}.",
    ]
    headers = ["", "way", "pairs/s", "min - max", "(b) batched is", "processor time/pair", "prompt tokens cached"]
    rows = [_row(arm, rates, rounds) for arm in arms]
    return Report("throughput", SUMMARY, headers, rows, bars, raw, notes)


def _row(arm: Arm, rates: dict[str, list[float]], rounds: Sequence[dict[str, Measured]]) -> list[str]:
    return [
        arm.key,
        arm.title,
        f"{median(rates[arm.key]):.1f}",
        _spread(rates[arm.key]),
        _ratio(rates, arm.key),
        f"{1000 * _cpu(rounds, arm.key):.1f} ms",
        _cached(rounds, arm.key),
    ]


def _spread(rates: Sequence[float]) -> str:
    return f"{min(rates):.1f} - {max(rates):.1f}"


def _ratio(rates: dict[str, list[float]], key: str) -> str:
    return f"{median_ratio(rates['b'], rates[key]):.2f}x" if "b" in rates else ""


def _cpu(rounds: Sequence[dict[str, Measured]], key: str) -> float:
    """Processor seconds a pair: steadier than rates when other programs run beside the measurement."""
    return median(measured[key].cpu_seconds / len(measured[key].p_first) for measured in rounds)


def _cached(rounds: Sequence[dict[str, Measured]], key: str) -> str:
    tokens = sum(measured[key].prompt_tokens or 0 for measured in rounds)
    cached = sum(measured[key].cached_tokens or 0 for measured in rounds)
    return f"{cached / tokens:.0%}" if tokens else ""


def _agreement(rounds: Sequence[dict[str, Measured]]) -> dict[str, float]:
    """That the arms did the same work: how far their probabilities are from the batched service's."""
    gaps: dict[str, float] = {}
    for measured in rounds:
        for key in measured.keys() & {"a", "c", "c=", "d"} if "b" in measured else ():
            pairs = zip(measured["b"].p_first, measured[key].p_first, strict=True)
            gap = max((abs(p - q) for p, q in pairs if not math.isnan(q)), default=math.nan)
            gaps[key] = max(gaps.get(key, 0.0), gap)
    return gaps


def _listed(values: dict[str, float], style: str) -> str:
    return ", ".join(f"({key}) {value:{style}}" for key, value in values.items()) or "none"
