"""Best-of-n: the estimator against brute force, plans against a judge of known taste, a study that goes on."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from service.aggregation import combine
from service.ranking.plans import Method
from service.types import OrderReading, Prompt, Verdict
from training.commands import best_of_n as command
from training.data.demo_tasks import draw
from training.data.pairs import DataError, Pair
from training.evaluation.best_of_n import demo, policies
from training.evaluation.best_of_n import run as running
from training.evaluation.best_of_n.curves import best_of_k, doublings, kl_bound, spearman
from training.evaluation.best_of_n.duels import Contest, Duel, Duels, run_plan
from training.evaluation.best_of_n.policies import Drawn, EndpointPolicy, Sampling
from training.evaluation.best_of_n.prompts import read_prompts
from training.evaluation.best_of_n.study import Group, Scored, by_plan, by_score, reference_scores, study
from training.evaluation.items import Failure
from training.evaluation.judges.base import EvaluationError

PROMPT = Prompt.from_text("How large?")


class Sizes:
    """Prefers the larger number; refuses "bad". Counts what it is asked."""

    name, version = "sizes", "sizes@1"

    def __init__(self) -> None:
        self.asked = 0

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        self.asked += len(pairs)
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> Verdict | Failure:
        if "bad" in (pair.response_a, pair.response_b):
            return Failure("token_limit", "too long")
        odds = float(pair.response_a) - float(pair.response_b)
        p = 1 / (1 + math.exp(-odds))
        return combine(OrderReading(p, odds, 0.9), OrderReading(1 - p, -odds, 0.9))


# --- the estimator ---------------------------------------------------------------------------------------------------


def brute_force(proxy: Sequence[float], values: Sequence[float], k: int) -> float:
    """The mean over all subsets of the mean value among the subset's best by proxy."""
    found = []
    for subset in combinations(range(len(proxy)), k):
        best = max(proxy[i] for i in subset)
        tied = [values[i] for i in subset if proxy[i] == best]
        found.append(sum(tied) / len(tied))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(12))
def test_every_subset_is_counted_once_ties_included(seed: int) -> None:
    rng = Random(seed)
    proxy = [rng.choice((0.1, 0.4, 0.4001, 0.9)) if seed % 2 else rng.random() for _ in range(8)]
    values = [rng.random() for _ in proxy]
    for k in range(1, 9):
        assert best_of_k(proxy, values, k) == pytest.approx(brute_force(proxy, values, k))


def test_the_ends_of_the_curve() -> None:
    rng = Random(3)
    proxy, values = [rng.random() for _ in range(64)], [rng.random() for _ in range(64)]
    assert best_of_k(proxy, values, 1) == pytest.approx(np.mean(values))
    assert best_of_k(proxy, values, 64) == pytest.approx(values[int(np.argmax(proxy))])
    rising = [best_of_k(proxy, proxy, k) for k in range(1, 65)]
    assert rising == sorted(rising)


def test_the_estimate_is_unbiased() -> None:
    """Uniform scores: best-of-k is k / (k + 1) in expectation."""
    rng = np.random.default_rng(0)
    for k in (2, 4, 8):
        drawn = [best_of_k(row, row, k) for row in rng.random((4000, 16))]
        assert np.mean(drawn) == pytest.approx(k / (k + 1), abs=0.004)


