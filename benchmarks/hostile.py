"""Attacks at their full counts: hostile texts, broken bodies and framing, wrong keys, generated requests, memory."""

from __future__ import annotations

import random
import secrets
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace

from benchmarks import soak
from benchmarks.figures import Bar, Report
from service.auth import ApiKey, Authenticator, hash_key
from service.errors import Unauthenticated

DOCS, INTRODUCTION = soak.DOCS, soak.INTRODUCTION
PARTS = ("probes", "bodies", "mutations", "http", "access", "memory", "schema-1", "schema-2", "schema-3")
"""Of the soak's parts, whose bookkeeping this shares: what passed at a commit is not run again."""
GUESSES = 10_000
TREND = 0.05
"""Five standard errors of a rank correlation over so many guesses."""


def add_arguments(parser: ArgumentParser) -> None:
    soak.add_arguments(parser, PARTS)


def run(arguments: Namespace) -> Report:
    report = soak.run(arguments)
    trend = abs(key_timing_trend(GUESSES))
    bar = Bar(
        f"rank correlation of a wrong key's time with how much of it is right, {GUESSES:,} guesses", trend, "<=", TREND
    )
    raw = {"parts": report.raw, "key_timing_trend": trend}
    return replace(report, name="hostile", bars=[*report.bars, bar], raw=raw)


def key_timing_trend(guesses: int) -> float:
    """Rank correlation of the seconds a refusal takes with the number of leading characters that are right."""
    key = secrets.token_urlsafe(32)
    gate = Authenticator([ApiKey("one", hash_key(key), ["score"]), ApiKey("two", hash_key(key[::-1]), ["score"])])
    right = [random.randrange(len(key)) for _ in range(guesses)]
    seconds = [_refusal_s(gate, f"Bearer {key[:n]}{'~' * (len(key) - n)}") for n in right]
    return statistics.correlation(_ranks(right), _ranks(seconds))


def _refusal_s(gate: Authenticator, header: str) -> float:
    started = time.perf_counter()
    try:
        gate.authenticate(header)
    except Unauthenticated:
        return time.perf_counter() - started
    raise AssertionError("a wrong key was taken for a right one")


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, at = [0.0] * len(values), 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for place in order[at:end]:
            ranks[place] = (at + end - 1) / 2
        at = end
    return ranks
