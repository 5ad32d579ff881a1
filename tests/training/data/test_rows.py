"""Token rows: the service's own ids, the template always whole, both responses cut alike, typed control tokens text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.fake import FakeEngine, FakeOptions
from service.judge import Judge
from service.judging import gram, gram_r2, scalar
from service.judgment import TextMemo, prepare
from service.tokenization import ChatTokenizer
from service.types import Comparison, JudgeVersion, Message, Prompt, Response
from tests.support.properties import bar
from tests.support.tiny_tokenizer import SPECIAL, TEMPLATES, tiny_tokenizer
from training.data import pretraining
from training.data.lengths import MARK, budgets, cut_end, cut_middle
from training.data.pairs import DataError, Pair
from training.data.rows import LabelRows, PretrainRows, RewardRows, shown_swapped

USUAL = {name: tiny_tokenizer(TEMPLATES[name]) for name in ("chatml", "qwen3", "llama3")}
CHATS = {name: ChatTokenizer(tokenizer) for name, tokenizer in USUAL.items()}
QWEN = CHATS["qwen3"]
WIDE = 100_000
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    st.text("ab \n<|im_end>[]#:'", max_size=400),
    st.lists(st.sampled_from([*SPECIAL, "<think>", "#Preferred:", "word ", "\U0001f600", "\n\n"]), max_size=60).map(
        "".join
    ),
)
PROMPTS = st.one_of(
    TEXTS.map(Prompt.from_text),
    st.lists(TEXTS, min_size=2, max_size=4).map(
        lambda texts: Prompt(tuple(Message("assistant" if i % 2 else "user", t) for i, t in enumerate(texts)))
    ),
)
PAIRS = st.builds(Pair, st.just("p/1"), PROMPTS, TEXTS, TEXTS, st.sampled_from(["a", "b"]))
PAIR = Pair("p/1", Prompt.from_text("What is 2 + 2?"), "4", "It is 5.\n", "a")


def text_of(chat: ChatTokenizer, ids: tuple[int, ...]) -> str:
    """With control tokens left in."""
    name = next(name for name, known in CHATS.items() if known is chat)
    return str(USUAL[name].decode(ids, skip_special_tokens=False))


def judge(chat: ChatTokenizer) -> Judge:
    engine = FakeEngine(FakeOptions(encode=chat.encode_text, decode=chat.decode))
    return Judge("gram", gram.FAMILY, engine, chat, JudgeVersion("gram", "1", "t"), (0, 1), WIDE, 0)


@bar(2_000)
@given(PAIRS, st.sampled_from(sorted(CHATS)))
def test_stage_2_rows_are_the_prompts_that_the_service_sends(pair: Pair, name: str) -> None:
    rows = LabelRows(CHATS[name], gram.FAMILY, WIDE)
    sent = prepare(judge(CHATS[name]), pair.comparison, TextMemo())
    if not sent.is_identical:
        orders = sent.prompts[::-1] if sent.swapped else sent.prompts
        assert tuple(row.ids for row in rows.both_orders(pair)) == orders


def test_the_empty_think_block_stands_before_the_label() -> None:
    [row, swapped] = LabelRows(QWEN, gram.FAMILY, WIDE).both_orders(PAIR)
    assert text_of(QWEN, row.ids).endswith("#Preferred: <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert (row.label, swapped.label) == (0, 1)
    assert row.ids != swapped.ids


@pytest.mark.parametrize("name", CHATS)
def test_stage_1_rows_are_the_published_format(name: str) -> None:
    """The format of the published repository's README, in the words of each chat template."""
    row = PretrainRows(CHATS[name], WIDE).row(PAIR)
    whole = text_of(CHATS[name], row.ids)
    learned = text_of(CHATS[name], row.ids[row.completion_start :])
    end = "<|eot_id|>" if name == "llama3" else "<|im_end|>"
    assert learned == (
        "[The Start of Assistant A's Answer]\n4\n[The End of Assistant A's Answer]\n\n"
        "[The Start of Assistant B's Answer]\nIt is 5.\n\n[The End of Assistant B's Answer]" + end
    )
    assert "[User Question]\nWhat is 2 + 2?" + end in whole
    usual = USUAL[name].apply_chat_template(
        [{"role": m.role, "content": m.content} for m in pretraining.render(PAIR.comparison).messages],
        enable_thinking=False,
        return_dict=False,
    )
    assert list(row.ids) == usual[: len(row.ids)]