@pytest.mark.parametrize("k", [0, 5])
def test_more_than_there_are_cannot_be_chosen_from(k: int) -> None:
    with pytest.raises(ValueError, match="best-of-"):
        best_of_k([0.1] * 4, [0.2] * 4, k)


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_the_kl_of_best_of_k(k: int) -> None:
    """The quantile of the chosen sample has the density k u^(k-1): its KL from the uniform, by quadrature."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = k * u ** (k - 1)
    assert kl_bound(k) == pytest.approx(
        float(np.mean(density * np.log(density, where=density > 0, out=u * 0))), abs=1e-3
    )


def test_sizes_double_up_to_n() -> None:
    assert doublings(64) == [1, 2, 4, 8, 16, 32, 64]
    assert doublings(20) == [1, 2, 4, 8, 16, 20]
    assert doublings(1) == [1]


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 1, 1], [3, 2, 1]))


# --- duels and plans -------------------------------------------------------------------------------------------------


async def test_a_duel_is_asked_once_in_either_order_and_kept(tmp_path: Path) -> None:
    judge = Sizes()
    duels = Duels(judge, tmp_path / "answers.jsonl")
    one, other, same = Duel(PROMPT, "3", "1"), Duel(PROMPT, "1", "3"), Duel(PROMPT, "2", "2")
    first = await duels.ask([one, other, same, one])
    assert first == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2))])
    assert judge.asked == 1
    again = Duels(judge, tmp_path / "answers.jsonl")
    assert await again.ask([other]) == first[1:2]
    assert judge.asked == 1, "the file answers"


@pytest.mark.parametrize(("method", "comparisons"), [("linear", 7), ("knockout", 7), ("pivot", 7), ("all_pairs", 28)])
async def test_plans_find_the_best_as_the_service_does(method: Method, comparisons: int, tmp_path: Path) -> None:
    responses = tuple(str(n) for n in (4, 1, 7, 3, 0, 6, 2, 5))
    contests = [Contest(Prompt.from_text(f"{i}"), responses[i:] + responses[:i]) for i in range(8)]
    picks = await run_plan(method, contests, Duels(Sizes(), tmp_path / "a.jsonl"))
    for contest, pick in zip(contests, picks, strict=True):
        assert pick is not None
        assert contest.responses[pick.best] == "7"
        assert pick.comparisons == comparisons


async def test_a_failed_duel_ends_its_own_contest_only(tmp_path: Path) -> None:
    contests = [Contest(PROMPT, ("1", "bad", "2")), Contest(PROMPT, ("1", "2", "3"))]
    picks = await run_plan("linear", contests, Duels(Sizes(), tmp_path / "a.jsonl"))
    assert picks[0] is None
    assert picks[1] is not None
    groups = [Group("x", 0, PROMPT, "1", ("2", "bad")), Group("y", 0, PROMPT, "1", ("2", "1"))]
    scores = await reference_scores(groups, Duels(Sizes(), tmp_path / "b.jsonl"))
    assert scores == [None, pytest.approx((1 / (1 + math.exp(-1)), 0.5))]


# --- the study -------------------------------------------------------------------------------------------------------


def scored(count: int, oracle: Callable[[float], float], seed: int = 0) -> list[Scored]:
    rng = Random(seed)
    out = []
    for i in range(count):
        sizes = [rng.random() for _ in range(16)]
        group = Group(str(i), 0, Prompt.from_text(str(i)), "0.5", tuple(f"{size:.6f}" for size in sizes))
        out.append(Scored(group, tuple(sizes), tuple(oracle(size) for size in sizes)))
    return out


def test_an_oracle_that_turns_is_seen() -> None:
    """Truth falls where the proxy is highest: the oracle's curve has its peak inside, and the fall is beyond chance."""
    found = scored(80, lambda size: size if size < 0.8 else 0.0)
    result = study(found, [by_score(found)], [0.5] * 80, 0)
    assert 1 < result.peak < 16
    assert result.lost.high < 0
    assert result.curves[0].points[-1].proxy.value > result.curves[0].points[-2].proxy.value


def test_an_oracle_that_agrees_is_seen_too() -> None:
    found = scored(60, lambda size: size**2)
    result = study(found, [by_score(found)], [0.5] * 60, 0)
    assert result.peak == 16
    assert result.gain.low > 0.3
    assert result.lost.difference == 0
    assert result.correlation == pytest.approx(1.0)
    assert result.ceiling.value == pytest.approx(result.curves[0].points[-1].oracle.value)


