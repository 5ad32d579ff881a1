"""A best-of-n study from beginning to end: sample, score by the proxy, score by the oracle, curves, picture."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from service.settings import demo_model
from service.types import Prompt
from training.data.pairs import DataError
from training.evaluation.best_of_n import demo
from training.evaluation.best_of_n.duels import Duels
from training.evaluation.best_of_n.pictures import draw
from training.evaluation.best_of_n.policies import CheckpointPolicy, EndpointPolicy, Policy, Sampling
from training.evaluation.best_of_n.prompts import Asked, read_prompts
from training.evaluation.best_of_n.study import (
    Curve,
    Group,
    Scored,
    Study,
    by_plan,
    by_score,
    reference_scores,
    study,
)
from training.evaluation.judges.base import EvaluationError
from training.evaluation.run import judge_of, read_key


async def best_of_n(args: argparse.Namespace) -> Study:
    """The whole study; what was sampled and judged before under the same settings is used again."""
    output: Path = args.output
    asked = _demo(args) if args.demo else list(read_prompts(args.prompts))
    groups = await _samples(args, asked, output)
    async with judge_of(_judge_arguments(args, "")) as judge:
        duels = Duels(judge, output / "proxy.answers.jsonl", concurrency=args.concurrency, title="proxy")
        proxy = await reference_scores(groups, duels)
        oracle, greedy = await _oracle(args, groups, output)
        scored, reference = _joined(groups, proxy, oracle, greedy)
        curves: list[Curve] = [by_score(scored)]
        for method in args.plans:
            curves.append(await by_plan(method, scored, duels, draws=args.draws, seed=args.seed))
        result = study(scored, curves, reference, len(groups) - len(scored))
        write(result, output, judge.name, args)
    return result


def _demo(args: argparse.Namespace) -> list[Asked]:
    """Demo prompts; the small policy is trained where it does not stand yet, the demo judge is the proxy by default."""
    if not (args.policy or args.policy_url):
        args.policy = str(args.output / "policy")
        if not Path(args.policy).is_dir():
            demo.train_policy(Path(args.policy), args.seed)
    if not (args.url or args.model):
        args.model = str(demo_model())
    args.max_tokens = min(args.max_tokens, 32)
    return [(f"demo/{i}", Prompt.from_text(q), a) for i, (q, a) in enumerate(demo.demo_prompts(args.demo, args.seed))]


@asynccontextmanager
async def _policy(args: argparse.Namespace) -> AsyncIterator[Policy]:
    if not args.policy_url:
        yield CheckpointPolicy(args.policy, args.threads)
        return
    headers = {"Authorization": f"Bearer {read_key(args.policy_key_file)}"} if args.policy_key_file else {}
    url = args.policy_url.rstrip("/").removesuffix("/v1")
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=httpx.Timeout(10.0, read=600.0)) as client:
        yield await EndpointPolicy.connect(client, args.policy_model)


async def _samples(args: argparse.Namespace, asked: Sequence[Asked], output: Path) -> list[Group]:
    """Every prompt's samples under every seed, from ``samples.jsonl`` where they are there already."""
    sampling = Sampling(args.n, args.top_p, args.temperature, args.max_tokens)
    path = output / "samples.jsonl"
    settings = {"policy": args.policy or f"{args.policy_url} {args.policy_model or ''}".strip(), **asdict(sampling)}
    _same_settings(output / "sampling.json", settings)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {(row["id"], row["seed"], row["prompt"]): row for row in map(json.loads, lines)}
    wanted = [(name, seed, prompt, answer) for seed in range(args.seeds) for name, prompt, answer in asked]
    keys = [(name, seed, _text(prompt)) for name, seed, prompt, _ in wanted]
    missing = [one for one, key in zip(wanted, keys, strict=True) if key not in known]
    if missing:
        async with _policy(args) as policy:
            with path.open("a", encoding="utf-8", newline="\n") as out:
                for name, seed, prompt, _ in tqdm(missing, desc="samples", unit="prompt", disable=None):
                    drawn = await policy.draw(prompt, sampling, hash_seed(args.seed, seed, name))
                    row = {"id": name, "seed": seed, "prompt": _text(prompt), **asdict(drawn)}
                    known[name, seed, row["prompt"]] = row
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
                    out.flush()
    return [
        Group(name, seed, prompt, known[key]["reference"], tuple(known[key]["responses"]), answer)
        for (name, seed, prompt, answer), key in zip(wanted, keys, strict=True)
    ]


