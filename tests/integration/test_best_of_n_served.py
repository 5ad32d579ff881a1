"""Best-of-n and the judge report over HTTP: a policy on vLLM's own OpenAI server, proxy and oracle on the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers import READY_S, running_service, start_openai_server
from tests.support.tiny_training import TOKENIZER, pairs
from training.data.pairs import write_pairs

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(500)]

N = 4
KEY = "a-key-of-the-policy"


def _run(*words: str) -> str:
    command = [sys.executable, "-m", "training", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_samples_judge_and_oracle_each_from_a_server(tmp_path: Path) -> None:
    """The demo judge writes what it can: what is tested is the road, from sampling settings to curves."""
    prompts, labelled, key = tmp_path / "prompts.jsonl", tmp_path / "pairs.jsonl", tmp_path / "key"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {word}."}) + "\n" for word in ("red", "cold")))
    write_pairs(labelled, pairs(12))
    key.write_text(KEY + "\n")
    flags = ["--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", "200000000", "--max-model-len", "1024"]
    environment = {"GRAM_ENGINE__TYPE": "fake", "GRAM_STORE__TYPE": "memory"}
    with (
        running_service(environment) as judge,
        start_openai_server(TOKENIZER, [*flags, "--api-key", KEY], {"TORCHDYNAMO_DISABLE": "1"}) as policy,
    ):
        _run("judge-report", str(labelled), "--url", judge.url, "--output", str(tmp_path / "report"), "--price", "2")
        policy.wait("/health", READY_S)
        words = ["--policy-url", f"{policy.url}/v1", "--policy-key-file", str(key), "--n", str(N), "--max-tokens", "12"]
        words += [
            "--url",
            judge.url,
            "--oracle-url",
            judge.url,
            "--plans",
            "linear",
            "--output",
            str(tmp_path / "study"),
        ]
        _run("best-of-n", "--prompts", str(prompts), *words)
    _check_study(tmp_path / "study")
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert "1,000 comparisons" in (tmp_path / "report" / "report.md").read_text("utf-8")
    assert report["spent"]["pairs"] == 12


def _check_study(folder: Path) -> None:
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert len(samples) == 2
    for row in samples:
        assert len(row["responses"]) == N
        assert isinstance(row["reference"], str)
    assert (folder / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "best_of_n.json").read_text("utf-8"))
