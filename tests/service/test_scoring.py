"""The pipeline on the fake engine: both orders, exact complements, isolated failures, prefix order, cancellation."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dispatch import CHUNK
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, FakeOptions, Fault
from service.errors import EngineDead, InvalidInput, InvalidVerdict, NonFiniteScore, TokenLimitExceeded, UnknownJudge
from service.judge import Judge
from service.judging.base import template_hash
from service.judging.registry import get_family
from service.judgment import Ask, conversation_key
from service.ranking.board import Plan, RankTask
from service.ranking.plans import AUTO_ALL_PAIRS_MAX, PLANS
from service.scoring import RankOptions, RationaleText, Score, Scorer, Trace
from service.tokenization import ChatTokenizer
from service.types import Comparison, JudgeVersion, Message, Prompt, Response, Verdict
from tests.support.properties import bar
from tests.support.tiny_tokenizer import tiny_tokenizer

TOKENIZER = ChatTokenizer(tiny_tokenizer())
QUESTION = Prompt.from_text("What is the capital of France?")


def make_judge(family: str = "gram", options: FakeOptions | None = None, **limits: int) -> Judge:
    chosen = get_family(family)
    opener = "" if chosen.reads == "scalar" else chosen.verdict_opener
    labels = () if chosen.reads == "scalar" else TOKENIZER.label_ids(None, opener, chosen.labels)
    version = JudgeVersion(family, "fake-1", template_hash(chosen, TOKENIZER.chat_template))
    return Judge(
        family,
        chosen,
        FakeEngine(options or FakeOptions(encode=TOKENIZER.encode_text, decode=TOKENIZER.decode)),
        TOKENIZER,
        version,
        labels,
        limits.get("max_prompt_tokens", 4096),
        limits.get("max_rationale_tokens", 1024),
    )


async def started(judge: Judge) -> Scorer:
    await judge.engine.start()
    return Scorer([judge])


def pair(first: str, second: str) -> Comparison:
    return Comparison(QUESTION, Response(first), Response(second))


async def verdict_of(scorer: Scorer, judge: Judge, comparison: Comparison, **options: int | bool) -> Verdict:
    (outcome,) = await scorer.compare(judge, [comparison], trace=Trace(), **options)  # type: ignore[arg-type]
    assert isinstance(outcome, Verdict), outcome
    return outcome


@pytest.mark.parametrize("family", ["gram", "gram_r2", "rm_r1", "scalar"])
@bar(1_250)
@given(first=st.text(min_size=1, max_size=20), second=st.text(min_size=1, max_size=20))
def test_j1_comparing_the_other_way_round_gives_the_exact_complement(family: str, first: str, second: str) -> None:
    async def check() -> None:
        answer = "rm_r1" if family == "rm_r1" else "gram_r2"
        judge = make_judge(family, FakeOptions(answer=answer, encode=TOKENIZER.encode_text, decode=TOKENIZER.decode))
        scorer = await started(judge)
        there = await verdict_of(scorer, judge, pair(first, second))
        back = await verdict_of(scorer, judge, pair(second, first))
        assert there.p_first == 1.0 - back.p_first
        assert there.margin == -back.margin
        assert (there.p_ab, there.p_ba) == (back.p_ba, back.p_ab)
        assert there.consistent == back.consistent
        assert (there.p_first == 0.5) == (first == second)

    asyncio.run(check())


async def test_identical_responses_are_a_tie_and_the_engine_is_not_asked() -> None:
    judge = make_judge()
    scorer = await started(judge)
    verdict = await verdict_of(scorer, judge, pair("Paris", "Paris"))
    assert (verdict.p_first, verdict.margin, verdict.preferred, verdict.label_mass) == (0.5, 0.0, "tie", None)
    assert isinstance(judge.engine, FakeEngine)
    assert judge.engine.calls == 0


async def test_a_label_verdict_averages_both_orders() -> None:
    """P(a better) is the mean of P(A) with a first and P(B) with a second; usage counts both prompts."""
    logits = iter([(1.0, 0.0), (-2.0, 0.0)])
    judge = make_judge(options=FakeOptions(label_logits=lambda request: next(logits)))
    scorer = await started(judge)
    verdict = await verdict_of(scorer, judge, pair("London", "Paris"))
    sigmoid = {x: 1 / (1 + math.exp(-x)) for x in (1.0, 2.0)}
    assert sorted((verdict.p_ab, 1 - verdict.p_ba)) == pytest.approx(sorted((sigmoid[1.0], sigmoid[2.0])))
    assert verdict.p_first == pytest.approx((sigmoid[1.0] + sigmoid[2.0]) / 2)
    assert verdict.margin == pytest.approx(1.5)
    assert verdict.usage.comparisons == 1
    assert verdict.usage.prompt_tokens > 100


async def test_a_failed_item_is_its_error_and_leaves_the_others_alone() -> None:
    def only_poison(request: EngineRequest) -> Fault | None:
        return "nan" if "poison" in TOKENIZER.decode(request.prompt_ids) else None

    judge = make_judge(options=FakeOptions(fault=only_poison))
    scorer = await started(judge)
    pairs = [pair("Paris", "Rome"), pair("poison", "Rome"), pair("Lyon", "Lyon")]
    fine, failed, tie = await scorer.compare(judge, pairs, trace=Trace())
    assert isinstance(fine, Verdict)
    assert isinstance(tie, Verdict)
    assert isinstance(failed, NonFiniteScore)


async def test_a_dead_engine_fails_every_item_that_needs_it() -> None:
    judge = make_judge(options=FakeOptions(fault="die"))
    scorer = await started(judge)
    first, tie, last = await scorer.compare(judge, [pair("a", "b"), pair("c", "c"), pair("d", "e")], trace=Trace())
    assert isinstance(first, EngineDead)
    assert isinstance(last, EngineDead)
    assert isinstance(tie, Verdict)


async def test_a_prompt_that_does_not_fit_names_tokens_limit_and_field() -> None:
    judge = make_judge(max_prompt_tokens=300)
    scorer = await started(judge)
    short, long = await scorer.compare(judge, [pair("a", "a"), pair("word " * 400, "b")], trace=Trace())
    assert isinstance(short, Verdict)
    assert isinstance(long, TokenLimitExceeded)
    assert long.details["field"] == "response_a"
    assert long.details["limit"] == 300
    assert isinstance(judge.engine, FakeEngine)
    assert judge.engine.calls == 0


async def test_a_rationale_that_never_ends_in_a_verdict_is_an_invalid_verdict() -> None:
    options = FakeOptions(
        script=lambda request: "I cannot decide.", encode=TOKENIZER.encode_text, decode=TOKENIZER.decode
    )
    judge = make_judge("gram_r2", options)
    scorer = await started(judge)
    (outcome,) = await scorer.compare(judge, [pair("Paris", "Rome")], trace=Trace())
    assert isinstance(outcome, InvalidVerdict)


async def test_votes_are_counted_and_every_valid_vote_is_read_twice() -> None:
    judge = make_judge("gram_r2")
    scorer = await started(judge)
    verdict = await verdict_of(scorer, judge, pair("Paris", "Rome"), votes=3)
    assert verdict.votes is not None
    counts = verdict.votes
    assert counts.a + counts.b + counts.invalid + counts.skipped == 6
    assert len(verdict.rationales) == 6
    for rationale in verdict.rationales:
        assert rationale.probability is not None
        assert set(rationale.sections) == {"feedback", "comparison", "conclusion"}


async def test_the_probability_read_continues_the_generated_tokens_up_to_the_letter() -> None:
    options = FakeOptions(encode=TOKENIZER.encode_text, decode=TOKENIZER.decode, keep_requests=True)
    judge = make_judge("gram_r2", options)
    scorer = await started(judge)
    await verdict_of(scorer, judge, pair("Paris", "Rome"))
    assert isinstance(judge.engine, FakeEngine)
    reads = [request for request in judge.engine.requests if request.task == "label"]
    assert len(reads) == 2
    for read in reads:
        assert TOKENIZER.decode(read.prompt_ids).endswith("</think>\n<answer>\n")


async def test_stopping_early_skips_votes_that_cannot_change_the_answer() -> None:
    def sure_of_paris(request: EngineRequest) -> tuple[float, float]:
        shown = TOKENIZER.decode(request.prompt_ids)
        return (30.0, 0.0) if shown.index("Paris") < shown.index("Rome") else (0.0, 30.0)

    options = FakeOptions(encode=TOKENIZER.encode_text, decode=TOKENIZER.decode, label_logits=sure_of_paris)
    judge = make_judge("gram_r2", options)
    scorer = await started(judge)
    verdict = await verdict_of(scorer, judge, pair("Paris", "Rome"), votes=8, stop_when_decided=True)
    assert verdict.votes is not None
    assert verdict.votes.skipped > 0
    full = await verdict_of(scorer, judge, pair("Paris", "Rome"), votes=8)
    assert full.preferred == verdict.preferred == "a"


async def test_a_batch_reaches_the_engine_first_response_major() -> None:
    """All prompts that start with the same template, question and first response are neighbours."""
    options = FakeOptions(keep_requests=True)
    judge = make_judge(options=options)
    scorer = await started(judge)
    responses = [Response(text) for text in ("delta", "alpha", "charlie", "bravo")]
    await scorer.rank(judge, QUESTION, responses, RankOptions("all_pairs"), trace=Trace())
    assert isinstance(judge.engine, FakeEngine)
    asked = [request.prompt_ids for request in judge.engine.requests]
    assert len(asked) == 12
    assert asked == sorted(asked)
    assert sum(c.cached_tokens for c in [await judge.engine.complete(r) for r in judge.engine.requests[:1]]) > 0


def _groups_asked(judge: Judge) -> list[list[tuple[int, ...]]]:
    """What reached the engine, cut where the affinity changes: each group must come in one piece."""
    assert isinstance(judge.engine, FakeEngine)
    asked = itertools.groupby(judge.engine.requests, key=lambda request: request.affinity)
    return [[request.prompt_ids for request in group] for _, group in asked]


async def test_a_group_larger_than_a_chunk_is_asked_in_one_piece() -> None:
    judge = make_judge(options=FakeOptions(keep_requests=True, max_model_len=32_768))
    scorer = await started(judge)
    responses = [Response(f"answer {i}") for i in range(13)]
    await scorer.rank(judge, QUESTION, responses, RankOptions("all_pairs"), trace=Trace())
    (asked,) = _groups_asked(judge)
    assert len(asked) == 156 > 2 * CHUNK
    assert asked == sorted(asked)


@pytest.mark.parametrize("method", ["all_pairs", "pivot"])
async def test_groups_of_one_request_are_asked_one_after_another(method: Literal["all_pairs", "pivot"]) -> None:
    judge = make_judge(options=FakeOptions(keep_requests=True, max_model_len=32_768))
    scorer = await started(judge)
    groups = [(Prompt.from_text(f"Question {g}?"), tuple(Response(f"{g}.{i}") for i in range(6))) for g in range(5)]
    await scorer.score_groups(judge, groups, method, trace=Trace())
    asked = _groups_asked(judge)
    if method == "all_pairs":
        assert [len(group) for group in asked] == [30] * 5
    assert all(group == sorted(group) for group in asked)


async def test_a_shuffled_batch_is_asked_by_groups_and_answered_in_its_own_order() -> None:
    """Eight questions with 45 pairs each, shuffled: more than one chunk, and still one piece a question."""
    judge = make_judge(options=FakeOptions(keep_requests=True, max_model_len=32_768))
    scorer = await started(judge)
    batch = [
        Comparison(Prompt.from_text(f"Question {g}?"), Response(f"{g} {i}"), Response(f"{g} {j}"))
        for g in range(8)
        for i, j in itertools.combinations(range(10), 2)
    ]
    Random(1).shuffle(batch)
    outcomes = await scorer.compare(judge, batch, trace=Trace())
    asked = _groups_asked(judge)
    assert [len(group) for group in asked] == [90] * 8
    for at in (0, 100, 359):
        alone = await verdict_of(scorer, judge, batch[at])
        outcome = outcomes[at]
        assert isinstance(outcome, Verdict)
        assert replace(outcome, usage=alone.usage) == alone


@pytest.mark.parametrize("family", ["gram", "gram_r2", "scalar"])
async def test_all_requests_of_a_conversation_have_one_affinity(family: str) -> None:
    options = FakeOptions(
        encode=TOKENIZER.encode_text, decode=TOKENIZER.decode, keep_requests=True, max_model_len=32_768
    )
    judge = make_judge(family, options)
    scorer = await started(judge)
    await verdict_of(scorer, judge, pair("Paris", "Rome"))
    await verdict_of(scorer, judge, pair("Oslo", "Rome"))
    assert isinstance(judge.engine, FakeEngine)
    affinities = {request.affinity for request in judge.engine.requests}
    assert affinities == {conversation_key(QUESTION)}
    turns = Prompt((Message("user", "ab"), Message("assistant", "c")))
    moved = Prompt((Message("user", "a"), Message("assistant", "bc")))
    assert len({conversation_key(prompt) for prompt in (QUESTION, turns, moved)}) == 3


@pytest.mark.parametrize("method", ["all_pairs", "pivot", "knockout", "linear", "auto"])
async def test_ranking_reports_usage_comparisons_and_consistency(method: str) -> None:
    judge = make_judge()
    scorer = await started(judge)
    responses = [Response(f"answer {i}") for i in range(5)]
    ranking, usage = await scorer.rank(judge, QUESTION, responses, RankOptions(method), trace=Trace())  # type: ignore[arg-type]
    assert sorted(ranking.order) == list(range(5))
    assert usage.comparisons == ranking.comparisons
    assert ranking.consistency is not None
    assert 0.0 <= ranking.consistency <= 1.0


async def test_one_failed_comparison_fails_the_ranking_and_its_group() -> None:
    judge = make_judge(options=FakeOptions(fault="nan"))
    scorer = await started(judge)
    responses = (Response("one"), Response("two"))
    with pytest.raises(NonFiniteScore):
        await scorer.rank(judge, QUESTION, responses, RankOptions(), trace=Trace())
    same = (Response("three"), Response("three"))
    failed, fine = await scorer.score_groups(judge, [(QUESTION, responses), (QUESTION, same)], trace=Trace())
    assert isinstance(failed, NonFiniteScore)
    assert isinstance(fine, tuple)
    assert [row.score for row in fine] == [0.5, 0.5]


async def test_group_scores_are_mean_win_rates_and_sum_to_half_the_group() -> None:
    judge = make_judge()
    scorer = await started(judge)
    responses = tuple(Response(f"answer {i}") for i in range(6))
    (rows,) = await scorer.score_groups(judge, [(QUESTION, responses)], trace=Trace())
    assert isinstance(rows, tuple)
    assert math.fsum(row.score for row in rows) == pytest.approx(3.0)
    assert math.fsum(row.margin or 0.0 for row in rows) == pytest.approx(0.0)
    first = await verdict_of(scorer, judge, Comparison(QUESTION, responses[0], responses[1]))
    others = [await verdict_of(scorer, judge, Comparison(QUESTION, responses[0], other)) for other in responses[2:]]
    expected = math.fsum(v.p_first for v in (first, *others)) / 5
    assert rows[0].score == pytest.approx(expected)
    assert rows[0].usage.comparisons == 15
    assert rows[1].usage.comparisons == 0


async def test_reference_scores_are_the_probability_of_beating_the_reference() -> None:
    judge = make_judge()
    scorer = await started(judge)
    (row,) = await scorer.score_references(judge, [(QUESTION, Response("Paris"), Response("Rome"))], trace=Trace())
    verdict = await verdict_of(scorer, judge, pair("Paris", "Rome"))
    assert isinstance(row, Score)
    assert (row.score, row.margin) == (verdict.p_first, verdict.margin)


async def test_scalar_judges_score_single_responses_and_pairwise_ones_refuse() -> None:
    judge = make_judge("scalar", FakeOptions(score=lambda request: float(len(request.prompt_ids))))
    scorer = await started(judge)
    short, long = await scorer.score_singles(
        judge, [(QUESTION, Response("Paris")), (QUESTION, Response("Paris " * 9))], trace=Trace()
    )
    assert isinstance(short, Score)
    assert isinstance(long, Score)
    assert long.score > short.score
    with pytest.raises(InvalidInput):
        await Scorer([make_judge()]).score_singles(make_judge(), [(QUESTION, Response("Paris"))], trace=Trace())


async def test_choosing_a_judge() -> None:
    gram, written = make_judge("gram"), make_judge("gram_r2")
    scorer = Scorer([gram, written])
    assert scorer.judge(None) is gram
    assert scorer.judge(None, writes_rationale=True) is written
    with pytest.raises(UnknownJudge):
        scorer.judge("nobody")
    with pytest.raises(InvalidInput):
        scorer.judge("gram", writes_rationale=True)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.01)


async def test_cancelling_a_batch_aborts_everything_in_the_engine() -> None:
    judge = make_judge(options=FakeOptions(delay_s=30.0))
    scorer = await started(judge)
    engine = judge.engine
    assert isinstance(engine, FakeEngine)
    work = asyncio.create_task(scorer.compare(judge, [pair(f"a{i}", "b") for i in range(100)], trace=Trace()))
    await eventually(lambda: engine.in_flight == 200)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await eventually(lambda: engine.in_flight == 0)


async def test_streamed_text_adds_up_to_the_rationales_in_the_callers_order() -> None:
    judge = make_judge("gram_r2")
    scorer = await started(judge)
    for comparison in (pair("Paris", "Rome"), pair("Rome", "Paris")):
        texts: dict[tuple[str, int], str] = {}
        verdict: Verdict | None = None
        async for piece in scorer.stream_rationales(judge, comparison, Ask(2), trace=Trace()):
            if isinstance(piece, RationaleText):
                texts[piece.order, piece.vote] = texts.get((piece.order, piece.vote), "") + piece.text
            else:
                verdict = piece
        assert verdict is not None
        assert {(r.order, r.vote): r.text for r in verdict.rationales} == texts


async def test_trace_says_where_the_time_went() -> None:
    judge = make_judge(options=FakeOptions(delay_s=0.05))
    scorer = await started(judge)
    trace = Trace()
    await scorer.compare(judge, [pair("Paris", "Rome")], trace=trace)
    assert trace.tokenize_s > 0.0
    assert trace.engine_s >= 0.045


async def test_the_event_loop_turns_while_a_ranking_of_many_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that waits for the loop would never go on if the loop waited for it."""
    loop = asyncio.get_running_loop()
    turned: list[bool] = []

    def waiting(task: RankTask) -> Plan:
        event = threading.Event()
        loop.call_soon_threadsafe(event.set)
        turned.append(event.wait(10))
        return (yield from PLANS["pivot"](task))

    judge = make_judge()
    scorer = await started(judge)
    monkeypatch.setitem(PLANS, "all_pairs", waiting)
    responses = [Response(f"answer {i}") for i in range(AUTO_ALL_PAIRS_MAX + 1)]
    ranking, _ = await scorer.rank(judge, QUESTION, responses, RankOptions("all_pairs"), trace=Trace())
    assert turned == [True]
    assert sorted(ranking.order) == list(range(len(responses)))
