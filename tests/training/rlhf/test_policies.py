"""Where a response ends, and what an exam asks."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from training.data.pairs import DataError
from training.evaluation.best_of_n.demo import check
from training.rlhf.policies import load, up_to_end
from training.rlhf.questions import exams, training_prompts


def test_a_response_ends_with_its_first_end_mark() -> None:
    written = torch.tensor([[5, 2, 0, 2], [2, 0, 0, 0], [5, 6, 7, 8], [5, 6, 7, 2]])
    assert up_to_end(written, 2).long().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_exams_share_no_question_with_each_other_or_with_training() -> None:
    validation, test = exams(40, 60)
    assert len(validation.prompts) == 40 and len(test.prompts) == len(test.answers) == 60
    asked = {*validation.prompts, *test.prompts}
    assert len(asked) == 100
    drawn = list(islice(training_prompts(0, frozenset(asked)), 2_000))
    assert not asked & set(drawn)
    assert asked & set(islice(training_prompts(0, frozenset()), 20_000)), "without the rule some would be met"
    assert drawn == list(islice(training_prompts(0, frozenset(asked)), 2_000))
    assert drawn != list(islice(training_prompts(1, frozenset(asked)), 2_000))
    assert all(check(answer, answer) == 1.0 for answer in test.answers)


def test_a_policy_that_is_not_there_is_named(tmp_path: object) -> None:
    with pytest.raises(DataError, match="no policy can be loaded"):
        load(f"{tmp_path}/nothing")
