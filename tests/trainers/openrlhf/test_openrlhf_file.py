"""The reward file that OpenRLHF loads in place of a URL, by OpenRLHF's own rollout client: `make test-trainers`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.openrlhf_clients import run
from benchmarks.rollouts import Job, Rollout
from tests.support.bad_days import UNJUDGEABLE, WEATHERS, Served, Weather, patience_s
from tests.support.policy_templates import POLICIES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
LOGS = {"ok", "consistent", "flagged", "normalized", "margin"}


def file_of_the_page(root: Path) -> str:
    """What the page's own command prints."""
    page = (root / "docs/trainers/openrlhf.md").read_text(encoding="utf-8")
    (code,) = [line.split("'")[1] for line in page.splitlines() if "adapters.openrlhf_reward as f" in line]
    paths = {"PYTHONPATH": f"{root}:{root / 'client'}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("weather", WEATHERS)
async def test_the_file(
    service: Callable[[Weather], Served],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weather: Weather,
) -> None:
    monkeypatch.setenv("GRAM_CLIENT_URL", service(weather).url)
    policy = POLICIES["chatml"]
    question = UNJUDGEABLE if weather == "failed item" else "What is 7 + 5?"
    prompt = policy.render([{"role": "user", "content": question}])
    rollouts = [Rollout(prompt, f"answer {number}{policy.end}", "It is 13.") for number in range(3)]
    path = file_of_the_page(root)
    assert path.endswith(".py")
    if weather in ("overloaded", "killed"):
        path = str(impatient(Path(path), patience_s(weather), tmp_path))
    found, _ = await run(Job([path], rollouts, clients=3))
    good = weather in ("healthy", "slow")
    for one in found:
        assert set(one.extra_logs) == LOGS
        assert one.extra_logs["ok"] == [float(good)]
        assert good or (one.reward, one.scores) == ([0.5], [0.5])
    assert not good or len({tuple(one.reward) for one in found}) == 3


def impatient(path: Path, timeout_s: float, folder: Path) -> Path:
    """The same file with a shorter deadline."""
    text = path.read_text(encoding="utf-8")
    assert "timeout_s: float = 150.0" in text
    made = folder / "impatient_reward.py"
    made.write_text(text.replace("timeout_s: float = 150.0", f"timeout_s: float = {timeout_s}"), encoding="utf-8")
    return made