async def test_a_plan_and_the_exact_curve_agree_on_a_judge_without_noise(tmp_path: Path) -> None:
    """A linear scan of n random samples keeps the best of them, so its curve estimates the same numbers."""
    found = scored(60, lambda size: size)
    exact = by_score(found)
    scan = await by_plan("linear", found, Duels(Sizes(), tmp_path / "a.jsonl"), draws=4, seed=1)
    for one, other in zip(exact.points, scan.points, strict=True):
        assert other.oracle.value == pytest.approx(one.oracle.value, abs=0.06)
        assert other.comparisons == one.n - 1
    assert scan.points[-1].oracle.value == pytest.approx(exact.points[-1].oracle.value)


# --- the demo family -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", demo.CHECKABLE)
def test_the_checker_knows_right_from_wrong_in_every_style(task: str) -> None:
    rng = Random(task)
    for _ in range(200):
        pair = draw(task, rng, from_held_out=False)
        assert demo.check(pair.right, pair.right_said) == 1.0, pair
        assert demo.check(pair.wrong, pair.right_said) == 0.0, pair


@pytest.mark.parametrize("response", ["", "12 13", "The answer is", "**", "12, or 13", "It is 1 2"])
def test_the_checker_is_not_talked_round(response: str) -> None:
    assert demo.check(response, "12") == 0.0


def test_demo_prompts_are_different_and_the_same_every_time() -> None:
    found = list(demo.demo_prompts(60, 1))
    assert len({prompt for prompt, _ in found}) == 60
    assert found == list(demo.demo_prompts(60, 1)) != list(demo.demo_prompts(60, 2))


# --- policies --------------------------------------------------------------------------------------------------------


def _server(replies: list[Callable[[dict[str, Any]], httpx.Response]], seen: list[dict[str, Any]]) -> httpx.AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "policy"}]})
        seen.append(json.loads(request.content))
        return (replies.pop(0) if len(replies) > 1 else replies[0])(seen[-1])

    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://policy")


def _choices(body: dict[str, Any]) -> httpx.Response:
    texts = [f"{body['temperature']}/{i}" for i in range(body.get("n", 1))]
    return httpx.Response(200, json={"choices": [{"message": {"content": text}} for text in texts]})


async def test_an_endpoint_is_asked_for_the_papers_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluation.best_of_n.policies.asyncio.sleep", _no_sleep)
    seen: list[dict[str, Any]] = []
    async with _server([lambda _: httpx.Response(503), _choices], seen) as client:
        policy = await EndpointPolicy.connect(client)
        drawn = await policy.draw(PROMPT, Sampling(n=3), seed=9)
    assert drawn == Drawn("0.0/0", ("0.75/0", "0.75/1", "0.75/2"))
    assert seen[-1] | {"messages": 0} == {
        "model": "policy",
        "messages": 0,
        "max_tokens": 512,
        "n": 3,
        "top_p": 0.95,
        "temperature": 0.75,
        "seed": 9,
    }


async def _no_sleep(_: float) -> None:
    return None


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (lambda _: httpx.Response(400, text="no such thing"), "400 no such thing"),
        (lambda _: httpx.Response(200, json={"choices": [{"message": {"content": "one"}}]}), "1 of 3 samples"),
        (lambda _: httpx.Response(200, json={"text": "?"}), "not a chat completion"),
    ],
)
async def test_an_endpoint_that_cannot_sample_says_so(reply: Any, complaint: str) -> None:
    async with _server([reply], []) as client:
        policy = await EndpointPolicy.connect(client)
        with pytest.raises(EvaluationError, match=complaint):
            await policy.draw(PROMPT, Sampling(n=3), seed=1)


async def test_the_endpoints_model_must_exist() -> None:
    async with _server([_choices], []) as client:
        with pytest.raises(EvaluationError, match="it has policy"):
            await EndpointPolicy.connect(client, "other")


@pytest.mark.slow
async def test_a_checkpoint_samples_the_same_under_one_seed(tmp_path: Path) -> None:
    demo.train_policy(tmp_path / "policy", steps=2)
    policy = policies.CheckpointPolicy(str(tmp_path / "policy"), threads=1)
    sampling = Sampling(n=5, max_tokens=8)
    first, again, other = [await policy.draw(PROMPT, sampling, seed) for seed in (1, 1, 2)]
    assert first == again
    assert len(first.responses) == 5
    assert first.reference == other.reference
    assert first.responses != other.responses


