"""Where a response ends, and what an exam asks."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.padded import padded_log_probs
from tests.support.tiny_policy import QUESTIONS, ending_policy
from training.data.pairs import DataError
from training.evaluation.best_of_n.demo import check
from training.rlhf.policies import load, log_probs, spread, states, up_to_end, write
from training.rlhf.questions import exams, training_prompts


def test_a_response_ends_with_its_first_end_mark() -> None:
    written = torch.tensor([[5, 2, 0, 2], [2, 0, 0, 0], [5, 6, 7, 8], [5, 6, 7, 2]])
    assert up_to_end(written, 2).long().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def written_by_the_library(policy: Any, tokenizer: Any, prompts: list[str], greedy: bool, tokens: int) -> Tensor:
    """Prompts and responses by `generate`, [rows, tokens]."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    asked = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    how: dict[str, Any] = {} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    end, pad = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.pad_token_id
    found: Tensor = policy.generate(
        **asked, max_new_tokens=tokens, do_sample=not greedy, eos_token_id=end, pad_token_id=pad, **how
    )
    return found


@pytest.mark.parametrize("greedy", [True, False])
def test_what_is_written_is_what_the_library_writes(greedy: bool) -> None:
    """To the last token for one seed, though rows that have ended are not computed further."""
    policy, tokenizer = ending_policy()
    prompts = [f"{question} {'Why? ' * i}" for i in range(4) for question in QUESTIONS]
    torch.manual_seed(7)
    wanted = written_by_the_library(policy, tokenizer, prompts, greedy, 20)
    after = torch.rand(1)
    torch.manual_seed(7)
    samples, _ = write(policy, tokenizer, prompts, greedy=greedy, max_tokens=20)
    assert torch.equal(samples.ids, wanted)
    assert torch.equal(torch.rand(1), after), "the same draws were made"
    lengths = set(samples.mask.sum(1).tolist())
    assert len(lengths) > (1 if greedy else 3) and min(lengths) < 20


def test_without_padding_probabilities_and_gradients_are_the_same() -> None:
    policy, tokenizer = ending_policy()
    torch.manual_seed(1)
    samples, _ = write(policy, tokenizer, [*QUESTIONS, "And a longer one, with some words in it?"], max_tokens=12)
    weights = torch.randn(samples.mask.shape)
    found = {}
    for way in (padded_log_probs, log_probs):
        policy.zero_grad()
        values = way(policy, samples)
        (values * weights).sum().backward()
        gradients = torch.cat([tensor.grad.flatten() for tensor in policy.parameters() if tensor.grad is not None])
        found[way] = (values.detach(), gradients)
    (wanted, slope), (values, gradients) = found[padded_log_probs], found[log_probs]
    assert torch.allclose(values, wanted, atol=1e-4) and not values[~samples.mask].any()
    assert float((gradients - slope).norm()) < 1e-4 * float(slope.norm())
    assert float(slope.norm()) > 1.0


def test_states_are_of_the_tokens_that_the_mask_holds() -> None:
    policy, tokenizer = ending_policy()
    torch.manual_seed(2)
    samples, _ = write(policy, tokenizer, QUESTIONS, max_tokens=12)
    with torch.no_grad():
        held = states(policy.model, samples)
    assert len(held) == int(samples.mask.sum())
    numbers = torch.arange(1.0, len(held) + 1)
    placed = spread(numbers, samples.mask)
    assert placed[samples.mask].tolist() == numbers.tolist() and not placed[~samples.mask].any()


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
