"""Reading two logits at one position must be the usual forward's numbers, with the usual gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.support.tiny_training import SHAPE, TOKENIZER
from training.configs import LoraSection, ScratchSection
from training.data.pairs import DataError
from training.stages import reading
from training.stages.models import scratch_model, with_adapters
from training.stages.reading import Wanted, make_readable

IDS = torch.randint(5, 2000, (3, 11), generator=torch.Generator().manual_seed(7))
MASK = torch.ones_like(IDS)
ROWS, COLUMNS = torch.tensor([0, 1, 2]), torch.tensor([10, 4, 8])


@pytest.fixture
def model() -> Any:
    torch.manual_seed(3)
    made = scratch_model(ScratchSection.model_validate(SHAPE), AutoTokenizer.from_pretrained(TOKENIZER))
    make_readable(made)
    return made.double()


def test_two_logits_are_those_of_the_whole_vocabulary(model: Any) -> None:
    tokens = torch.tensor([35, 36])
    two, whole = model(
        input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS, tokens), Wanted(ROWS, COLUMNS)]
    )
    usual = model(input_ids=IDS, attention_mask=MASK).logits[ROWS, COLUMNS]
    torch.testing.assert_close(whole, usual)
    torch.testing.assert_close(two, usual[:, tokens])


def test_their_gradient_is_that_of_the_whole_vocabulary(model: Any) -> None:
    tokens = torch.tensor([35, 36])
    gradients = []
    for full in (False, True):
        model.zero_grad()
        if full:
            two = model(input_ids=IDS, attention_mask=MASK).logits[ROWS, COLUMNS][:, tokens]
        else:
            (two,) = model(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS, tokens)])
        two.diff(dim=1).sigmoid().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_losses_of_targets_in_chunks_are_those_of_one_piece(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(3).repeat_interleave(10)
    columns = torch.arange(10).repeat(3)
    targets = IDS[rows, columns + 1]
    usual = torch.nn.functional.cross_entropy(
        model(input_ids=IDS, attention_mask=MASK).logits[rows, columns], targets, reduction="none"
    )
    expected = torch.autograd.grad(usual.sum(), model.lm_head.weight)[0]
    monkeypatch.setattr(reading, "CHUNK", 7)
    (losses,) = model(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(rows, columns, targets=targets)])
    torch.testing.assert_close(losses.double(), usual, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad(losses.sum(), model.lm_head.weight)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_padding_on_the_right_changes_nothing(model: Any) -> None:
    padded = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.long)], 1)
    mask = torch.cat([MASK, torch.zeros(3, 4, dtype=torch.long)], 1)
    (alone,) = model(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS)])
    (beside,) = model(input_ids=padded, attention_mask=mask, wanted=[Wanted(ROWS, COLUMNS)])
    torch.testing.assert_close(alone, beside)


def test_adapters_and_tied_weights_stay_what_they_were(model: Any) -> None:
    assert model.lm_head.weight is model.model.embed_tokens.weight
    (before,) = model(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS)])
    adapted = with_adapters(model, LoraSection(rank=2))
    (after,) = adapted(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS)])
    torch.testing.assert_close(before, after)
    assert {n.split(".")[-3] for n, p in adapted.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"} or all(
        "lora_" in n for n, p in adapted.named_parameters() if p.requires_grad
    )


def test_another_architecture_is_read_alike() -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=2000, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    usual = gpt2(input_ids=IDS, attention_mask=MASK).logits[ROWS, COLUMNS]
    make_readable(gpt2)
    (read,) = gpt2(input_ids=IDS, attention_mask=MASK, wanted=[Wanted(ROWS, COLUMNS)])
    torch.testing.assert_close(read, usual)


def test_models_that_change_their_logits_are_refused(model: Any) -> None:
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(DataError, match="final_logit_softcapping"):
        make_readable(model)