@bar(2_000)
@given(PAIRS, st.sampled_from(sorted(CHATS)), st.integers(690, 1100), st.booleans())
def test_a_cut_prompt_keeps_header_delimiters_and_cue(pair: Pair, name: str, limit: int, swapped: bool) -> None:
    rows = LabelRows(CHATS[name], gram.FAMILY, limit)
    row = rows.row(pair, swapped=swapped)
    assert len(row.ids) <= limit
    empty = rows.row(Pair("e", Prompt.from_text(""), "", "", pair.label), swapped=swapped)
    text, bare = text_of(CHATS[name], row.ids), text_of(CHATS[name], empty.ids)
    header, end = bare.index("[User Question]"), bare.rindex("[The End of Assistant B's Answer]")
    assert text.startswith(bare[:header])
    assert text.endswith(bare[end:])
    for line in gram.FAMILY.delimiters:
        assert line in text
    control = CHATS[name].control_ids
    assert [i for i in row.ids if i in control] == [i for i in empty.ids if i in control]


@bar(2_000)
@given(PAIRS, st.integers(200, 500))
def test_a_cut_stage_1_row_keeps_its_format(pair: Pair, limit: int) -> None:
    rows = PretrainRows(QWEN, limit)
    row = rows.row(pair)
    assert len(row.ids) <= limit
    learned = text_of(QWEN, row.ids[row.completion_start :])
    assert learned.startswith("[The Start of Assistant A's Answer]\n")
    assert learned.endswith("\n[The End of Assistant B's Answer]<|im_end|>")
    assert [i for i in row.ids if i in QWEN.control_ids] == [i for i in rows.row(PAIR).ids if i in QWEN.control_ids]


def test_both_responses_lose_alike() -> None:
    question, first, second = "q " * 40, "word " * 900, "other " * 300
    pair = Pair("p", Prompt.from_text(question), first, second, "a")
    row = LabelRows(QWEN, gram.FAMILY, 1000).row(pair)
    text = text_of(QWEN, row.ids)
    kept = [
        text.partition(f"[The Start of Assistant {x}'s Answer]\n")[2].partition(f"\n[The End of Assistant {x}")[0]
        for x in "AB"
    ]
    assert abs(QWEN.count(kept[0]) - QWEN.count(kept[1])) <= 1
    assert first.startswith(kept[0]) and second.startswith(kept[1])
    assert question in text, "the prompt is cut only when the responses have given their part"
    assert 994 <= len(row.ids) <= 1000
    assert row.cut == QWEN.count(first) + QWEN.count(second) - sum(map(QWEN.count, kept))


def test_a_short_response_stays_whole_beside_a_long_one() -> None:
    row = LabelRows(QWEN, gram.FAMILY, 750).row(Pair("p", Prompt.from_text("q"), "short and whole", "word " * 900, "b"))
    assert "]\nshort and whole\n[" in text_of(QWEN, row.ids)


def test_a_long_prompt_loses_its_middle() -> None:
    prompt = Prompt.from_text("Begin. " + "filler " * 900 + "End.")
    row = LabelRows(QWEN, gram.FAMILY, 900).row(Pair("p", prompt, "yes " * 10, "no " * 10, "a"))
    text = text_of(QWEN, row.ids)
    assert "Begin. filler" in text and "filler End.\n\n[The Start" in text and MARK in text
    assert "yes " * 10 in text and "no " * 10 in text


