"""Texts of an exact token count, and the cutting of prompts into their parts."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.prefix import BEFORE, question_length
from benchmarks.texts import Layout, common_prefix, measure_layout, text_of

WORDS = ["lamp", "river", "stone", "cloud", "extraordinary"]


def count(text: str) -> int:
    """A toy tokenizer: one token for four characters of a word."""
    return sum(-(-len(word) // 4) for word in text.split())


@pytest.mark.parametrize("tokens", [1, 2, 7, 232])
def test_text_has_exactly_so_many_tokens(tokens: int) -> None:
    assert count(text_of(tokens, count, WORDS, Random(3))) == tokens


def test_texts_differ_with_the_seed() -> None:
    assert text_of(50, count, WORDS, Random(1)) != text_of(50, count, WORDS, Random(2))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly 3 tokens"):
        text_of(3, count, ["river"], Random(1))  # two tokens a word
    with pytest.raises(ValueError, match="0 tokens"):
        text_of(0, count, WORDS, Random(1))


def test_layout_is_read_off_rendered_prompts() -> None:
    def encode(question: str, first: str, second: str) -> list[int]:
        words = f"q1 q2 q3 {question} h1 {first} m1 m2 {second} t1 t2 t3 t4"
        return [hash(word) for word in words.split()]

    layout = measure_layout(encode, lambda text: len(text.split()), ["lamp", "river"])
    assert layout == Layout(head=4, between=2, tail=4)
    assert layout.total(question=5, response=7) == len(encode("a b c d e", "a b c d e f g", "a b c d e f g"))


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0


def test_the_first_response_begins_where_promised() -> None:
    layout = Layout(head=200, between=3, tail=15)
    assert layout.head + question_length(layout) == BEFORE


def test_a_template_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="alone has 320 tokens"):
        question_length(Layout(head=BEFORE, between=3, tail=15))