def hash_seed(base: int, seed: int, name: str) -> int:
    """A seed for one prompt that depends on nothing but its name and the two seeds."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{base}/{seed}/{name}".encode()).digest()[:4], "big")


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises `DataError` where the folder holds samples that were drawn otherwise."""
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise DataError(f"{path} is of other settings or another policy; choose another --output, or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _text(prompt: Prompt) -> str:
    return json.dumps([[m.role, m.content] for m in prompt.messages], ensure_ascii=False)


async def _oracle(
    args: argparse.Namespace, groups: Sequence[Group], output: Path
) -> tuple[list[tuple[float, ...] | None], list[float]]:
    """Each sample's oracle score, and the greedy response's: a checker's, or a second judge's P(better than greedy)."""
    if not (args.oracle_url or args.oracle_model):
        if unknown := [group.id for group in groups if group.answer is None]:
            raise DataError(
                f"Prompt {unknown[0]} has no answer to check; name a second judge with --oracle-url or "
                "--oracle-checkpoint, or give every prompt an answer."
            )
        told = [(group, group.answer or "") for group in groups]
        checked = [tuple(demo.check(text, answer) for text in group.responses) for group, answer in told]
        return [*checked], [demo.check(group.reference, answer) for group, answer in told]
    async with judge_of(_judge_arguments(args, "oracle_")) as judge:
        duels = Duels(judge, output / "oracle.answers.jsonl", concurrency=args.concurrency, title="oracle")
        return await reference_scores(groups, duels), [0.5] * len(groups)


def _joined(
    groups: Sequence[Group],
    proxy: Sequence[tuple[float, ...] | None],
    oracle: Sequence[tuple[float, ...] | None],
    greedy: Sequence[float],
) -> tuple[list[Scored], list[float]]:
    """Groups with all their scores. Raises `EvaluationError` when there is none."""
    scored, reference = [], []
    for group, first, second, value in zip(groups, proxy, oracle, greedy, strict=True):
        if first is not None and second is not None:
            scored.append(Scored(group, first, second))
            reference.append(value)
    if not scored:
        raise EvaluationError("Not one prompt could be scored whole; the files of answers say why.")
    return scored, reference


def _judge_arguments(args: argparse.Namespace, prefix: str) -> argparse.Namespace:
    """What `judge_of` reads, for the proxy or the oracle."""
    own = {key: getattr(args, prefix + key) for key in ("url", "model", "judge")}
    shared = {key: getattr(args, key) for key in ("engine", "family", "votes", "key_file", "deadline", "seed")}
    return argparse.Namespace(baseline=None, **own, **shared)


def write(result: Study, output: Path, judge: str, args: argparse.Namespace) -> None:
    """``best_of_n.json``, ``.md`` and ``.png`` below ``output``."""
    named = f"{judge} chooses among {result.samples} samples of {result.prompts} prompts"
    draw(result, output / "best_of_n.png", f"Best-of-n: {named}")
    numbers = json.dumps(_finite(asdict(result)), indent=1)
    (output / "best_of_n.json").write_text(numbers + "\n", encoding="utf-8")
    (output / "best_of_n.md").write_text(markdown(result, named, args), encoding="utf-8")


def markdown(result: Study, named: str, args: argparse.Namespace) -> str:
    """The table, and what it comes to in words."""
    lost, gain = result.lost, result.gain
    turned = result.peak < result.samples and lost.high < 0
    lines = [
        f"# Best-of-n: {named}",
        "",
        f"Top-p {args.top_p:g}, temperature {args.temperature:g}, {args.seeds} seeds; {result.distinct:.1f} of "
        f"{result.samples} samples differ on average; {result.dropped} groups dropped for a failed comparison. "
        f"Rank correlation of proxy and oracle within a prompt: {result.correlation:.2f}.",
        "",
        f"The oracle's score moves by {gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] from n = 1 to "
        f"n = {result.samples} (p = {gain.p:.2g}). It is highest at n = {result.peak}; "
        + (
            f"beyond, {lost.difference:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}]: **over-optimised**. "
            "(The peak was found on these very samples.)"
            if turned
            else "no fall beyond it can be told from chance."
        ),
        "",
        "![curves](best_of_n.png)",
        "",
        "| chosen by | n | KL, nats | proxy | oracle | comparisons |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {curve.name} | {p.n} | {p.kl:.2f} | {p.proxy} | {p.oracle} | {p.comparisons:.1f} |"
        for curve in result.curves
        for p in curve.points
    ]
    return "\n".join(lines) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