@bar(2_000)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=5), *[st.integers(0, 3000)] * 2, st.integers(2, 4000))
def test_budgets_fill_the_room_and_no_more(turns: list[int], first: int, second: int, room: int) -> None:
    most = budgets(turns, first, second, room)
    used = [min(t, most.turn) for t in turns], [min(r, most.response) for r in (first, second)]
    total = sum(map(sum, used))
    assert total <= room
    if sum(turns) + first + second > room:
        assert total >= room - len(turns) - 1, "no room is wasted but what cannot be shared equally"
        assert sum(used[1]) >= min(first + second, room // 2 - 1), "responses give way to half, and no further"
    else:
        assert total == sum(turns) + first + second


@bar(2_000)
@given(TEXTS, st.integers(0, 60))
def test_a_cut_text_is_a_beginning_of_at_most_so_many_tokens(text: str, tokens: int) -> None:
    kept = cut_end(QWEN, text, tokens)
    assert text.startswith(kept)
    assert QWEN.count(kept) <= tokens
    assert kept == text or QWEN.count(kept) >= tokens - 8, "at most one character of four bytes is missing"
    middle = cut_middle(QWEN, text, tokens)
    assert QWEN.count(middle) <= tokens
    if middle != text and MARK in middle and MARK not in text:
        head, _, tail = middle.partition(MARK)
        assert text.startswith(head) and text.endswith(tail)


@pytest.mark.parametrize("name", CHATS)
def test_reward_rows_are_the_conversations_that_the_service_scores(name: str) -> None:
    chat = CHATS[name]
    row = RewardRows(chat, scalar.FAMILY, WIDE).row(PAIR)
    for text, ids in ((PAIR.chosen, row.chosen), (PAIR.rejected, row.rejected)):
        assert ids == chat.encode(scalar.FAMILY.render_one(PAIR.prompt, Response(text)))


@bar(1_000)
@given(PAIRS, st.integers(120, 400))
def test_reward_rows_are_cut_alike(pair: Pair, limit: int) -> None:
    rows = RewardRows(QWEN, scalar.FAMILY, limit)
    row = rows.row(pair)
    assert max(len(row.chosen), len(row.rejected)) <= limit
    other = rows.row(Pair(pair.id, pair.prompt, pair.response_b, pair.response_a, "b" if pair.label == "a" else "a"))
    assert (row.chosen, row.rejected) == (other.chosen, other.rejected), "it does not matter which is called A"
    assert row.cut == other.cut


def test_rows_that_cannot_be_made_name_the_pair() -> None:
    rows = LabelRows(QWEN, gram.FAMILY, 750)
    with pytest.raises(DataError, match="Pair p/1: field label"):
        rows.row(Pair("p/1", Prompt.from_text("q"), "x", "y"))
    with pytest.raises(DataError, match=r"Pair p/1: .*surrogate"):
        rows.row(Pair("p/1", Prompt.from_text("q"), "x\ud800", "y", "a"))
    many = Prompt(tuple(Message("user", "hello there") for _ in range(400)))
    with pytest.raises(DataError, match=r"Pair p/1: .*leaves no room"):
        rows.row(Pair("p/1", many, "x", "y", "a"))


def test_limits_and_families_that_cannot_work_are_refused_at_once() -> None:
    for build in (
        lambda: LabelRows(QWEN, gram.FAMILY, 50),
        lambda: PretrainRows(QWEN, 10),
        lambda: RewardRows(QWEN, scalar.FAMILY, 4),
    ):
        with pytest.raises(DataError, match="leaves no room"):
            build()
    with pytest.raises(DataError, match="rationale"):
        LabelRows(QWEN, gram_r2.FAMILY, 4000)


def test_a_template_that_forces_a_think_block_is_refused_for_stage_1() -> None:
    forced = TEMPLATES["chatml"].replace("assistant\n' }}{%- endif %}", "assistant\n<think>\n' }}{%- endif %}")
    with pytest.raises(DataError, match="generation prompt"):
        PretrainRows(ChatTokenizer(tiny_tokenizer(forced)), WIDE)


def test_the_order_shown_is_a_fair_coin_that_only_the_seed_turns() -> None:
    pairs = [Pair(f"p/{i}", PAIR.prompt, "x", "y", "a") for i in range(2000)]
    first, again, other = ([shown_swapped(p, seed) for p in pairs] for seed in (0, 0, 1))
    assert first == again
    assert 0.45 < sum(first) / len(pairs) < 0.55
    assert 0.45 < sum(x == y for x, y in zip(first, other, strict=True)) / len(pairs) < 0.55


def test_the_comparison_is_shown_as_asked() -> None:
    rows = LabelRows(QWEN, gram.FAMILY, WIDE)
    swapped = Comparison(PAIR.prompt, Response(PAIR.response_b), Response(PAIR.response_a))
    assert rows.row(PAIR, swapped=True).ids == QWEN.encode(gram.FAMILY.render(swapped))
