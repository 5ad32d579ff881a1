"""docs/trainers/trl.md: its programs are run, with a tiny model, tiny data and one step in place of what they name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.architecture.documents import code_blocks
from tests.support.bad_days import Served, Weather
from tests.support.tiny_policy import rows, tiny_policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trl

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_the_page_trains(
    service: Callable[[Weather], Served], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, processes, judge = code_blocks(root / "docs/trainers/trl.md", "python")
    served = service("healthy")
    model, tokenizer = tiny_policy()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    small: dict[str, Any] = {"max_steps": 1, "max_completion_length": 8, "use_cpu": True, "bf16": False}
    small |= {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    monkeypatch.setattr(trl, "GRPOConfig", functools.partial(trl.GRPOConfig, **small))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in (training, processes, judge):
        assert "http://127.0.0.1:8000" in block
        code = block.replace("http://127.0.0.1:8000", served.url).replace("Qwen/Qwen2.5-0.5B-Instruct", "model")
        exec(compile(code, "trl.md", "exec"), found)
    assert [entry for entry in found["trainer"].state.log_history if "rewards/gram/mean" in entry]
    assert found["reward"].group_size == 8
