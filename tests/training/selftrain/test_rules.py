"""Rules for proofs: each drops what it is named for and nothing else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.types import Comparison, Prompt, Response
from tests.support.properties import bar
from training.data.demo_tasks import TASKS, draw, rationale
from training.data.proofs import Proof, Sections, render_prover, to_proof
from training.selftrain.rules import RULES, Limits, Rule, Written, check, copied_share, repeated_share

SHOWN = Comparison(
    Prompt.from_text("Explain in a few words why the sky looks blue to somebody who stands on the ground at noon."),
    Response("Short waves of light are scattered by air much more than long ones, so blue comes from everywhere."),
    Response("The sea is blue and the sky is a mirror of it, as everybody can see on a sunny day at the beach."),
)
GOOD = Sections("Response A: Names scattering.\n\nResponse B: A myth.", "Only A is true.", "Response A is better.")
LIMITS = Limits(100)


def _written(text: str, tokens: int = 40, finished: bool = True) -> Written:
    return Written(text, tokens, finished)


def test_a_good_proof_passes() -> None:
    proof = check(_written(to_proof(GOOD, "A") + "\n"), SHOWN, "A", LIMITS)
    assert proof == Proof(GOOD, "A")


CIRCLES = "Response A is right and response B is not right. " * 6
QUOTED = f"{SHOWN.prompt.messages[0].content} {SHOWN.first.text} {SHOWN.second.text} Yes."
PROMPT = render_prover(SHOWN, "A").messages[0].content


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        (_written(" \n"), "empty"),
        (_written(to_proof(GOOD, "A"), tokens=101), "too long"),
        (_written(to_proof(GOOD, "A"), finished=False), "too long"),
        (_written(to_proof(GOOD, "A").replace("Comparision: Only A is true.\n\n", "")), "missing section"),
        (_written(to_proof(Sections(GOOD.feedback, "", GOOD.conclusion), "A")), "missing section"),
        (_written(to_proof(GOOD, "B")), "disagrees with the label"),
        (_written(to_proof(Sections("f", "c", "Response B is better."), "A")), "disagrees with the label"),
        (_written("Response A is better."), "malformed"),
        (_written(to_proof(Sections("f </think>", "c", "Response A is better."), "A")), "malformed"),
        (_written(to_proof(Sections(QUOTED, "c", "Response A is better."), "A")), "repeats the prompt"),
        (_written(PROMPT), "repeats the prompt"),
        (_written(PROMPT.partition("[User Question]")[0]), "repeats the prompt"),
        (_written(PROMPT.partition("[User Question]")[2]), "repeats the prompt"),
        (_written(to_proof(Sections(PROMPT.partition("Write")[0], "c", "c"), "A")), "repeats the prompt"),
        (_written(to_proof(Sections(CIRCLES, "c", "Response A is better."), "A")), "repeats itself"),
        (_written("A is right. " * 30), "repeats itself"),
    ],
)
def test_each_rule(written: Written, rule: Rule) -> None:
    assert rule in RULES
    assert check(written, SHOWN, "A", LIMITS) == rule


def test_the_demo_familys_own_rationales_pass() -> None:
    rng = Random(1)
    for i in range(300):
        pair = draw(rng.choice(sorted(TASKS)), rng, from_held_out=False)
        right_first = i % 2 == 0
        first, second = (pair.right, pair.wrong) if right_first else (pair.wrong, pair.right)
        shown = Comparison(Prompt.from_text(pair.prompt), Response(first), Response(second))
        proof = Proof.of_rationale(rationale(pair, right_first))
        assert check(_written(proof.text), shown, proof.letter, LIMITS) == proof


@bar(2_000)
@given(st.text(max_size=200), st.integers(0, 200), st.booleans())
def test_any_text_is_judged_without_an_error(text: str, tokens: int, finished: bool) -> None:
    found = check(Written(text, tokens, finished), SHOWN, "B", LIMITS)
    assert isinstance(found, Proof) or found in RULES


def test_shares_count_words_not_runs() -> None:
    source = [str(i) for i in range(30)]
    assert copied_share(source[:16], [source]) == 1.0
    assert copied_share([*source[:8], *"abcdefgh"], [source]) == 0.5
    assert copied_share(source[:15], [source]) == 0.0  # too short to speak of copying
    assert repeated_share(source[:20]) == 0.0
    assert repeated_share(["a", "b", "c", "d"] * 5) == pytest.approx(1 - 4 / 17)
