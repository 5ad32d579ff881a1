"""How many prompt tokens /rank all_pairs computes for a group of 8, against judging every prompt in full.

Twice: with the service's own KV cache, and with one that cannot hold even the question and all first responses, where
only the order of the prompts decides what is shared.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.questions import LabelJudge
from benchmarks.servers import DEADLINE, engine_environment, running_service
from benchmarks.texts import Layout, measure_layout, text_of
from training.data.demo_words import THINGS

SUMMARY = (
    "POST /rank, all_pairs: prompt tokens computed for a group, against naive (every order of every pair in full)."
)
RESPONSES = 8
BEFORE, RESPONSE = 320, 232
"""Tokens: template and question before the first response, and a response. The template says what else there is."""
AMPLE, TIGHT = "ample", "tight"
BOUNDS = {AMPLE: 2.6, TIGHT: 2.5}
TIGHT_TOKENS, TIGHT_DTYPE, TIGHT_BYTES = 2048, "float32", 4
"""The tight cache; its number format is fixed, because a token's bytes follow from it."""
TIGHT_LENGTH = 1024
"""vLLM wants a cache that holds one prompt of the greatest length."""
BLOCKS = re.compile(r'^vllm:cache_config_info\{.*block_size="(\d+)".*num_gpu_blocks="(\d+)"', re.MULTILINE)
PREEMPTED = re.compile(r"^vllm:num_preemptions_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Measured:
    """Usage of each group; how many tokens the engine says its cache holds; and how often it gave up a prompt half-way
    (what it then computes again is not in the usage). The last two are None where the server does not say."""

    usages: list[dict[str, int]]
    cache_tokens: int | None
    preemptions: float | None


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--groups", type=int, default=5, help="groups ranked, each with texts of its own (default 5)")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: Namespace) -> Report:
    judge, random = LabelJudge.load(arguments.model), Random(arguments.seed)
    layout = measure_layout(lambda *texts: _encode(judge, *texts), judge.tokenizer.count, THINGS)
    bodies = [_group(judge, layout, random) for _ in range(arguments.groups)]
    if arguments.url:
        return _report(layout, {AMPLE: _ask(arguments.url.rstrip("/"), bodies)})
    measured = {}
    for cache, engine in {AMPLE: {}, TIGHT: tight_engine(judge.model)}.items():
        with running_service(engine_environment(arguments, **engine)) as server:
            measured[cache] = _ask(server.url, bodies)
    return _report(layout, measured)


def tight_engine(model: str) -> dict[str, str]:
    """Engine settings for a KV cache of exactly `TIGHT_TOKENS`: keys and values, all layers."""
    config = json.loads((Path(model) / "config.json").read_text())
    heads = config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    each = 2 * config["num_hidden_layers"] * heads * width * TIGHT_BYTES
    cache = {"kv_cache_bytes": str(TIGHT_TOKENS * each), "dtype": TIGHT_DTYPE}
    return cache | {"max_model_len": str(TIGHT_LENGTH)}


def _ask(url: str, bodies: list[dict[str, Any]]) -> Measured:
    with httpx.Client(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
        usages = [
            client.post("/rank", json=body).raise_for_status().json()["usage"] for body in track(bodies, "groups")
        ]
        exposed = client.get("/metrics").text
    blocks, preempted = BLOCKS.search(exposed), PREEMPTED.findall(exposed)
    tokens = int(blocks[1]) * int(blocks[2]) if blocks else None
    return Measured(usages, tokens, sum(map(float, preempted)) if preempted else None)


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


def _report(layout: Layout, measured: dict[str, Measured]) -> Report:
    question = question_length(layout)
    each, prompts = layout.total(question, RESPONSE), RESPONSES * (RESPONSES - 1)
    naive, rows, bars = each * prompts, [], []
    for cache, one in measured.items():
        if any(usage["prompt_tokens"] != naive for usage in one.usages):
            raise ValueError(f"The service counted {one.usages}, expected {naive} prompt tokens a group.")
        computed = [naive - usage["cached_tokens"] for usage in one.usages]
        rows += [
            [cache, str(number), str(naive), str(naive - new), str(new), f"{naive / new:.2f}x"]
            for number, new in enumerate(computed, 1)
        ]
        name = f"naive / computed prompt tokens, worst group, {cache} KV cache"
        bars.append(Bar(name, naive / max(computed), ">=", BOUNDS[cache]))
    raw = {
        "naive": naive,
        "measured": {cache: asdict(one) for cache, one in measured.items()},
        "prompt_tokens_each": each,
        "question": question,
        "layout": asdict(layout),
    }
    headers = ["KV cache", "group", "naive", "cached", "computed", "saving"]
    return Report("prefix", SUMMARY, headers, rows, bars, raw, _notes(layout, measured))


def _notes(layout: Layout, measured: dict[str, Measured]) -> list[str]:
    question = question_length(layout)
    prompts, each = RESPONSES * (RESPONSES - 1), layout.total(question, RESPONSE)
    notes = [
        f"{RESPONSES} responses, {prompts} prompts of {each} tokens: {BEFORE} before the first response ({question} of "
        f"them the question), responses of {RESPONSE}, {layout.between} between them, {layout.tail} after the second.",
    ]
    notes.append(
        f"To share every prefix in any order, a cache would have to hold {BEFORE + RESPONSES * RESPONSE} tokens a "
        "group (question and all first responses) beside the prompts being computed."
    )
    notes += [
        f"The {name} cache holds {one.cache_tokens} tokens; prompts preempted: {one.preemptions}."
        for name, one in measured.items()
    ]
    return notes
