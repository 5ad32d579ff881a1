"""Training prompts that a benchmark asks are found: in the same words, in long runs, in the greater part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.types import Message, Prompt
from tests.support.properties import bar
from training.data.decontamination import BOILERPLATE, Benchmarks, benchmark_prompts
from training.data.pairs import DataError

REAL = os.environ.get("GRAM_DATA_DIR")
BENCH = "Explain in simple terms why the sky looks blue at noon and red in the evening, please."


def known(*prompts: str) -> Benchmarks:
    benchmarks = Benchmarks()
    for prompt in prompts:
        benchmarks.add("bench", Prompt.from_text(prompt))
    return benchmarks


def rule(benchmarks: Benchmarks, text: str) -> str | None:
    found = benchmarks.overlap_of(Prompt.from_text(text))
    return found and found[0]


def test_the_three_rules() -> None:
    bench = known(BENCH, "Hi!")
    assert rule(bench, "explain, in SIMPLE terms: why the sky looks blue at noon and red in the evening please") == (
        "same wording"
    )
    assert rule(bench, "Tell me why. " + BENCH + " Thanks a lot.") == "13-gram"
    assert rule(bench, "Why the sky looks blue at noon and red in winter?") == "8-grams"
    assert rule(bench, "Say why the sky looks blue at dawn and green in the morning") is None
    assert rule(bench, "hi") == "same wording"
    assert rule(bench, "Hi, what is the capital of France?") is None, "a short prompt is not looked for inside others"


def test_a_turn_of_a_conversation_counts_when_it_is_long_enough_to_be_somebodys() -> None:
    bench = Benchmarks()
    greeting = "Hello! How can I help you today with whatever you need?"
    bench.add("b", Prompt((Message("user", "hi"), Message("assistant", greeting), Message("user", BENCH))))
    turns = (Message("user", "hi"), Message("assistant", greeting), Message("user", "Sing."))
    assert bench.overlap_of(Prompt(turns)) is None, "a greeting is nobody's"
    assert bench.overlap_of(Prompt.from_text("hi")) is None
    assert bench.overlap_of(Prompt((*turns[:2], Message("user", BENCH.lower())))) == ("same wording", "b")


def test_what_many_benchmark_prompts_share_is_boilerplate() -> None:
    shared = "Answer the question below by choosing the one best option out of the four that are given to you: "
    few, many = (
        known(*(f"{shared}{'word' * i} {i} {i + 1}" for i in range(n))) for n in (BOILERPLATE, BOILERPLATE + 1)
    )
    asked = shared + "something that is entirely different from all of these, and much longer than any of them was"
    assert rule(few, asked) == "13-gram"
    assert rule(many, asked) != "13-gram"


@bar(2_000)
@given(st.randoms(use_true_random=False), st.integers(13, 40), st.integers(0, 30), st.integers(0, 30))
def test_a_benchmark_prompt_inside_a_longer_one_is_always_found(
    rng: Random, size: int, before: int, after: int
) -> None:
    said, left, right = ([str(rng.randrange(1000)) for _ in range(n)] for n in (size, before, after))
    bench = known(" ".join(said))
    assert rule(bench, ", ".join((*left, *said, *right)).upper() + "?") is not None


@bar(2_000)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_can_be_asked_about(bench: str, asked: str) -> None:
    assert rule(known(bench), bench) == "same wording"
    rule(known(bench), asked)


def test_prompts_are_found_in_the_files_of_benchmarks(tmp_path: Path) -> None:
    rows = [
        {"question": BENCH, "response_A": "x"},
        {"conversation_input": [{"role": "user", "content": BENCH}, {"role": "assistant", "content": ""}]},
        {"instruction": "Explain", "input": BENCH},
        {"conversations": [{"from": "human", "value": BENCH}]},
        {"prompt": BENCH, "chosen": ["x", "y"]},
    ]
    path = tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = list(benchmark_prompts(path))
    assert [len(prompt.messages) for prompt in prompts] == [1] * 5
    assert all(BENCH in prompt.messages[0].content for prompt in prompts)
    path.write_text('{"answer": "x"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl, row 1: no prompt found.*not only answer"):
        list(benchmark_prompts(path))


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="GRAM_DATA_DIR is not set: the real data is not here")
@pytest.mark.parametrize(
    ("name", "rows", "different"),
    [("rewardbench", 2985, 2733), ("rm_bench", 798, 798), ("judgebench", 620, 620)],
)
def test_real_benchmarks_have_prompts_in_every_row(name: str, rows: int, different: int) -> None:
    prompts = list(benchmark_prompts(Path(str(REAL)) / name))
    assert len(prompts) == rows
    bench = Benchmarks()
    for prompt in prompts:
        bench.add(name, prompt)
    assert different * 0.8 <= len(bench) <= different
