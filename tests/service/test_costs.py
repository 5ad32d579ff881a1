from __future__ import annotations

import random

import pytest
import pytest_asyncio

from service.context import Call
from service.costs import CostGuesser, Load, of_group, of_pairs, of_singles
from service.engines.fake import FakeEngine
from service.judge import Judge
from service.startup import build_judges, load_manifest, load_tokenizer, plan_judges
from service.types import Comparison, Prompt, Response, Usage
from tests.support.serving import PAIR, options, serving, settings_for


@pytest_asyncio.fixture
async def judges() -> dict[str, Judge]:
    settings = settings_for()
    engine = FakeEngine(options())
    await engine.start()
    plans = plan_judges(settings, load_manifest(settings))
    return {judge.name: judge for judge in await build_judges(plans, engine, await load_tokenizer(settings))}


def test_loads_count_prompts_and_characters() -> None:
    prompt, a, b = Prompt.from_text("12345"), Response("123"), Response("1")
    assert of_pairs([Comparison(prompt, a, b)], votes=3) == Load(6, 54)
    assert of_singles([(prompt, a), (prompt, b)]) == Load(2, 14)
    assert of_group(prompt, [a, b], 1) == Load(2, 18)
    assert of_group(prompt, [a], 0) == Load(0, 0)
    assert sum([Load(1, 2), Load(3, 4)], Load()) == Load(4, 6)


def test_a_guess_learns_how_long_tokens_are(judges: dict[str, Judge]) -> None:
    """The fake engine's tokens are bytes: three times as many as the first guess says."""
    guesser, judge, load = CostGuesser(), judges["gram"], Load(2, 4000)
    frame = guesser.cost(judge, Load(2, 0)).tokens
    assert guesser.cost(judge, load).tokens == pytest.approx(frame + 0.3 * 4000, abs=2)
    truth = Usage(prompt_tokens=round((frame / 0.3) + 4000), comparisons=1)
    for _ in range(100):
        guesser.learn(judge, load, truth)
    assert guesser.cost(judge, load).tokens == pytest.approx(truth.prompt_tokens, rel=0.01)
    assert guesser.cost(judges["rm_r1"], Load(2, 0)).prompts == 2


def test_a_ranking_decided_early_does_not_make_tokens_look_short(judges: dict[str, Judge]) -> None:
    guesser, judge = CostGuesser(), judges["gram"]
    before = guesser.cost(judge, Load(20, 40_000)).tokens
    guesser.learn(judge, Load(20, 40_000), Usage(prompt_tokens=before // 2, comparisons=5))
    assert guesser.cost(judge, Load(20, 40_000)).tokens == pytest.approx(before, rel=0.01)


def test_nothing_is_learned_from_nothing(judges: dict[str, Judge]) -> None:
    guesser, judge = CostGuesser(), judges["gram"]
    before = guesser.cost(judge, Load(2, 100))
    guesser.learn(judge, Load(), Usage())
    guesser.learn(judge, Load(2, 100), Usage())
    assert guesser.cost(judge, Load(2, 100)) == before


def test_what_a_judge_may_write_counts(judges: dict[str, Judge]) -> None:
    guesser, load = CostGuesser(), Load(2, 0)
    written = guesser.cost(judges["gram_r2"], load).tokens
    assert written >= 2 * judges["gram_r2"].max_rationale_tokens


def test_no_text_costs_more_than_its_prompts_can_hold(judges: dict[str, Judge]) -> None:
    guesser, judge = CostGuesser(), judges["gram"]
    assert guesser.cost(judge, Load(2, 10**9)).tokens == 2 * judge.max_prompt_tokens


async def test_a_running_service_learns_from_its_replies() -> None:
    draw = random.Random(1)
    async with serving() as api:
        costs = api.app.state.gate.costs
        judge = api.app.state.service.scorer.judges["gram"]
        before = costs.cost(judge, Load(2, 1000)).tokens
        for _ in range(20):
            body = PAIR | {"response_a": "x" * draw.randint(100, 200), "response_b": "y" * draw.randint(100, 200)}
            assert (await api.post("/compare", body)).status_code == 200
        assert costs.cost(judge, Load(2, 1000)).tokens > 2 * before
        assert api.admission.held == api.admission.held_tokens == 0


def test_a_call_without_a_judgment_teaches_nothing() -> None:
    assert Call("id").finish(200, "/models").usage == Usage()
