"""The whole road of `verify`: figures, a service, its self-test, benchmarks, and what is said of the difference."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine
from service.judging.registry import get_family
from tests.support.serving import listening, options
from training.__main__ import command_line
from training.commands.verify import checked
from training.data.pairs import DataError
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.judges.base import EvaluationError
from training.evaluation.statistics import Interval
from training.evaluation.verify.comparison import _finding
from training.evaluation.verify.published import find, load_published
from training.evaluation.verify.run import verify
from training.evaluation.verify.self_test import QUESTIONS

RIGHT = "the right answer"
PUBLISHED = """
[[judge]]
names = ["Toy-1B"]
family = "gram"
counting = "two_orders"
source = "a made-up table"
note = "a made-up note"
[judge.figures.rm_bench]
"overall (mean of four domains)" = 99.0
chat = 10.0
[judge.figures.judgebench]
"macro (mean of four sections)" = 100.0
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both benchmarks, small, every right answer recognisable."""
    rows = [
        {
            "id": number,
            "domain": domain,
            "prompt": f"Question {number} of {domain}?",
            "chosen": [f"{RIGHT} {style}" for style in range(3)],
            "rejected": [f"another answer {style}" for style in range(3)],
        }
        for domain in ("chat", "math", "code", "safety-refuse")
        for number in range(3)
    ]
    (tmp_path / "rm_bench").mkdir()
    (tmp_path / "rm_bench" / "total_dataset.json").write_text(json.dumps(rows))
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    pairs = [
        {"pair_id": f"{source}-{n}", "source": source, "question": f"Question {n} of {source}?", "label": "A>B"}
        | {"response_A": f"{RIGHT} to {n}", "response_B": "another answer"}
        for source in sources
        for n in range(5)
    ]
    (tmp_path / "judgebench").mkdir()
    (tmp_path / "judgebench" / "gpt.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.setenv("GRAM_DATA_DIR", str(tmp_path))
    return tmp_path


def judging(right: bool, *, silent: bool = False) -> FakeEngine:
    """Knows the right answers and those of the plain questions; `right` says whether it tells."""
    good = [RIGHT, *(better for _, better, _ in QUESTIONS)]

    def logits(request: EngineRequest) -> list[float]:
        text = bytes(i for i in request.prompt_ids if i < 256).decode()
        before_second = text.rpartition("The Start of Assistant B")[0]
        first = any(f"Answer]\n{answer}" in before_second for answer in good)
        if silent:
            return [float("nan")] * 2
        return [4.0, 0.0] if first == right else [0.0, 4.0]

    return FakeEngine(options(label_logits=logits))


def arguments(*words: str) -> argparse.Namespace:
    return checked(command_line().parse_args(["verify", "--allow-changed", *words]))


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    path = tmp_path / "published.toml"
    path.write_text(PUBLISHED)
    return path


async def measured(engine: FakeEngine, figures: Path, output: Path, *words: str) -> tuple[dict[str, Any], str]:
    """What `verify` writes about a service on this engine: its JSON and its page."""
    overrides = {"judges": [{"name": "gram", "family": "gram"}]}
    failed: list[EvaluationError] = []
    async with listening(overrides, engine) as api:
        args = arguments(
            "--url", api.url, "--name", "toy-1b", "--published", str(figures), "--output", str(output), *words
        )
        try:
            await verify(args)
        except EvaluationError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return json.loads((output / "verify.json").read_text()), (output / "verify.md").read_text()


async def test_each_published_score_agrees_or_differs(data: Path, figures: Path, capsys: Any) -> None:
    found, page = await measured(judging(True), figures, data / "out")
    findings = {(line["benchmark"], line["score"]): line["finding"] for line in found["lines"]}
    assert findings["RM-Bench", "overall (mean of four domains)"] == "agrees"
    assert findings["RM-Bench", "chat"] == "differs"
    assert findings["RM-Bench", "hard"] == "not published"
    assert findings["JudgeBench (GPT-4o pairs)", "macro (mean of four sections)"] == "agrees"
    assert {line["measured"] for line in found["lines"]} == {1.0}
    assert all(line["low"] < line["measured"] for line in found["lines"])
    told = capsys.readouterr().out
    assert "Self-test: passed (8 of 8 plain questions judged rightly)" in told
    assert "2 of 3 published scores agree, 1 differ." in told
    assert "| RM-Bench | chat | 27 | 100.0 [" in page
    assert "**differs** by +90.0" in page
    assert "counted as **two orders, averaged**;" in page
    assert "a made-up table" in page
    assert "a made-up note" in page


async def test_a_judge_that_is_wrong_fails_its_self_test_first(data: Path, figures: Path) -> None:
    with pytest.raises(EvaluationError, match="0 of 8 plain questions"):
        await measured(judging(False), figures, data / "out")
    found, _ = await measured(judging(False), figures, data / "out", "--skip-self-test")
    assert {line["measured"] for line in found["lines"]} == {0.0}


async def test_a_judge_without_verdicts_says_so(data: Path, figures: Path) -> None:
    with pytest.raises(EvaluationError, match="non_finite_score"):
        await measured(judging(True, silent=True), figures, data / "out")
    _, page = await measured(judging(True, silent=True), figures, data / "out", "--skip-self-test")
    assert "100.0 % without a verdict (non_finite_score 108)" in page


async def test_a_trial_says_that_it_is_one(data: Path, figures: Path) -> None:
    _, page = await measured(judging(True), figures, data / "out", "--limit", "8")
    assert "A trial on about 8 pairs" in page


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_demo_judge_takes_the_whole_road(data: Path, capsys: Any) -> None:
    """The service in a process of its own, started from the checkpoint, and stopped."""
    args = arguments("--engine", "transformers", "--limit", "8", "--output", str(data / "out"))
    await verify(args)
    told = capsys.readouterr().out
    assert "Self-test: passed (the pair of its judge.json" in told
    assert "Nothing was compared" in told
    lines = json.loads((data / "out" / "verify.json").read_text())["lines"]
    assert {line["benchmark"] for line in lines} == {"RM-Bench", "JudgeBench (GPT-4o pairs)"}
    page = (data / "out" / "verify.md").read_text()
    assert "RM-Bench: **two orders, averaged**; JudgeBench (GPT-4o pairs): **both orders right**" in page
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", int(args.url.rpartition(":")[2]))


async def test_a_checkpoint_that_does_not_start_is_told_in_its_own_words(data: Path) -> None:
    args = arguments("--model", str(data / "nowhere"), "--engine", "transformers", "--output", str(data / "out"))
    with pytest.raises(EvaluationError, match="There is no model directory"):
        await verify(args)


async def test_missing_data_is_found_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAM_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError):
        await verify(arguments("--model", "/nowhere"))


# --- the figures ----------------------------------------------------------------------------------------------------


def scores_of(benchmark: str) -> Iterator[str]:
    yield from (rule.name for rule in BENCHMARKS[benchmark].rules([]))


def test_every_figure_is_of_a_score_that_is_measured_and_says_where_it_stands() -> None:
    rows = load_published()
    assert len(rows) >= 13
    for row in rows:
        get_family(row.family, row.template)
        assert "arXiv" in row.source or "github.com" in row.source
        for benchmark, figures in row.figures.items():
            assert set(figures) <= set(scores_of(benchmark))
    names = [name.lower() for row in rows for name in row.names]
    assert len(names) == len(set(names))


def test_overall_figures_follow_from_their_parts() -> None:
    """Means of four, to the rounding of a tenth: a mistyped part would show."""
    parts = {"rm_bench": ("chat", "math", "code", "safety"), "judgebench": ("knowledge", "reasoning", "math", "coding")}
    checked_rows = 0
    for row in load_published():
        for benchmark, names in parts.items():
            figures = row.figures.get(benchmark, {})
            if all(name in figures for name in names):
                overall = next(value for name, value in figures.items() if "mean of four" in name)
                assert sum(figures[name] for name in names) / 4 == pytest.approx(overall, abs=0.0011), row.name
                checked_rows += 1
    assert checked_rows >= 14


@pytest.mark.parametrize("name", ["NiuTrans/GRAM-Qwen3-8B-RewardModel", "/models/gram-qwen3-8b", "GRAM-QWEN3-8B/"])
def test_checkpoints_are_known_by_their_names(name: str) -> None:
    found = find(load_published(), name)
    assert found is not None
    assert found.name == "GRAM-Qwen3-8B"


def test_an_unknown_name_lists_the_known_ones(data: Path) -> None:
    with pytest.raises(EvaluationError, match="GRAM-Qwen3-14B"):
        asyncio.run(verify(arguments("--name", "nobody")))
    assert find(load_published(), "service/demo") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PUBLISHED.replace("two_orders", "twice"), "counting"),
        (PUBLISHED.replace("99.0", "990"), "figures.rm_bench"),
        (PUBLISHED.replace("rm_bench", "rm_bunch"), "figures.rm_bunch"),
        (PUBLISHED.replace("source", "sauce"), "sauce"),
        ("[[judge]]\nnames = [", "judge"),
    ],
)
def test_a_file_of_figures_that_is_wrong_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        load_published(path)


@pytest.mark.parametrize(
    ("published", "complete", "finding"),
    [
        (0.70, True, "agrees"),
        (0.6496, True, "agrees"),
        (0.64, True, "differs"),
        (0.81, True, "differs"),
        (0.70, False, "incomplete"),
        (None, True, "not published"),
    ],
)
def test_findings(published: float | None, complete: bool, finding: str) -> None:
    assert _finding(Interval(0.72, 0.65, 0.79, 100), published, complete=complete) == finding
