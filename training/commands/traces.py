"""``traces PAIRS DIRECTORY``: a teacher's Chain-of-Rubrics traces in two passes, verified, for `distill`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "traces",
        help="ask a stronger model for traces to distill, and verify them",
        description="Two passes: judge; where wrong, judge again knowing the verdict. Interrupted, start it again.",
    )
    parser.add_argument("pairs", type=Path, help="file of labelled pairs")
    parser.add_argument("directory", type=Path, help="where traces.jsonl, dropped.jsonl and the card go")
    parser.add_argument("--url", required=True, help="an OpenAI-compatible server, without /v1")
    parser.add_argument("--model", required=True, help="the teacher's name there")
    parser.add_argument("--second-url", help="another server for the second pass")
    parser.add_argument("--second-model", help="another teacher for the second pass")
    parser.add_argument("--key-env", default="TEACHER_API_KEY", help="environment variable with the key (%(default)s)")
    parser.add_argument("--template", choices=("instruct", "reasoner"), default="instruct", help="default: instruct")
    parser.add_argument("--orders", choices=("random", "both"), default="random", help="default: random, by the seed")
    parser.add_argument("--max-tokens", type=int, default=8192, help="of a trace (default: 8192)")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: 600")
    parser.add_argument("--at-once", type=int, default=16, help="questions in flight (default: 16)")
    parser.add_argument("--limit", type=int, help="the first so many pairs only")
    parser.add_argument("--seed", type=int, default=1, help="draws the orders (default: 1)")


def run(args: argparse.Namespace) -> None:
    from training.data.pairs import read_pairs
    from training.traces.building import cases_of, family_of

    family = family_of(args.template)
    cases = cases_of(list(read_pairs(args.pairs))[: args.limit], args.orders, args.seed)
    card = asyncio.run(_build(args, cases, family))
    print(f"{card['kept']} of {card['asked']} traces kept; {args.directory / 'card.md'} says why the others were not.")


async def _build(args: argparse.Namespace, cases: Any, family: Any) -> dict[str, Any]:
    from contextlib import AsyncExitStack
    from dataclasses import replace

    from training.traces.building import build_traces
    from training.traces.teacher import Endpoint, Teacher

    more = {"key_variable": args.key_env, "max_tokens": args.max_tokens, "temperature": args.temperature}
    endpoint = Endpoint(args.url, args.model, timeout=args.timeout, **more)
    other = replace(endpoint, url=args.second_url or args.url, model=args.second_model or args.model)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Teacher(endpoint, args.at_once))
        second = None if other == endpoint else await stack.enter_async_context(Teacher(other, args.at_once))
        return await build_traces(cases, family, args.directory, first, second, args.at_once)
