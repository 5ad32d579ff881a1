"""``best-of-n``: sample a policy for every prompt of a JSONL file, keep the best, and go on where a run stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gram_client.async_client import AsyncClient
from gram_client.best_of_n import Choice, Policy, Sampling, best_of_async
from gram_client.commands import add_run_options, carried_out, require_positive
from gram_client.errors import FailedJudgment, InvalidRequest, NotFound
from gram_client.files import Done, FileProblem, Json, Kind, Source, check_same, resume
from gram_client.items import Method
from gram_client.progress import Progress
from gram_client.transport import KEY_VARIABLE

POLICY_KEY_VARIABLE = "OPENAI_API_KEY"
PROMPTS = Kind("prompts", {}, lambda row: row["prompt"])
METHODS = ("auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive")
EXAMPLES = f"""rows: {{"prompt": a text or a list of {{"role", "content"}}, "id"?: ...}}, a JSON object a line.
The policy is any server of OpenAI's chat completions: vLLM, SGLang, llama.cpp, a hosted one.

  python -m gram_client best-of-n prompts.jsonl best.jsonl --preferences pairs.jsonl \\
      --policy http://127.0.0.1:8001/v1 --model my-policy --n 16

best.jsonl has every response with its score; pairs.jsonl has prompt, chosen and rejected, as preference training reads
them. Keys: {KEY_VARIABLE} for the judge, {POLICY_KEY_VARIABLE} for the policy. Run the same command again to go on
where it stopped."""


@dataclass(frozen=True)
class Job:
    """A prompt on its way: what the line begins with, and the prompt."""

    head: Json
    prompt: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("input", type=Path, help="prompts, JSONL")
    parser.add_argument("output", type=Path, help="responses, scores and the best, a line for each prompt")
    parser.add_argument("--preferences", type=Path, help="best and worst of each prompt as chosen and rejected, JSONL")
    parser.add_argument("--policy", required=True, help="the policy's address, version included: http://HOST:PORT/v1")
    parser.add_argument("--model", required=True, help="the policy's name at its server")
    parser.add_argument("--n", type=int, default=8, help="responses a prompt, at most 64 (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the policy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, help="of the policy (default: its server's)")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a response (default: %(default)s)")
    parser.add_argument("--method", choices=METHODS, default="auto", help="how /rank decides (default: %(default)s)")
    add_run_options(parser, "prompts")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or what `carried_out` says."""
    done = carried_out(lambda: asyncio.run(_run(options)), options.output, options.overwrite)
    if isinstance(done, int):
        return done
    print(f"{len(done.digests)} prompts in {options.output}, {done.failed} of them failed.", file=sys.stderr)
    if options.preferences is not None:
        pairs = write_preferences(options.output, options.preferences)
        print(f"{pairs} preference pairs in {options.preferences}.", file=sys.stderr)
    return 0


async def _run(options: argparse.Namespace) -> Done:
    require_positive(options, "at_once")
    sampling = Sampling(options.n, options.temperature, options.top_p, options.max_tokens)
    environment = os.environ.get
    judge = AsyncClient(options.url, api_key=environment(KEY_VARIABLE), judge=options.judge, timeout_s=options.timeout)
    policy_key = environment(POLICY_KEY_VARIABLE)
    policy = Policy(options.policy, options.model, api_key=policy_key, timeout_s=options.timeout)
    shown = None if options.quiet else sys.stderr
    chooser = Chooser(policy, judge, sampling, options.method)
    return await best_of_n_file(chooser, options.input, options.output, options.at_once, shown)


@dataclass(frozen=True)
class Chooser:
    """Samples and ranks one prompt."""

    policy: Policy
    judge: AsyncClient
    sampling: Sampling
    method: Method = "auto"

    async def line(self, job: Job) -> Json:
        """What is written for a prompt. Raises the `ScoringError` of a server that is away or wants another key."""
        try:
            responses = await self.policy.sample(job.prompt, self.sampling)
            choice = await best_of_async(self.judge, job.prompt, responses, method=self.method)
        except NotFound:
            raise  # another model or judge was meant: true of every prompt
        except (InvalidRequest, FailedJudgment) as error:
            return job.head | {"status": "failed", "error": {"code": error.code, "message": error.message}}
        return job.head | {"status": "ok"} | _chosen(choice)


def _chosen(choice: Choice) -> Json:
    return {
        "prompt": choice.prompt,
        "best": choice.best,
        "responses": list(choice.responses),
        "scores": list(choice.scores),
        "order": list(choice.order),
        "preference": choice.preference(),
    }


async def best_of_n_file(chooser: Chooser, source: Path, target: Path, at_once: int, shown: TextIO | None) -> Done:
    """Answer the prompts of `source` that `target` does not answer yet; what `target` then holds.

    Raises `FileProblem`, and the `ScoringError` that ended it; what was answered before it is written.
    """
    prompts = Source(source, PROMPTS, 0)
    total = sum(1 for _ in prompts.rows())
    done = resume(target)
    if total < len(done.digests) or not total:
        raise FileProblem(f"{source} has {total} rows, {target} answers {len(done.digests)}; name other files.")
    progress = Progress(total, len(done.digests), shown, noun="prompts")
    progress.failed = done.failed
    digests = list(done.digests)
    with target.open("ab") as file:
        try:
            lines = _lines(chooser, _jobs(prompts, done, target), at_once)
            async with chooser.judge, aclosing(lines):
                async for line in lines:
                    file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                    file.flush()
                    digests.append(line["row"])
                    progress.advance(1, int(line["status"] != "ok"))
        finally:
            progress.close()
            await chooser.policy.close()
    return Done(tuple(digests), progress.failed)


def _jobs(source: Source, done: Done, target: Path) -> Iterator[Job]:
    for index, (row, found) in enumerate(source.rows()):
        if index < len(done.digests):
            check_same(done, index, found, source.path, target)
        else:
            yield Job({"index": index, "id": row.get("id"), "row": found}, row["prompt"])


async def _lines(chooser: Chooser, jobs: Iterator[Job], at_once: int) -> AsyncGenerator[Json, None]:
    """A line for each job, in order, while the next ones are under way."""
    waiting: deque[asyncio.Task[Json]] = deque()
    try:
        for job in jobs:
            if len(waiting) == at_once:
                yield await waiting.popleft()
            waiting.append(asyncio.ensure_future(chooser.line(job)))
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def write_preferences(source: Path, target: Path) -> int:
    """The preference rows of a finished output, all of them each time; how many there are. Prompts whose responses
    the judge found alike give none."""
    rows: Sequence[Json] = [json.loads(line) for line in source.read_bytes().splitlines()]
    pairs = [row["preference"] for row in rows if row.get("preference")]
    part = target.with_name(target.name + ".part")
    part.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    part.replace(target)
    return len(pairs)
