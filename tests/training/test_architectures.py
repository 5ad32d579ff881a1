"""Every backbone is built by the library itself on the meta device, where a tensor has a shape and no memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from training.architectures import Architecture, architectures

TOKENS = 250
"""A number that is no dimension of any backbone, so that tensors with a token dimension can be told from weights."""

GRAM = ("llama-3.2-3b", "llama-3.1-8b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b")
RM_R1 = ("qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b", "r1-distill-qwen-7b", "r1-distill-qwen-14b", "r1-distill-qwen-32b")
NAMES = GRAM + RM_R1


def _flash(_module: Any, q: Any, k: Any, v: Any, _mask: Any, scaling: float | None = None, **_: Any) -> Any:
    """Attention by PyTorch's own flash kernel, whose meta version keeps what the real one keeps."""
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False, scale=scaling)[0]
    return out.transpose(1, 2).contiguous(), None


def _on_meta(shape: Architecture, **changes: int) -> Any:
    AttentionInterface.register("meta_kernel", _flash)
    config = AutoConfig.for_model(**shape.config() | changes)
    config._attn_implementation = "meta_kernel"
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def _kept_for_backward(model: Any) -> int:
    """Bytes that autograd keeps of a forward pass through the layers, each storage once, weights left out."""
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if TOKENS in tensor.shape and not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model.model(input_ids=torch.zeros((1, TOKENS), dtype=torch.long, device="meta"), use_cache=False)
        total = sum(storage.nbytes() for storage in kept.values())
        del out
    return total


def test_the_table_holds_the_published_backbones() -> None:
    assert tuple(architectures()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_library_and_of_the_model_card(name: str) -> None:
    shape = architectures()[name]
    model = _on_meta(shape)
    assert shape.parameter_count == sum(p.numel() for p in model.parameters())
    assert shape.layer_parameters == sum(p.numel() for p in model.model.layers[0].parameters())
    assert shape.parameter_count == pytest.approx(shape.parameters * 1e9, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_what_autograd_keeps(name: str) -> None:
    """Two depths: their difference is one layer, without what stands before and behind the layers."""
    shape = architectures()[name]
    one, two = (_kept_for_backward(_on_meta(shape, num_hidden_layers=depth)) for depth in (1, 2))
    assert (two - one) / TOKENS == pytest.approx(shape.layer_activation_bytes, rel=1e-3)


def test_a_token_costs_two_operations_for_each_weight_it_meets() -> None:
    shape = architectures()["llama-3.1-8b"]
    matrices = 2 * (shape.parameter_count - shape.vocabulary_matrix)
    assert shape.forward_flop(0, with_head=True) == pytest.approx(matrices, rel=1e-3)
    assert shape.forward_flop(0, with_head=True) > shape.forward_flop(0, with_head=False)
    causal = shape.forward_flop(2048, with_head=False) - shape.forward_flop(0, with_head=False)
    assert causal == 32 * 4 * 4096 * 2048 / 2
