"""The shared prefix is exact: hidden states and gradients of the plain forward pass over whole rows."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.support.tiny_training import SHAPE
from training.stages.shared_prefix import hidden_after_prefix


def test_it_equals_the_plain_forward_and_its_gradient() -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, vocab_size=50, tie_word_embeddings=True)).double()
    prefix = torch.randint(1, 50, (23,))
    suffixes = torch.randint(1, 50, (3, 9))
    suffixes[1, 6:] = 0  # padding, behind everything that is read
    at, last = torch.arange(3), torch.tensor([8, 5, 8])

    shared = hidden_after_prefix(model, prefix, suffixes)[at, last]
    shared.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    whole = torch.cat([prefix.expand(3, -1), suffixes], 1)
    plain = model.model(input_ids=whole).last_hidden_state[at, last + len(prefix)]
    plain.square().sum().backward()

    torch.testing.assert_close(shared, plain)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
