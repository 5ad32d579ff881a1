"""One offline engine at work, a program of its own: settings in, one JSON line out."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil

from service.engines.base import EngineRequest
from service.judgment import TextMemo, prepare
from service.settings import demo_model
from service.types import Comparison, Prompt, Response
from training.data.demo_tasks import ALL_TASKS, draw, rationale
from training.generation.bulk import Job, answer_all, read_answers
from training.generation.engines import open_judge
from training.generation.judging import LocalJudge
from training.generation.outcomes import Answer, Throughput
from training.generation.seeds import seed_of

VOTES = 4


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    print("\n" + json.dumps(asyncio.run(_measure(asked))))


async def _measure(asked: dict[str, Any]) -> dict[str, Any]:
    async with open_judge(demo_model(), "demo-r2", asked["kind"], **asked["options"]) as judge:
        ready = time.time() - psutil.Process().create_time()
        jobs, scored = _jobs(judge, asked["texts"])
        with tempfile.TemporaryDirectory() as folder:
            return {"ready_s": ready, **await _work(judge, jobs, scored, Path(folder))}


async def _work(judge: LocalJudge, jobs: list[Job], scored: list[Job], folder: Path) -> dict[str, Any]:
    """The texts; some of them in other order and company; the likelihoods."""
    engine, tokenizer = judge.inner.engine, judge.inner.tokenizer
    await answer_all(engine, tokenizer, jobs[: len(jobs) // 8], folder / "warm.jsonl", title="warm-up")
    used = _cpu_s()
    texts = await answer_all(engine, tokenizer, jobs, folder / "texts.jsonl", title="texts")
    used = _cpu_s() - used
    written = _answers(folder / "texts.jsonl")
    again_jobs = Random(1).sample(jobs, len(jobs) // 4)
    await answer_all(engine, tokenizer, again_jobs, folder / "again.jsonl", title="again", at_once=11)
    again = _answers(folder / "again.jsonl")
    likelihoods = await answer_all(engine, tokenizer, scored, folder / "scored.jsonl", title="likelihoods")
    found = _answers(folder / "scored.jsonl")
    return {
        "texts": _figures(texts) | {"cpu_ms_per_token": 1000 * used / texts.tokens},
        "again": {"rows": len(again), "changed": sum(again[key].text != written[key].text for key in again)},
        "likelihoods": _figures(likelihoods),
        "values": {key: answer.log_likelihood for key, answer in found.items()},
    }


def _jobs(judge: LocalJudge, texts: int) -> tuple[list[Job], list[Job]]:
    """Sampled judgments of fresh pairs of every demo task, `VOTES` of each; each pair's right rationale to score."""
    source, jobs, scored = Random(7), list[Job](), list[Job]()
    tasks = list(ALL_TASKS)
    for i in range(texts // VOTES):
        pair = draw(tasks[i % len(tasks)], source, from_held_out=True)
        shown = Comparison(Prompt.from_text(pair.prompt), Response(pair.right), Response(pair.wrong))
        prepared = prepare(judge.inner, shown, TextMemo())
        ids = prepared.prompts[0]
        request = EngineRequest(ids, "generate", max_tokens=judge.inner.max_rationale_tokens, temperature=0.75)
        jobs += [Job(f"{i}/{vote}", replace(request, seed=seed_of(i, vote))) for vote in range(VOTES)]
        whole = ids + judge.inner.tokenizer.encode_text(rationale(pair, right_first=not prepared.swapped))
        scored.append(Job(str(i), EngineRequest(whole, "likelihood", scored_from=len(ids))))
    return jobs, scored


def _answers(path: Path) -> dict[str, Answer]:
    return {key: answer for key, answer in read_answers(path) if isinstance(answer, Answer)}


def _figures(throughput: Throughput) -> dict[str, float]:
    return asdict(throughput) | {"rows_s": throughput.rows_s, "tokens_s": throughput.tokens_s}


def _cpu_s() -> float:
    """Processor seconds of this process and all it started: what a rate costs, however busy the machine is."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [this, *this.children(recursive=True)])


if __name__ == "__main__":
    main()
