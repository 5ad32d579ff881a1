"""How many prompt tokens /rank all_pairs computes for a group of 8, against judging every prompt in full."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.questions import LabelJudge
from benchmarks.servers import DEADLINE, service_url
from benchmarks.texts import Layout, measure_layout, text_of
from training.data.demo_words import THINGS

SUMMARY = (
    "POST /rank, all_pairs: prompt tokens computed for a group, against naive (every order of every pair in full)."
)
RESPONSES = 8
BEFORE, RESPONSE = 320, 232
"""Tokens: template and question before the first response, and a response. The template says what else there is."""
BOUND = 2.3


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--groups", type=int, default=5, help="groups ranked, each with texts of its own (default 5)")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: Namespace) -> Report:
    judge, random = LabelJudge.load(arguments.model), Random(arguments.seed)
    layout = measure_layout(lambda *texts: _encode(judge, *texts), judge.tokenizer.count, THINGS)
    bodies = [_group(judge, layout, random) for _ in range(arguments.groups)]
    with service_url(arguments) as url, httpx.Client(base_url=url, timeout=600, headers=DEADLINE) as client:
        usages = [
            client.post("/rank", json=body).raise_for_status().json()["usage"] for body in track(bodies, "groups")
        ]
    return _report(layout, bodies, usages)


def _group(judge: LabelJudge, layout: Layout, random: Random) -> dict[str, Any]:
    """A question and responses whose prompts are exactly as long as promised, checked on the rendered prompt."""
    question = text_of(question_length(layout), judge.tokenizer.count, THINGS, random)
    responses = [text_of(RESPONSE, judge.tokenizer.count, THINGS, random) for _ in range(RESPONSES)]
    expected = layout.total(question_length(layout), RESPONSE)
    for first, second in pairwise(responses):
        tokens = len(_encode(judge, question, first, second))
        if tokens != expected:
            raise ValueError(f"A prompt has {tokens} tokens, not {expected}: this tokenizer merges across its parts.")
    return {"prompt": question, "responses": responses, "method": "all_pairs"}


def question_length(layout: Layout) -> int:
    """Tokens left for the question, so that the first response begins after exactly 320."""
    if layout.head >= BEFORE:
        raise ValueError(f"The template alone has {layout.head} tokens before the first response, not under {BEFORE}.")
    return BEFORE - layout.head


def _encode(judge: LabelJudge, question: str, first: str, second: str) -> tuple[int, ...]:
    return judge.prompt_ids([{"prompt": question, "response_a": first, "response_b": second}])[0]


def _report(layout: Layout, bodies: list[dict[str, Any]], usages: list[dict[str, int]]) -> Report:
    question = question_length(layout)
    each, prompts = layout.total(question, RESPONSE), RESPONSES * (RESPONSES - 1)
    naive = each * prompts
    computed = [usage["prompt_tokens"] - usage["cached_tokens"] for usage in usages]
    if any(usage["prompt_tokens"] != naive for usage in usages):
        raise ValueError(f"The service counted {usages}, expected {naive} prompt tokens a group.")
    rows = [
        [str(number), str(naive), str(usage["cached_tokens"]), str(new), f"{naive / new:.2f}x"]
        for number, (usage, new) in enumerate(zip(usages, computed, strict=True), 1)
    ]
    notes = [
        f"{RESPONSES} responses, {prompts} prompts of {each} tokens: {BEFORE} before the first response ({question} of "
        f"them the question), responses of {RESPONSE}, {layout.between} between them, {layout.tail} after the second.",
        f"Median: {median(computed):.0f} computed, {median(u['cached_tokens'] for u in usages):.0f} cached.",
    ]
    bar = Bar("naive / computed prompt tokens, worst group", naive / max(computed), ">=", BOUND)
    raw = {"naive": naive, "usages": usages, "prompt_tokens_each": each, "question": question, "layout": asdict(layout)}
    return Report("prefix", SUMMARY, ["group", "naive", "cached", "computed", "saving"], rows, [bar], raw, notes)
