"""Written judgments that stop: votes that cannot matter, budgets, loops, and what the caller sees of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.base import EngineRequest, Repetition
from service.engines.fake import FakeEngine, FakeOptions
from service.errors import InvalidInput, InvalidVerdict, ServiceError
from service.judge import Judge
from service.judgment import Ask
from service.scoring import RationaleText, Scorer, Trace
from service.types import Comparison, OnBudget, Prompt, Response, Verdict
from tests.service.test_scoring import TOKENIZER, make_judge, pair, started
from tests.support.properties import bar

LONG_THOUGHT = "<think>\nFeedback:\n" + " ".join(f"step {n}" for n in range(200)) + "\n</think>\n<answer>\nA\n</answer>"
LOOP = "<think>\n" + "It is right. " * 200


def script(text: str, **more: object) -> FakeOptions:
    """Every rationale is this text."""
    coding = {"encode": TOKENIZER.encode_text, "decode": TOKENIZER.decode, "keep_requests": True}
    return FakeOptions(**{"script": lambda _: text} | coding | more)  # type: ignore[arg-type]


def shows_paris_first(request: EngineRequest) -> bool:
    shown = TOKENIZER.decode(request.prompt_ids)
    return shown.index("Paris") < shown.index("Rome")


def sure_of_paris(request: EngineRequest) -> tuple[float, float]:
    return (30.0, 0.0) if shows_paris_first(request) else (0.0, 30.0)


async def judged(judge: Judge, comparison: Comparison, ask: Ask) -> Verdict | ServiceError:
    scorer: Scorer = await started(judge)
    (outcome,) = await scorer.compare(
        judge,
        [comparison],
        votes=ask.votes,
        stop_when_decided=ask.stop_when_decided,
        max_rationale_tokens=ask.max_rationale_tokens,
        on_budget=ask.on_budget,
        trace=Trace(),
    )
    return outcome


async def verdict_of(judge: Judge, comparison: Comparison, ask: Ask) -> Verdict:
    outcome = await judged(judge, comparison, ask)
    assert isinstance(outcome, Verdict), outcome
    return outcome


def asked(judge: Judge, task: str) -> list[EngineRequest]:
    assert isinstance(judge.engine, FakeEngine)
    return [request for request in judge.engine.requests if request.task == task]


@pytest.mark.parametrize("k", [1, 2, 8, 16])
async def test_agreeing_votes_stop_after_more_than_half(k: int) -> None:
    """All that could decide is asked at once: the votes are written side by side, and the other k - 1 never."""
    judge = make_judge("gram_r2", script("<think>x</think>\n<answer>\nA\n</answer>", label_logits=sure_of_paris))
    verdict = await verdict_of(judge, pair("Paris", "Rome"), Ask(k, stop_when_decided=True))
    assert verdict.votes is not None
    assert verdict.votes.skipped == k - 1
    assert len(asked(judge, "generate")) == k + 1
    assert verdict.preferred == "a"


async def test_votes_that_stop_early_can_be_streamed() -> None:
    judge = make_judge("gram_r2", script("<think>x</think>\n<answer>\nA\n</answer>", label_logits=sure_of_paris))
    scorer = await started(judge)
    texts: dict[tuple[str, int], str] = {}
    async for piece in scorer.stream_rationales(
        judge, pair("Rome", "Paris"), Ask(5, stop_when_decided=True), trace=(trace := Trace())
    ):
        if isinstance(piece, RationaleText):
            texts[piece.order, piece.vote] = texts.get((piece.order, piece.vote), "") + piece.text
        else:
            assert {(r.order, r.vote): r.text for r in piece.rationales} == texts
    assert len(texts) == 6
    assert (trace.votes_skipped, len(trace.written)) == (4, 6)


async def test_a_budget_reaches_the_engine_and_not_beyond_the_judges_own() -> None:
    judge = make_judge("gram_r2", script(LONG_THOUGHT), max_rationale_tokens=300)
    await judged(judge, pair("Paris", "Rome"), Ask(max_rationale_tokens=20))
    await judged(judge, pair("Paris", "Rome"), Ask())
    assert [request.max_tokens for request in asked(judge, "generate")] == [20, 20, 300, 300]
    refused = await judged(judge, pair("Paris", "Rome"), Ask(max_rationale_tokens=301))
    assert isinstance(refused, InvalidInput)
    assert refused.details == {"limit": 300}


async def test_a_rationale_at_its_budget_has_no_verdict_and_is_shown() -> None:
    """Both ways round, in the caller's own names."""
    judge = make_judge("gram_r2", script(LONG_THOUGHT))
    for comparison in (pair("Paris", "Rome"), pair("Rome", "Paris")):
        failed = await judged(judge, comparison, Ask(2, max_rationale_tokens=20))
        assert isinstance(failed, InvalidVerdict)
        assert [(r.order, r.vote) for r in failed.rationales] == [("ab", 0), ("ab", 1), ("ba", 0), ("ba", 1)]
        for rationale in failed.rationales:
            assert (rationale.verdict, rationale.probability, rationale.outcome) == ("invalid", None, "length")
            assert (rationale.tokens, rationale.forced) == (20, False)
            assert LONG_THOUGHT.startswith(rationale.text)


