"""Win matrices of graded prompts, judged once through the running service and kept on disk.

One JSON line a prompt. A run that was cut off goes on where it stopped; a line counts only for the very texts it was
judged with, and a file only for the very checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.graded import GradedPrompt
from benchmarks.servers import DEADLINE, engine_environment, running_service
from service.settings import demo_model

FOLDER = Path(__file__).parents[1] / "runs" / "adaptive"

AT_ONCE = 2
"""Prompts judged at a time: one prompt's pairs alone fill the engine, the second covers the gaps between requests."""

FAILED = 502
"""The judge gave no usable answer."""

Matrix = list[list[float | None]]
LARGEST_LOG_ODDS = 36.0
"""Where a probability in 64 bits becomes 1."""


@dataclass(frozen=True, slots=True)
class Judged:
    """``wins[i][j]`` is P(response i better than j) over both orders; the diagonal is None."""

    prompt: GradedPrompt
    wins: Matrix


def judge_all(
    prompts: Sequence[GradedPrompt], wanted: int, cache: Path, arguments: Namespace, advance: Callable[[int], None]
) -> list[Judged]:
    """The matrices of the first ``wanted`` prompts that the judge can answer, from the cache where it holds them.

    A prompt with a pair the service could not judge (502, such as a low label mass) is set aside and the next takes its
    place; its line in the cache says why. A service is started only if a matrix is missing.
    """
    kept = load(cache)
    known = [prompt for prompt in prompts if kept.get(key_of(prompt))][:wanted]
    advance(len(known))
    if len(known) < wanted:
        cache.parent.mkdir(parents=True, exist_ok=True)
        missing = [prompt for prompt in prompts if key_of(prompt) not in kept]
        with running_service(engine_environment(arguments)) as server:
            asyncio.run(_judge(server.url, missing, wanted - len(known), cache, advance))
        kept = load(cache)
    judged = ((prompt, kept.get(key_of(prompt))) for prompt in prompts)
    return [Judged(prompt, wins) for prompt, wins in judged if wins][:wanted]


def cache_file(model: str | None, seed: int) -> Path:
    """Where this checkpoint's matrices are kept: its name holds a hash of the weights and of ``judge.json``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(model or demo_model()).iterdir() if p.suffix in (".safetensors", ".json")):
        digest.update(path.read_bytes())
    return FOLDER / f"{digest.hexdigest()[:16]}-{seed}.jsonl"


def load(cache: Path) -> dict[str, Matrix | None]:
    """What a cache file holds, by prompt; None where the judge failed. A line cut off by a kill is judged again."""
    lines = cache.read_text().splitlines() if cache.exists() else []
    return {row["key"]: row["wins"] for row in _rows(lines)}


def _rows(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def key_of(prompt: GradedPrompt) -> str:
    text = json.dumps([prompt.prompt, *prompt.responses])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


async def _judge(
    url: str, prompts: Sequence[GradedPrompt], wanted: int, cache: Path, advance: Callable[[int], None]
) -> None:
    """Ask for one matrix after another, `AT_ONCE` at a time, until ``wanted`` have come."""
    waiting, came = iter(prompts), 0
    with cache.open("a") as file:
        file.write("\n" if file.tell() else "")  # ends a line that a kill cut off

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal came
            while came < wanted and (prompt := next(waiting, None)) is not None:
                body = {"prompt": prompt.prompt, "responses": prompt.responses, "method": "all_pairs"}
                reply = await client.post("/rank", json=body)
                failed = reply.json()["error"]["code"] if reply.status_code == FAILED else None
                wins = None if failed else reply.raise_for_status().json()["win_matrix"]
                file.write(json.dumps({"key": key_of(prompt), "wins": wins, "failed": failed}) + "\n")
                file.flush()
                came += wins is not None
                advance(int(wins is not None))

        async with httpx.AsyncClient(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
            await asyncio.gather(*(work(client) for _ in range(AT_ONCE)))


def with_noise(judged: Judged, sd: float, seed: int) -> Judged:
    """Normal noise on each pair's log-odds, fixed by seed, prompt and pair: every plan meets the same noisy judge."""
    if sd == 0.0:
        return judged
    n = len(judged.wins)
    wins: Matrix = [[None] * n for _ in range(n)]
    random = Random(f"noise/{seed}/{key_of(judged.prompt)}")
    for i in range(n):
        for j in range(i + 1, n):
            noisy = log_odds(judged.wins[i][j]) + random.gauss(0.0, sd)
            wins[i][j] = p = 1.0 / (1.0 + math.exp(-noisy))
            wins[j][i] = 1.0 - p
    return Judged(judged.prompt, wins)


def shuffled(judged: Judged, seed: str) -> Judged:
    """The same prompt and answers with the responses in another order."""
    prompt, wins = judged.prompt, judged.wins
    order = Random(f"order/{seed}/{key_of(prompt)}").sample(range(len(wins)), len(wins))
    texts, grades = (tuple(column[i] for i in order) for column in (prompt.responses, prompt.grades))
    moved = GradedPrompt(prompt.task, prompt.prompt, tuple(map(str, texts)), tuple(map(int, grades)))
    return Judged(moved, [[wins[i][j] for j in order] for i in order])


def log_odds(p: float | None) -> float:
    """ln(p / (1 - p)), bounded to what 64 bits can tell from certainty."""
    if p is None:
        raise ValueError("A pair of this matrix was not judged.")
    if p in (0.0, 1.0):
        return math.copysign(LARGEST_LOG_ODDS, p - 0.5)
    return math.log(p) - math.log1p(-p)
