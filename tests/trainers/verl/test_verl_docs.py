"""docs/trainers/verl.md: its flags are composed by verl's own configuration, and what they name is loaded and used."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from verl.trainer.ppo.reward import load_reward_manager

from tests.architecture.documents import code_blocks
from tests.support.bad_days import Served, Weather
from tests.support.tiny_tokenizer import tiny_tokenizer
from tests.trainers.verl.test_verl import data


def commands(root: Path) -> list[list[str]]:
    blocks = code_blocks(root / "docs/trainers/verl.md", "sh")
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


@pytest.mark.parametrize("number", [0, 1])
def test_the_flags_of_the_page(service: Callable[[Weather], Served], root: Path, number: int) -> None:
    words = commands(root)[number]
    assert words[:3] == ["python3", "-m", "verl.trainer.main_ppo"]
    url = service("healthy").url
    flags = [word.replace("http://127.0.0.1:8000", url) for word in words[3:]]
    with initialize_config_dir(str(files("verl") / "trainer/config"), version_base=None):
        config = compose("ppo_trainer", overrides=flags)
    batch = data(["5", "6", "7", "8", "9", "10", "11", "12"], **({"reference": "five"} if number else {}))

    async def run() -> list[dict[str, Any]]:
        manager = load_reward_manager(config, tiny_tokenizer())
        return await asyncio.gather(*(manager.run_single(batch[i : i + 1]) for i in range(len(batch))))

    results = asyncio.run(run())
    assert [result["reward_extra_info"]["ok"] for result in results] == [1.0] * 8
    if number == 0:
        assert sum(result["reward_score"] for result in results) == pytest.approx(4.0)