async def test_a_judge_asked_to_answer_at_its_budget_names_its_letter() -> None:
    """Its own ending is written for it, closed thought and all, and the letter's probability read behind that."""
    judge = make_judge("gram_r2", script(LONG_THOUGHT, label_logits=sure_of_paris))
    verdict = await verdict_of(judge, pair("Paris", "Rome"), Ask(max_rationale_tokens=20, on_budget="answer"))
    assert verdict.preferred == "a"
    assert [(flag.code, flag.count, flag.where) for flag in verdict.flags] == [("forced_verdict", 2, "rationale")]
    for rationale in verdict.rationales:
        assert (rationale.finish_reason, rationale.forced, rationale.outcome) == ("length", True, "forced")
        assert (rationale.verdict, rationale.probability) == ("a", pytest.approx(1.0))
        assert "</think>" not in rationale.text
    for read in asked(judge, "label"):
        assert TOKENIZER.decode(read.prompt_ids).endswith("\n</think>\n<answer>\n")
        closing = TOKENIZER.encode_own("</think>")
        assert len(closing) == 1
        assert closing[0] in read.prompt_ids, "the model's own token, not its spelling"


async def test_the_judges_own_setting_counts_where_the_caller_says_nothing() -> None:
    judge = replace(make_judge("gram_r2", script(LONG_THOUGHT), max_rationale_tokens=20), on_budget="answer")
    assert isinstance(await judged(judge, pair("Paris", "Rome"), Ask()), Verdict)
    assert isinstance(await judged(judge, pair("Paris", "Rome"), Ask(on_budget="invalid")), InvalidVerdict)


@pytest.mark.parametrize("logits", [(0.0, 0.0), (2.0, 1.0)])
async def test_a_forced_letter_that_is_none_stays_invalid(logits: tuple[float, float]) -> None:
    """The model leans to neither side, or wants to write something else than a letter."""
    judge = make_judge("gram_r2", script(LONG_THOUGHT, label_logits=lambda _: logits))
    judge = judge if logits == (0.0, 0.0) else replace(judge, min_label_mass=0.999)
    failed = await judged(judge, pair("Paris", "Rome"), Ask(max_rationale_tokens=20, on_budget="answer"))
    assert isinstance(failed, InvalidVerdict)
    assert [rationale.probability for rationale in failed.rationales] == [None, None]


async def test_an_ending_always_fits_into_the_context() -> None:
    """At the very limit the last words of the thought give way to it."""
    judge = make_judge("gram_r2", script(LONG_THOUGHT))
    prompt = max(len(request.prompt_ids) for request in await _prompts(judge))
    options = script(LONG_THOUGHT, max_model_len=prompt + 21)
    judge = replace(make_judge("gram_r2", options), max_rationale_tokens=20)
    verdict = await verdict_of(judge, pair("Paris", "Rome"), Ask(on_budget="answer"))
    assert all(rationale.forced for rationale in verdict.rationales)
    assert max(len(request.prompt_ids) for request in asked(judge, "label")) == prompt + 20


async def _prompts(judge: Judge) -> list[EngineRequest]:
    await judged(judge, pair("Paris", "Rome"), Ask())
    return asked(judge, "generate")


@pytest.mark.parametrize("on_budget", ["invalid", "answer"])
async def test_a_rationale_that_goes_round_is_stopped_and_invalid(on_budget: OnBudget) -> None:
    judge = replace(make_judge("gram_r2", script(LOOP)), repetition=Repetition(4))
    failed = await judged(judge, pair("Paris", "Rome"), Ask(on_budget=on_budget))
    assert isinstance(failed, InvalidVerdict)
    for rationale in failed.rationales:
        assert (rationale.outcome, rationale.verdict) == ("repetition", "invalid")
        assert 128 <= rationale.tokens <= 260 < len(TOKENIZER.encode_text(LOOP))


async def test_one_vote_that_goes_round_does_not_spoil_the_others() -> None:
    texts = iter([LOOP, *["<think>x</think>\n<answer>\nA\n</answer>"] * 5])
    options = script("", script=lambda _: next(texts), label_logits=sure_of_paris)
    judge = replace(make_judge("gram_r2", options), repetition=Repetition(4))
    verdict = await verdict_of(judge, pair("Paris", "Rome"), Ask(3))
    assert verdict.votes is not None
    assert verdict.votes.invalid == 1
    assert sorted(r.outcome for r in verdict.rationales) == ["repetition", *["verdict"] * 5]


ENDINGS: dict[str, Callable[[int], str]] = {
    "gram_r2": lambda n: LONG_THOUGHT[: 40 + n],
    "rm_r1": lambda n: "<type>Chat</type>\n<rubric>x</rubric>\n<eval>" + "so " * n,
}


@pytest.mark.parametrize("family", ["gram_r2", "rm_r1"])
@bar(1_250)
@given(first=st.text(min_size=1, max_size=9), second=st.text(min_size=1, max_size=9), n=st.integers(30, 60))
def test_j1_forced_verdicts_are_exact_complements_too(family: str, first: str, second: str, n: int) -> None:
    judge = make_judge(family, script(ENDINGS[family](n)))
    ask = Ask(2, stop_when_decided=True, max_rationale_tokens=12, on_budget="answer")
    question = Prompt.from_text("Which?")

    async def check() -> None:
        there = await judged(judge, Comparison(question, Response(first), Response(second)), ask)
        back = await judged(judge, Comparison(question, Response(second), Response(first)), ask)
        assert isinstance(there, Verdict)
        assert isinstance(back, Verdict)
        assert (there.p_first, there.margin) == (1.0 - back.p_first, -back.margin)
        assert [r.verdict for r in there.rationales] == [
            {"a": "b", "b": "a"}[r.verdict] for r in sorted(back.rationales, key=lambda r: (r.order == "ab", r.vote))
        ]

    asyncio.run(check())
