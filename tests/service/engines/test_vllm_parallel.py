"""Several GPUs, several hosts: vLLM's own options, from the configuration to vLLM's engine arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from service.engines.vllm import VllmOptions, engine_arguments
from service.settings import load_settings
from service.startup import engine_fields, load_manifest, plan_judges

pytestmark = pytest.mark.slow  # importing vLLM


def arguments_of(text: str, folder: Path) -> AsyncEngineArgs:
    (folder / "service.toml").write_text(f"[engine]\n{text}\n")
    settings = load_settings(folder / "service.toml")
    manifest = load_manifest(settings)
    fields = engine_fields(settings, plan_judges(settings, manifest), manifest)
    return AsyncEngineArgs(**engine_arguments(VllmOptions(**fields)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tensor_parallel_size = 4", {"tensor_parallel_size": 4, "pipeline_parallel_size": 1}),
        ("pipeline_parallel_size = 2", {"tensor_parallel_size": 1, "pipeline_parallel_size": 2}),
        ("data_parallel_size = 8", {"data_parallel_size": 8, "data_parallel_backend": "mp"}),
        (
            'pipeline_parallel_size = 2\nextra = {distributed_executor_backend = "ray"}',
            {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"},
        ),
        (
            'tensor_parallel_size = 16\nextra = {nnodes = 2, node_rank = 0, master_addr = "10.0.0.1"}',
            {"tensor_parallel_size": 16, "nnodes": 2, "node_rank": 0, "master_addr": "10.0.0.1"},
        ),
        ('data_parallel_size = 2\nextra = {data_parallel_backend = "ray"}', {"data_parallel_backend": "ray"}),
        ("trust_remote_code = true", {"trust_remote_code": True, "load_format": "safetensors"}),
        ("", {"trust_remote_code": False, "data_parallel_size": 1, "nnodes": 1}),
    ],
)
def test_options_reach_vllm(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    with mock.patch.dict(os.environ):  # on a CPU, the plan for its threads is put there
        made = arguments_of(text, tmp_path)
    assert {name: getattr(made, name) for name in expected} == expected
