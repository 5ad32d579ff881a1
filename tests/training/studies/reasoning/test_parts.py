"""What each reasoning study does beside training: labels and proofs are kept or dropped, texts laid out and cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.studies.comparisons import Table
from training.studies.grid import Result, Unit
from training.studies.judges import LABEL_A, LABEL_B, PLAIN_ID, STYLED_ID
from training.studies.pages import new_figure
from training.studies.reasoning import budget, proof_selection, rlvr, rubrics, selftrain
from training.studies.reasoning.core import MICRO
from training.studies.reasoning.proving import log_likelihood, prover_prompts, ratio_score, without_pair
from training.studies.reasoning.rationales import BAD, GOOD, PAD, PROVE, Cases, both_orders, check, displayed
from training.studies.reasoning.reporting import Claim, Differences, reported
from training.studies.reasoning.voting import Ballot
from training.studies.reasoning.writers import Rows, Writer, new_writer
from training.studies.tasks import NAMES, Source, draw


@pytest.fixture
def cases() -> Cases:
    return displayed(draw(Source(NAMES, 3), 6, np.random.default_rng(0)), True)


@pytest.fixture
def writer() -> Writer:
    return new_writer(MICRO.shape, 0).eval()


def test_an_own_rationale_is_the_first_that_votes_for_the_label() -> None:
    text = np.array([[[1, LABEL_A], [1, LABEL_B]], [[2, LABEL_B], [2, LABEL_B]], [[3, LABEL_B], [3, PAD]]])
    ballot = Ballot(text, np.ones((3, 2)))
    assert selftrain.own_rationales(ballot, np.array([LABEL_B, LABEL_A])).tolist() == [[2, LABEL_B], [PAD, PAD]]


def test_confidence_is_of_the_label_chosen() -> None:
    p_a = np.array([[0.9, 0.2], [0.7, 0.4]])
    np.testing.assert_allclose(selftrain.confidence(np.array([LABEL_A, LABEL_B]), p_a), [0.8, 0.7])


@pytest.mark.parametrize("arm", [arm for arm in selftrain.ARMS if arm not in (selftrain.LABELLED, selftrain.ONCE)])
def test_pseudo_labels_are_kept_as_the_arm_says(arm: str, writer: Writer, cases: Cases) -> None:
    other = displayed(draw(Source(NAMES, 3), 6, np.random.default_rng(0)), False)
    never = selftrain.MICRO_ROUNDS.model_copy(update={"threshold": 1.01})
    labelled = selftrain.label(writer, cases, other, never, arm, ("test",))
    valid = labelled.label != PAD
    assert (labelled.kept == (valid & (arm not in selftrain.FILTERED))).all()
    if arm == selftrain.ORACLE:
        assert (labelled.label == cases.label).all()


def test_rationales_that_do_not_end_in_their_label_are_dropped(writer: Writer, cases: Cases) -> None:
    text = np.stack([cases.text, cases.text])
    text[:, 0, -1] = LABEL_B  # no vote of the first pair is for its label
    labelled = selftrain.Labelled(
        cases, cases.label, np.array([True] * 5 + [False]), Ballot(text, np.ones(text.shape[:2]))
    )
    rows, facts = selftrain.write_up(writer, labelled, selftrain.SELF)
    assert rows.text.tolist() == cases.text[1:5].tolist()
    assert facts == {"kept": 4 / 6, "precision": 1.0, "synthesised_true": 1.0, "synthesised_tokens": 1.0}
    nothing = selftrain.Labelled(cases, cases.label, np.zeros(6, bool), None)
    rows, facts = selftrain.write_up(writer, nothing, selftrain.BOTH)
    assert (len(rows), facts["kept"]) == (0, 0.0)


def test_the_prover_is_told_the_label_and_scored_with_and_without_the_pair(writer: Writer, cases: Cases) -> None:
    prompts = prover_prompts(cases.prompt, cases.label)
    assert prompts[:, -2:].tolist() == [[LABEL_A, PROVE]] * 6
    rows = Rows.of(prompts, cases.text)
    assert without_pair(rows).prompt.tolist() == [[PROVE]] * 6
    with torch.inference_mode():
        one = writer.log_p(rows.prompt[2:3], rows.text[2:3]).sum().item()
    assert log_likelihood(writer, rows)[2] == pytest.approx(one, abs=1e-4)
    scores = ratio_score(np.array([-2.0, -2.0]), np.array([-20.0, -4.0]))
    assert scores.tolist() == [-0.1, -0.5], "probable in context, improbable alone: the better proof"


def test_a_policy_keeps_the_best_proof_with_the_right_label(
    writer: Writer, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def scored(*args: object) -> np.ndarray:
        seen.append(str(args[4]))
        return np.full(len(cases), float(len(seen)))

    monkeypatch.setattr(proof_selection, "scored", scored)
    texts = [cases.text.copy() for _ in range(3)]
    for number, text in enumerate(texts):
        text[:, 0] = number
    texts[2][:3, -1] = LABEL_B  # the highest score, but it proves the other label

    class Fake:
        def __init__(self, text: np.ndarray) -> None:
            self.text = text

    queue = iter(texts)
    monkeypatch.setattr(proof_selection, "write", lambda *args: Fake(next(queue)))
    kept = proof_selection.selected(writer, cases, proof_selection.RATIO, 3, 0)
    assert kept[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert seen == [proof_selection.RATIO] * 3


def test_a_budget_is_kept_and_an_own_verdict_stands(
    writer: Writer, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(budget.forced(writer, cases, 0)) <= {LABEL_A, LABEL_B}

    class Fake:
        text = np.array([[3, LABEL_B, PAD]] * 6)

    monkeypatch.setattr(budget, "write", lambda *args: Fake())
    assert set(budget.forced(writer, cases, 3)) == {LABEL_B}


def test_rationales_of_any_length_keep_their_verdict() -> None:
    rows = budget.of_any_length(MICRO, 0, (0, 3, 6, 9))
    whole = both_orders(budget.pairs_of(MICRO, "human", MICRO.rationales, 0))
    lengths = (rows.text != PAD).sum(1).tolist()
    assert set(lengths) == {1, 4, 7, 10}
    for row, length in enumerate(lengths):
        text = rows.text[row, :length].tolist()
        assert text == [*whole.text[row, : length - 1], whole.label[row]]


@pytest.mark.parametrize("arm", rubrics.ARMS)
def test_true_texts_of_both_kinds_are_true_and_follow(arm: str) -> None:
    for cases in rubrics.mixed(MICRO, arm, "test", 400, 0, test=True):
        wide = rubrics.widened(cases, 20)
        found = check(wide, wide.text).means()
        assert (found["accuracy"], found["true"]) == (1.0, 1.0)
        assert found["follows"] == (0.0 if arm == rubrics.LABELS else 1.0)


def test_chat_asks_for_the_mark_and_then_for_the_first_digit() -> None:
    chat = rubrics.draw_chat(500, 3, False, np.random.default_rng(0))
    marks = [response[:, -1] == chat.wish for response in (chat.better, chat.worse)]
    topics = [response[:, 0] == chat.prompt[:, 0] for response in (chat.better, chat.worse)]
    decided = marks[0] & ~marks[1]
    assert (decided | ((marks[0] == marks[1]) & topics[0] & ~topics[1])).all()
    assert 0.4 < decided.mean() < 0.6
    assert (decided & ~topics[0] & topics[1]).any(), "the mark outweighs the digit"
    text = rubrics.chat_cases(chat, True, rubrics.FULL_CHAIN).text
    assert set(text[:, 0]) == {rubrics.CHAT}
    assert set(text[:, 1]) == {PLAIN_ID, STYLED_ID}
    assert set(text[:, [2, 3, 5, 6]].flatten()) == {GOOD, BAD}
    assert (text[:, 4] == chat.prompt[:, 0]).all()


def test_a_point_comes_before_its_checks() -> None:
    reasoning, _ = rubrics.mixed(MICRO, rubrics.FULL_CHAIN, "test", 40, 0)
    checks, _ = rubrics.mixed(MICRO, rubrics.CHECKS, "test", 40, 0)
    generic, _ = rubrics.mixed(MICRO, rubrics.RUBRIC, "test", 40, 0)
    assert set(reasoning.text[:, 0]) == {rubrics.REASONING}
    assert (reasoning.text[:, [1, 4, 7]] < 10).all()
    assert (np.delete(reasoning.text, [0, 1, 4, 7], axis=1) == checks.text).all()
    assert set(generic.text[:, 0]) == {rubrics.CORRECTNESS}
    assert (generic.text[:, 1:] == checks.text).all()


def test_continued_distillation_reads_as_many_texts_as_reinforcement_samples() -> None:
    setup = rlvr.SIZES["full"]
    plan, rewards = rlvr.continued(setup), setup.reinforcement
    assert plan.steps * plan.batch == rewards.steps * rewards.prompts * rewards.group
    assert len(rlvr.budget(rlvr.SIZES["micro"], 0)) == rlvr.SIZES["micro"].reinforcement.labels


def test_claims_about_arms_that_were_not_run_are_left_out() -> None:
    table = Table([Result(Unit("a", "p", seed), {"accuracy": 0.5 + seed}, 1.0) for seed in range(3)])
    ask = Differences(table, {("a", "p"): "A"}).ask
    figure, _ = new_figure(1, 1)
    claims = [Claim("one", "first", ask(("a", "p"), ("b", "p"))), Claim("two", "second", ask(("a", "p"), ("a", "p")))]
    report = reported("t", "q", claims, [], figure)
    assert list(report.families) == ["second"]
    assert report.verdicts == ["**Does not hold at this scale**: two."]
    with pytest.raises(ValueError, match="same heading"):
        reported("t", "q", [claims[1], claims[1]], [], figure)
