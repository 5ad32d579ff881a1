"""The studies' small judges: what they read, what they are trained with, what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from training.objectives.preference import best_margin
from training.studies.backbone import begin_from, derived_seed, next_digit_accuracy, pretrain, save_weights
from training.studies.fitting import (
    Batch,
    Plan,
    epochs_of,
    fit,
    fresh,
    reward_difference,
    smoothed_preference,
    stage_one,
)
from training.studies.judges import (
    ANSWER,
    LABEL_A,
    LABEL_B,
    PLAIN_ID,
    STYLED_ID,
    VOCABULARY,
    Judge,
    ScalarJudge,
    Shape,
    new_judge,
    prompt_ids,
    response_ids,
    stage_one_rows,
)
from training.studies.measures import both_orders, measure
from training.studies.tasks import NAMES, PairSet, Source, draw

TINY = Shape(width=16, layers=1, heads=2)


@pytest.fixture
def pairs() -> PairSet:
    return draw(Source(NAMES, flips=0.5), 40, np.random.default_rng(0))


def test_token_ids_spell_the_pair() -> None:
    one = draw(Source(("reverse",), style=1.0), 1, np.random.default_rng(1))
    digits = one.prompt[0].tolist()
    assert prompt_ids(one.task, one.prompt)[0].tolist() == [10 + NAMES.index("reverse"), *digits, ANSWER]
    assert response_ids(one.chosen)[0].tolist() == [*one.better[0].tolist(), STYLED_ID]
    assert response_ids(one.rejected)[0].tolist() == [*one.worse[0].tolist(), PLAIN_ID]


def test_the_label_logits_are_two_columns_of_the_full_vocabulary(pairs: PairSet) -> None:
    judge, batch = new_judge("generative", TINY, 0), Batch.of(pairs)
    seen: list[torch.Tensor] = []
    judge.body.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    odds = judge.log_odds(batch.prompt, batch.chosen, batch.rejected)
    full = judge.body(input_ids=seen[0]).logits[:, -1]
    assert full.shape == (40, VOCABULARY)
    assert torch.allclose(odds, full[:, LABEL_A] - full[:, LABEL_B], atol=1e-5)


def test_a_scalar_judge_is_the_same_in_both_orders(pairs: PairSet) -> None:
    first, second = both_orders(new_judge("scalar", TINY, 0), pairs)
    assert np.allclose(first, second, atol=1e-5)


def test_a_response_s_log_probability_is_that_of_the_library(pairs: PairSet) -> None:
    judge, batch = new_judge("scalar", TINY, 0), Batch.of(pairs)
    assert isinstance(judge, ScalarJudge)
    _, log_p = judge.rewards(batch.prompt, batch.chosen, batch.rejected)
    ids = torch.cat([batch.prompt, batch.chosen], dim=1)
    labels = ids.clone()
    labels[:, : batch.prompt.shape[1]] = -100
    loss = judge.body(input_ids=ids, labels=labels).loss
    assert -log_p[0].mean().item() / batch.chosen.shape[1] == pytest.approx(loss.item(), abs=1e-4)


def test_stage_one_learns_response_tokens_and_no_others(pairs: PairSet) -> None:
    batch = Batch.of(pairs)
    ids, at = stage_one_rows(batch.prompt, batch.chosen, batch.rejected)
    assert torch.equal(ids[:, at], torch.cat([batch.chosen, batch.rejected], dim=1))
    judge = new_judge("generative", TINY, 0)
    labels = torch.full_like(ids, -100)
    labels[:, at] = ids[:, at]
    loss = stage_one(judge, batch, torch.ones(len(pairs), dtype=torch.bool))
    assert loss.item() == pytest.approx(judge.body(input_ids=ids, labels=labels).loss.item(), abs=1e-5)


def test_the_shown_order_changes_the_question_and_not_the_label(pairs: PairSet) -> None:
    judge, batch = new_judge("generative", TINY, 0), Batch.of(pairs)
    loss = smoothed_preference(0.1)
    every = torch.ones(len(pairs), dtype=torch.bool)
    odds = judge.log_odds(batch.prompt, batch.rejected, batch.chosen)
    expected = (torch.nn.functional.softplus(odds) - 0.1 * odds).mean()
    assert loss(judge, batch, ~every).item() == pytest.approx(expected.item(), abs=1e-6)


def test_text_and_margin_change_the_scalar_loss_as_their_equations_say(pairs: PairSet) -> None:
    judge, batch = new_judge("scalar", TINY, 0), Batch.of(pairs)
    assert isinstance(judge, ScalarJudge)
    rewards, log_p = judge.rewards(batch.prompt, batch.chosen, batch.rejected)
    gap, shown = rewards[0] - rewards[1], torch.ones(len(pairs), dtype=torch.bool)
    softplus = torch.nn.functional.softplus
    assert torch.allclose(reward_difference()(judge, batch, shown), softplus(-gap).mean())
    margin = reward_difference(margin=0.5)(judge, batch, shown)
    assert torch.allclose(margin, softplus(0.5 * batch.gap - gap).mean())
    text = reward_difference(text_weight=0.01)(judge, batch, shown)
    assert torch.allclose(text, 0.99 * softplus(-gap).mean() + 0.01 * softplus(-0.1 * log_p[0]).mean())


def test_training_reaches_the_cap_of_the_smoothed_loss() -> None:
    """Always the same pair, so nothing but the objective decides where the margin ends: Delta* = log((1 - a)/a)."""
    one = draw(Source(("reverse",)), 1, np.random.default_rng(0))
    judge = new_judge("generative", TINY, 0)
    fit(judge, epochs_of(one, 4, 0), Plan(steps=250, batch=4), smoothed_preference(0.05), judge, 0)
    first, second = both_orders(judge, one)
    assert (first[0], second[0]) == (pytest.approx(best_margin(0.05), abs=0.05),) * 2


def test_equal_seeds_train_equal_judges(pairs: PairSet) -> None:
    def trained() -> dict[str, float]:
        judge = new_judge("generative", TINY, 1)
        fit(judge, epochs_of(pairs, 16, 2), Plan(steps=4, batch=16), smoothed_preference(0.0), judge, 3)
        return measure(judge, pairs)

    assert trained() == trained()


def test_a_frozen_transformer_stays_as_it_was(pairs: PairSet) -> None:
    judge = new_judge("scalar", TINY, 0)
    assert isinstance(judge, ScalarJudge)
    judge.body.requires_grad_(False)
    before = [parameter.clone() for parameter in judge.parameters()]
    fit(judge, epochs_of(pairs, 16, 0), Plan(steps=3, batch=16), reward_difference(), judge.head, 0)
    names = [name for name, _ in judge.named_parameters()]
    moved = [n for n, old, new in zip(names, before, judge.parameters(), strict=True) if not torch.equal(old, new)]
    assert moved == ["head.weight"]


def test_epochs_show_every_pair_once_before_any_twice(pairs: PairSet) -> None:
    batches: Iterator[Batch] = epochs_of(pairs.take(slice(24)), 16, 0)
    rows = [tuple(row) for _ in range(3) for row in next(batches).chosen.tolist()]
    all_rows = sorted(map(tuple, Batch.of(pairs.take(slice(24))).chosen.tolist()))
    assert sorted(rows[:24]) == all_rows == sorted(rows[24:])


def test_foreign_prompts_break_the_link_between_prompt_and_answer() -> None:
    source = Source(("increment",))
    plain, foreign = (next(fresh(source, 400, 0, foreign_prompts=broken)) for broken in (False, True))

    def right(batch: Batch) -> float:
        return float(((batch.prompt[:, 1:-1] + 1) % 10 == batch.chosen[:, :-1]).float().mean())

    assert right(plain) > 0.8
    assert right(foreign) < 0.2


class Known(Judge):
    """Log-odds that are given: better response first, then second."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__(TINY)
        self.answers = [torch.tensor(first), -torch.tensor(second)]

    def log_odds(self, prompt: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.answers.pop(0)


def test_measures_by_hand(pairs: PairSet) -> None:
    found = measure(Known([2.0, 1.0, -1.0, 1.0], [2.0, -3.0, -1.0, -1.0]), pairs.take(slice(4)))
    assert found["accuracy"] == pytest.approx((1 + 0 + 0 + 0.5) / 4), "right, outvoted, wrong, tie"
    assert found["one_order"] == pytest.approx(((1 + 1 + 0 + 1) / 4 + (1 + 0 + 0 + 0) / 4) / 2)
    assert found["inconsistency"] == pytest.approx(2 / 4)
    assert found["log_odds"] == pytest.approx((2 + 1 + 1 + 1 + 2 + 3 + 1 + 1) / 8)


def test_measures_ask_for_the_truth_and_not_the_label() -> None:
    pairs = draw(Source(NAMES, flips=1.0), 30, np.random.default_rng(0))
    judge = new_judge("generative", TINY, 0)
    assert measure(judge, pairs) == measure(judge, pairs.relabelled())


def test_certainty_stays_finite(pairs: PairSet) -> None:
    found = measure(Known([200.0] * 2, [200.0] * 2), pairs.take(slice(2)))
    assert found["accuracy"] == 1.0
    assert math.isfinite(found["ece"])


def test_saved_weights_come_back_whole(tmp_path, pairs: PairSet) -> None:
    path = tmp_path / "seed-0.safetensors"
    saved, loaded = new_judge("generative", TINY, 0), new_judge("generative", TINY, 1)
    save_weights(saved, path)
    begin_from(loaded, path)
    assert measure(loaded, pairs) == measure(saved, pairs)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_stage_one_says_how_well_it_writes(tmp_path) -> None:
    found = pretrain(TINY, Source(("increment",)), Plan(steps=2, batch=16), 0, tmp_path / "w.safetensors")
    assert set(found) == {"loss", "digits/accuracy"}
    assert (
        next_digit_accuracy(new_judge("generative", TINY, 0), draw(Source(NAMES), 50, np.random.default_rng(0))) < 0.4
    )


def test_seeds_are_the_same_everywhere_and_differ_by_purpose() -> None:
    assert derived_seed("weights", 0) == 204462564484703
    assert len({derived_seed(name, seed) for name in ("weights", "order", "test") for seed in range(5)}) == 15
