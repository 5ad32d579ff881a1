"""vLLM's own norm kernels against its plain PyTorch, in the shapes that models use them in."""

from __future__ import annotations

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform

from service.engines.cpu_kernels import CpuRMSNorm

pytestmark = [
    pytest.mark.slow,  # imports vLLM
    pytest.mark.skipif(not current_platform.is_cpu(), reason="needs the CPU build of vLLM"),
]

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-2}
"""bfloat16 has 8 bits; the plain form rounds once more, before the weight."""


def norm(width: int, dtype: torch.dtype) -> CpuRMSNorm:
    current_platform.import_kernels()
    with set_current_vllm_config(VllmConfig()):
        layer = RMSNorm(width, dtype=dtype)
    layer.weight.data = torch.rand(width, dtype=dtype) + 0.5
    return layer


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(1)
    return request.param


def test_vllm_builds_ours(dtype: torch.dtype) -> None:
    assert isinstance(norm(64, dtype), CpuRMSNorm)


@pytest.mark.parametrize("width", [24, 64, 256])
def test_it_is_the_same_norm(width: int, dtype: torch.dtype) -> None:
    """24 does not fill a vector: that one must come from the plain form."""
    layer, x = norm(width, dtype), torch.randn(7, width, dtype=dtype)
    torch.testing.assert_close(layer.forward_cpu(x), layer.forward_native(x), rtol=0, atol=TOLERANCE[dtype])


def test_heads_are_strided(dtype: torch.dtype) -> None:
    qkv = torch.randn(5, 3 * 128, dtype=dtype)
    heads = qkv[:, 128:256].view(5, 2, 64)
    layer = norm(64, dtype)
    torch.testing.assert_close(layer.forward_cpu(heads), layer.forward_native(heads), rtol=0, atol=TOLERANCE[dtype])


def test_residual_is_added_first_and_returned(dtype: torch.dtype) -> None:
    layer, x, residual = norm(64, dtype), torch.randn(5, 64, dtype=dtype), torch.randn(5, 64, dtype=dtype)
    expected, expected_sum = layer.forward_native(x.clone(), residual.clone())
    out, summed = layer.forward_cpu(x.clone(), residual.clone())
    torch.testing.assert_close(summed, expected_sum, rtol=0, atol=0)
    torch.testing.assert_close(out, expected, rtol=0, atol=TOLERANCE[dtype])


def test_a_row_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    layer, x = norm(256, dtype), torch.randn(100, 256, dtype=dtype)
    together = layer.forward_cpu(x)
    for i in (0, 1, 50, 99):
        assert torch.equal(layer.forward_cpu(x[i : i + 1]), together[i : i + 1])
