"""Proof and rationale: one is made of the other exactly, or refused."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.judging import gram_r2
from service.types import Comparison, Prompt, Response
from tests.support.properties import bar
from training.data.demo_tasks import TASKS, draw, rationale
from training.data.proofs import (
    Letter,
    Proof,
    ProofError,
    Sections,
    from_proof,
    render_prover,
    render_prover_alone,
    says_better,
    to_proof,
    write_rationale,
)

PIECES = (
    "Feedback on Response A:",
    "Feedback on Response B: x",
    "Feedback on Response A and Response B:",
    "Comparison:",
    "Comparision:",
    "Conclusion: so",
    "Feedback:",
    "Response A: ",
    "Response B: ",
    "I will explain why Response B is better.",
    "The better response is Response A.",
    "<think>",
    "</think>",
    "<answer>\nA\n</answer>",
    "\\",
    "\\\\Conclusion:",
    "\n",
    "\n\n",
    " ",
    "\r",
    "\u2028",
    "A",
    "B",
    "it is right",
)
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
LETTERS: st.SearchStrategy[Letter] = st.sampled_from(("A", "B"))
ANY = st.builds(Sections, TEXTS, TEXTS, TEXTS)


@bar(10_000)
@given(ANY, LETTERS)
@example(Sections("", "", ""), "A")
@example(Sections("Response A: x\n\nResponse B: y\n\nResponse B: z", "\n", " "), "B")
@example(Sections("Response A: \n\nResponse B: ", "Conclusion:", "\\\\The better response is Response A."), "A")
def test_any_three_texts_come_back_as_they_were(sections: Sections, letter: Letter) -> None:
    assert from_proof(to_proof(sections, letter)) == (sections, letter)


@bar(10_000)
@given(ANY, LETTERS)
def test_a_rationale_is_carried_exactly_or_refused(sections: Sections, letter: Letter) -> None:
    try:
        text = write_rationale(sections, letter)
    except ProofError:
        return
    read = gram_r2.FAMILY.parse(text)
    assert (read.verdict, read.conflicting) == (letter, 0)
    proof = Proof.of_rationale(text)
    assert (proof.sections, proof.letter) == (sections.stripped, letter)
    assert Proof.read(proof.text).rationale == text


@bar(10_000)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.just("\n\n")), max_size=14).map("".join))
def test_what_is_read_as_a_proof_is_one(text: str) -> None:
    """The other direction: no two texts are read as the same proof."""
    try:
        sections, letter = from_proof(text)
    except ProofError:
        return
    assert to_proof(sections, letter) == text


@bar(2_000)
@given(st.data(), ANY, LETTERS)
def test_a_proof_with_a_hole_is_refused_or_another(data: st.DataObject, sections: Sections, letter: Letter) -> None:
    text = to_proof(sections, letter)
    start = data.draw(st.integers(0, len(text) - 1))
    broken = text[:start] + text[start + data.draw(st.integers(1, 40)) :]
    assume(broken != text)
    with suppress(ProofError):
        assert from_proof(broken) != (sections, letter)


def test_the_written_form() -> None:
    sections = Sections("Response A: Names Paris.\n\nResponse B: Names Rome.", "A is right.", "Response A is better.")
    assert to_proof(sections, "A") == (
        "I will explain why Response A is better.\n\n"
        "Feedback on Response A: Names Paris.\n\n"
        "Feedback on Response B: Names Rome.\n\n"
        "Comparision: A is right.\n\n"
        "Conclusion: Response A is better.\n\n"
        "The better response is Response A."
    )


@pytest.mark.parametrize("right_first", [True, False])
def test_every_rationale_of_the_demo_family_makes_a_proof(right_first: bool) -> None:
    for task in TASKS:
        text = rationale(draw(task, Random(task), from_held_out=False), right_first)
        proof = Proof.of_rationale(text)
        assert proof.letter == says_better(proof.sections) == ("A" if right_first else "B")
        assert Proof.read(proof.text).rationale == text


GOOD = to_proof(Sections("f", "c", "d"), "A")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "malformed"),
        (GOOD.replace("I will", "We will"), "malformed"),
        (GOOD + "\n", "malformed"),
        (GOOD.replace("Comparision: c\n\n", ""), "missing section"),
        (GOOD.replace("Comparision: c", "Comparision: c\n\nComparision: c"), "malformed"),
        (GOOD.replace("is Response A", "is Response B"), "disagrees with the label"),
        (GOOD.replace("Comparision: c\n\n", "Comparision: c\n"), "malformed"),
    ],
)
def test_why_a_proof_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ProofError) as refused:
        from_proof(text)
    assert refused.value.fault == fault


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        (Sections("", "c", "d"), "missing section"),
        (Sections("f", " \n", "d"), "missing section"),
        (Sections("f <answer>A</answer>", "c", "d"), "malformed"),
        (Sections("f\nConclusion: x", "c", "d"), "malformed"),
    ],
)
def test_why_sections_make_no_judgment(sections: Sections, fault: str) -> None:
    with pytest.raises(ProofError) as refused:
        write_rationale(sections, "A")
    assert refused.value.fault == fault


@pytest.mark.parametrize(
    "text",
    [
        "no judgment",
        gram_r2.write("f", "c", "d", "A").replace("Comparision", "Comparison"),
        gram_r2.write("f", "c", "d", "A") + " ",
        "<think>\nFeedback:\nf\n</think>\n<answer>\nA\n</answer>",
    ],
)
def test_a_judgment_in_another_form_makes_no_proof(text: str) -> None:
    with pytest.raises(ProofError):
        Proof.of_rationale(text)


def test_the_conclusion_decides_what_is_called_better() -> None:
    assert says_better(Sections("", "Response A is better.", "Response B is clearly the better one.")) == "B"
    assert says_better(Sections("", "Response A is better.", "So it is.")) == "A"
    assert says_better(Sections("", "", "Response A is better than Response B is better at.")) is None
    assert says_better(Sections("Response A is better.", "", "")) is None


def test_the_prover_is_told_what_to_prove_and_alone_it_is_told_nothing() -> None:
    shown = Comparison(Prompt.from_text("2 + 2? {letter}"), Response("4"), Response("{response_a}"))
    asked = render_prover(shown, "B").messages[0].content
    assert asked.endswith("\n\nExplain why Response B is better.")
    assert "2 + 2? {letter}" in asked
    assert "\n{response_a}\n" in asked
    alone = render_prover_alone().messages[0].content
    assert asked.startswith(alone + "\n\n[User Question]")
