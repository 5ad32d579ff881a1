"""A prompt encoded in segments has exactly the ids of the prompt encoded whole, whatever splits the words."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from service.judging.registry import get_family
from service.segments import Slot, TextPiece, find_cuts
from service.settings import demo_model
from service.tokenization import ChatTokenizer, TokenMemo
from service.types import Comparison, Message, Prompt, Rendered, Response
from tests.support.properties import bar
from tests.support.tiny_tokenizer import CHATML

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_only])


SPLITTERS = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "qwen": (normalizers.NFC(), split(QWEN)),
    "llama3": (None, split(LLAMA)),
    "metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "first_metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "bytes_joined": (None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "sentencepiece": (normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None),
}
FAMILIES = ("gram", "gram_r2", "rm_r1")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\n\n ",
        "x'",
        "[The",
        "...",
        "\u0301e",
        "[User Question]",
        "A's Answer]\n",
        "assistant A is better",
    ]
)


@cache
def chat(name: str) -> ChatTokenizer:
    if name == "demo":
        return ChatTokenizer.load(str(demo_model()))
    normalizer, splitter = SPLITTERS[name]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "the user user's question answer response assistant start end is better A B\n\n[The Start of] "
    tokenizer.train_from_iterator([words * 4, *(get_family(f).template_text for f in FAMILIES)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return ChatTokenizer(fast)


def both_orders(family: str, question: str, first: str, second: str) -> list[Rendered]:
    pair = Comparison(Prompt.from_text(question), Response(first), Response(second))
    return [get_family(family).render(order) for order in (pair, pair.swap())]


def without_parts(rendered: Rendered) -> Rendered:
    messages = tuple(Message(m.role, m.content) for m in rendered.messages)
    return Rendered(messages, rendered.generation_prompt, rendered.enable_thinking)


@pytest.mark.parametrize("name", ["demo", *SPLITTERS])
@bar(7_000)
@given(family=st.sampled_from(FAMILIES), question=TEXT, first=TEXT, second=TEXT)
def test_j2_segments_change_no_id(name: str, family: str, question: str, first: str, second: str) -> None:
    memo: TokenMemo = {}
    for rendered in both_orders(family, question, first, second):
        assert chat(name).encode(rendered, memo) == chat(name).encode(without_parts(rendered))


@pytest.mark.parametrize("name", ["demo", "gpt2", "qwen", "llama3"])
def test_a_caller_s_text_is_encoded_once_for_both_orders(name: str) -> None:
    memo: TokenMemo = {}
    for rendered in both_orders("gram", "the question", "one answer", "another answer"):
        chat(name).encode(rendered, memo)
    holding = [sum(text in segment for segment in memo) for text in ("the question", "one answer", "another answer")]
    assert holding == [1, 1, 1]
    assert max(map(len, memo)) < 60, "the template's own words are no part of what is remembered"


@pytest.mark.parametrize("name", ["bytes_joined", "sentencepiece"])
def test_no_cuts_where_words_are_joined_or_a_start_is_marked(name: str) -> None:
    """Without a word splitter any two characters may become one token."""
    memo: TokenMemo = {}
    (rendered, _) = both_orders("gram", "q", "a", "b")
    chat(name).encode(rendered, memo)
    assert len(memo) == 1, "the filled message, whole"


def test_cuts_avoid_what_depends_on_neighbours() -> None:
    splitter = split(QWEN)
    tokenizer = chat("qwen")

    def cuts(text: str) -> tuple[int, int] | None:
        splits = lambda t: {end for _, (_, end) in splitter.pre_tokenize_str(t)}  # noqa: E731
        return find_cuts(text, tokenizer.encode_text, splits)

    assert cuts("\n") is None
    assert cuts("ab") is None
    first, last = cuts("\n[The End of it]\n\n[The Start of it]\n") or (0, 0)
    assert 0 < first < last < len("\n[The End of it]\n\n[The Start of it]\n")


def test_trimming_beyond_the_templates_words_leaves_one_free_text() -> None:
    message = Message.of_parts("user", (" ", "x ", "\n"))
    assert Slot(0, None, None).parts([message]) == ("", "x", "")
    assert Slot(0).parts([message]) == (" ", "x ", "\n")
    assert Slot(0, None, None).parts([Message.of_parts("user", (" all fixed ",))]) == ("all fixed",)


def test_a_piece_next_to_trimming_tokens_stays_whole() -> None:
    message = Message.of_parts("user", ("Words of a template ", "x", " and more words"))
    piece = TextPiece((Slot(0),), strip_left=True, strip_right=False)
    assert list(piece.segments([message], lambda _: (3, 5))) == [(message.content, False)]