# --- from beginning to end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("{\n", "row 1: not JSON"),
        ('{"prompt": "q"}\n{"question": "q"}\n', "row 2, field prompt"),
        ('{"prompt": "q", "answer": 3}\n', "row 1, field answer"),
        ('{"prompt": [{"role": "user"}]}\n', "row 1, field prompt"),
    ],
)
def test_wrong_prompts_name_file_row_and_field(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        list(read_prompts(path))


def test_a_file_of_pairs_gives_its_prompts_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "response_a": "x", "response_b": "y", "label": None} for p in ("one", "two", "one")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [prompt.messages[0].content for _, prompt, _ in read_prompts(path)] == ["one", "two"]


class Numbers:
    """Samples numbers; fails on the prompt it is told to, once."""

    name = "numbers"

    def __init__(self, fails_at: int | None = None) -> None:
        self.drawn, self.fails_at = 0, fails_at

    async def draw(self, prompt: Prompt, sampling: Sampling, seed: int) -> Drawn:
        if self.drawn == self.fails_at:
            raise EvaluationError("The policy went away.")
        self.drawn += 1
        rng = Random(seed)
        return Drawn("2", tuple(str(rng.randrange(5)) for _ in range(sampling.n)))


def _arguments(*more: str) -> Namespace:
    parser = ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["best-of-n", *more])


@pytest.fixture
def study_arguments(tmp_path: Path) -> Namespace:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"id": f"q{i}", "prompt": f"How large is {i}?", "answer": "4"} for i in range(6)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ["--prompts", str(prompts), "--policy", "numbers", "--checkpoint", "sizes", "--n", "8", "--seeds", "2"]
    return _arguments(*given, "--output", str(tmp_path / "out"), "--plans", "linear", "adaptive")


async def test_a_study_goes_on_where_it_stopped(
    study_arguments: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, policy = Sizes(), Numbers(fails_at=7)

    @asynccontextmanager
    async def the_judge(_: Namespace) -> AsyncIterator[Sizes]:
        yield judge

    @asynccontextmanager
    async def the_policy(_: Namespace) -> AsyncIterator[Numbers]:
        yield policy

    monkeypatch.setattr(running, "judge_of", the_judge)
    monkeypatch.setattr(running, "_policy", the_policy)
    with pytest.raises(EvaluationError, match="went away"):
        await running.best_of_n(study_arguments)
    policy.fails_at = None
    first = await running.best_of_n(study_arguments)
    assert (policy.drawn, first.groups, first.prompts) == (12, 12, 6)
    asked = judge.asked
    assert await running.best_of_n(study_arguments) == first
    assert (policy.drawn, judge.asked) == (12, asked)
    assert [curve.name for curve in first.curves] == ["reference", "linear", "adaptive"]
    assert first.curves[0].points[-1].oracle.value > first.curves[0].points[0].oracle.value
    assert (tmp_path / "out" / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    assert "| linear | 8 |" in (tmp_path / "out" / "best_of_n.md").read_text(encoding="utf-8")
    study_arguments.temperature = 1.0
    with pytest.raises(DataError, match="other settings"):
        await running.best_of_n(study_arguments)


async def test_an_oracle_must_be_there_or_answers(
    study_arguments: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def both(_: Namespace) -> AsyncIterator[Any]:
        yield Sizes() if hasattr(_, "baseline") else Numbers()

    monkeypatch.setattr(running, "judge_of", both)
    monkeypatch.setattr(running, "_policy", both)
    study_arguments.prompts.write_text('{"prompt": "How large?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="--oracle-url"):
        await running.best_of_n(study_arguments)
    study_arguments.oracle_model = "second judge"
    result = await running.best_of_n(study_arguments)
    assert result.reference_oracle.value == 0.5
    assert (tmp_path / "out" / "oracle.answers.jsonl").exists()
