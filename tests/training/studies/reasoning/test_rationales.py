"""Rationales of the digit tasks: what is true of a pair, and what a check finds in what was written."""

from __future__ import annotations

import numpy as np
import pytest

from training.studies.judges import LABEL_A, LABEL_B
from training.studies.reasoning.rationales import BAD, GOOD, PAD, Cases, both_orders, check, displayed, verdicts
from training.studies.tasks import NAMES, PairSet, Source, draw

LETTERS = {LABEL_A: "A", LABEL_B: "B", GOOD: "ok", BAD: "no", PAD: "_"}


@pytest.fixture
def pair() -> PairSet:
    """increment 3 1 4; better: one position wrong; worse: two; the label names the worse one."""
    return PairSet(
        task=np.array([NAMES.index("increment")]),
        prompt=np.array([[3, 1, 4]]),
        better=np.array([[4, 2, 7]]),
        worse=np.array([[4, 9, 7]]),
        better_styled=np.array([True]),
        flipped=np.array([True]),
    )


def spelled(text: np.ndarray) -> str:
    return " ".join(LETTERS.get(token, str(token)) for token in text)


def test_a_rationale_checks_every_position_of_both_and_follows_the_truth_not_the_label(pair: PairSet) -> None:
    assert spelled(displayed(pair, True).text[0]) == "4 ok ok 2 ok no 5 no no A"
    assert spelled(displayed(pair, False).text[0]) == "4 ok ok 2 no ok 5 no no B"
    assert spelled(displayed(pair, True, steps=3).text[0]) == "4 ok ok A"
    assert spelled(displayed(pair, True, steps=0).text[0]) == "A"


def test_both_orders_ask_the_same_of_swapped_responses(pair: PairSet) -> None:
    cases = both_orders(pair)
    assert list(cases.label) == [LABEL_A, LABEL_B]
    assert sorted(cases.prompt[0]) == sorted(cases.prompt[1])
    assert not np.array_equal(cases.prompt[0], cases.prompt[1])


def test_the_true_text_is_true_and_its_verdict_follows() -> None:
    cases = both_orders(draw(Source(NAMES, 4), 500, np.random.default_rng(0)))
    assert check(cases, cases.text).means() == {
        "accuracy": 1.0,
        "invalid": 0.0,
        "tokens": 1.0,
        "true": 1.0,
        "follows": 1.0,
        "unfounded": 0.0,
    }


def written(cases: Cases, **changes: int) -> np.ndarray:
    """The true text with tokens changed: ``at_3=GOOD``."""
    text = cases.text.copy()
    for place, token in changes.items():
        text[0, int(place.removeprefix("at_"))] = token
    return text


def test_a_false_fact_and_a_verdict_that_does_not_follow_are_told_apart(pair: PairSet) -> None:
    cases = displayed(pair, True)
    false_fact = check(cases, written(cases, at_6=0)).means()  # the digit 0 instead of 5; the checks stay
    assert (false_fact["accuracy"], false_fact["follows"], false_fact["unfounded"]) == (1.0, 1.0, 1.0)
    assert (false_fact["tokens"], false_fact["true"]) == (8 / 9, 0.0)
    wrong_verdict = check(cases, written(cases, at_9=LABEL_B)).means()
    assert (wrong_verdict["accuracy"], wrong_verdict["true"], wrong_verdict["follows"]) == (0.0, 1.0, 0.0)
    level = check(cases, written(cases, at_5=GOOD)).means()  # as many checks speak for either
    assert (level["accuracy"], level["follows"]) == (1.0, 0.0)


def test_no_verdict_is_invalid_and_an_early_one_leaves_facts_out(pair: PairSet) -> None:
    cases = displayed(pair, True)
    silent = check(cases, written(cases, at_9=GOOD)).means()
    assert (silent["accuracy"], silent["invalid"], silent["true"], silent["follows"]) == (0.0, 1.0, 1.0, 0.0)
    early = cases.text.copy()
    early[0, 3:] = [LABEL_A, *[PAD] * 6]
    found = check(cases, early)
    assert found.right[0] and not found.true[0]
    assert found.tokens[0] == 3 / 9
    assert not found.follows[0], "three checks of each that say the same speak for neither"


def test_the_first_verdict_counts() -> None:
    texts = np.array([[GOOD, LABEL_B, LABEL_A], [LABEL_A, PAD, PAD], [GOOD, 3, BAD]])
    assert list(verdicts(texts)) == [LABEL_B, LABEL_A, PAD]
