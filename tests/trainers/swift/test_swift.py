"""ms-swift's own plugin loader, reward computation and advantages."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from swift.rewards import orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func
from swift.utils import get_logger
from swift.utils.utils import import_external_file

from gram_client.adapters.judging import Judging
from tests.support.bad_days import UNJUDGEABLE, WEATHERS, Served, Weather, patience_s

Start = Callable[[Weather], Served]
ANSWERS = ("5", "6", "7")


def samples(question: str, **extra: Any) -> list[GRPOSample]:
    chats = [[{"role": "user", "content": question}, {"role": "assistant", "content": text}] for text in ANSWERS]
    return [GRPOSample(messages=chat, extra={"prompt_id": question, **extra}) for chat in chats]


def reward(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reward as ``--external_plugins gram_plugin.py --reward_funcs gram`` makes it."""
    monkeypatch.setenv("GRAM_CLIENT_URL", served.url)
    plugin = tmp_path / "gram_plugin.py"
    plugin.write_text("import gram_client.adapters.swift\n")
    import_external_file(str(plugin))
    return orms["gram"]()


@pytest.mark.parametrize("weather", WEATHERS)
def test_one_bad_group_and_one_good(
    service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weather: Weather
) -> None:
    function = reward(service(weather), tmp_path, monkeypatch)
    monkeypatch.setattr(type(function), "judging", Judging(timeout_s=patience_s(weather)))
    asked = samples("What is 2 + 3?") + samples(UNJUDGEABLE if weather == "failed item" else "Say five.")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    get_logger().addHandler(handler)
    found = compute_rewards_per_func(asked, [function], [None], torch.device("cpu"))[:, 0].tolist()
    get_logger().removeHandler(handler)
    if weather in ("healthy", "slow"):
        assert sum(found[:3]) == pytest.approx(1.5)
        assert sum(found[3:]) == pytest.approx(1.5)
        return
    failed = found[3:] if weather == "failed item" else found
    assert all(math.isnan(value) for value in failed)
    assert len(failed) == 6 or sum(found[:3]) == pytest.approx(1.5)
    assert [record for record in records if "have no reward" in record.getMessage()], "said in ms-swift's own log"


def test_a_new_event_loop_each_step(service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ms-swift runs every step's rewards in an asyncio.run of their own."""
    function = reward(service("healthy"), tmp_path, monkeypatch)
    steps = [compute_rewards_per_func(samples("Again?"), [function], [None], torch.device("cpu")) for _ in range(3)]
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[1], steps[2])


def test_references_and_one_failure_that_fails_its_group(
    service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAM_CLIENT_REFERENCE_COLUMN", "solution")
    function = reward(service("healthy"), tmp_path, monkeypatch)
    good = samples("What is 2 + 3?", solution="five")
    bad = samples("Name a colour.", solution="blue")
    bad[1].messages[-1]["content"] = "  "
    found = compute_rewards_per_func([*good, *bad], [function], [None], torch.device("cpu"))[:, 0]
    assert torch.isfinite(found[:3]).all()
    assert torch.isnan(found[3:]).all()
