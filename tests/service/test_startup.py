"""What stops a start, and how judges come out of settings and manifests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.app import build_app
from service.byte_tokenizer import byte_tokenizer
from service.engines.fake import FakeEngine
from service.errors import StartupError
from service.judging.registry import get_family
from service.manifest import JudgeEntry, Manifest, SelfTest
from service.scoring import Scorer
from service.settings import Settings, load_settings
from service.startup import build_judges, engine_fields, plan_judges, self_test
from tests.support.serving import options, settings_for

TEST = SelfTest("2 + 2 = ?", "4", "5", 0.6)
GRAM = JudgeEntry("demo", "gram", "eval", ("A", "B"), 1024, 0, TEST)
WRITER = JudgeEntry("demo-r2", "gram_r2", "release", ("A", "B"), 1000, 256, TEST)
TUNED = replace(GRAM, name="tuned", adapter="adapters/tuned")
SCALAR = JudgeEntry("head", "scalar", "chat", (), 1024, 0)


def vllm_settings(**more: Any) -> Settings:
    return load_settings(None, {"engine": {"type": "vllm", "model": "/models/judge"}} | more)


async def judges_of(entries: tuple[JudgeEntry, ...], engine: FakeEngine | None = None) -> Scorer:
    plans = plan_judges(vllm_settings(), Manifest("v1", entries))
    engine = engine or FakeEngine(options(adapters={"tuned": "x"}))
    await engine.start()
    scorer = Scorer(await build_judges(plans, engine, byte_tokenizer()))
    await self_test(scorer, plans)
    return scorer


def favouring(right: str) -> FakeEngine:
    """Prefers the response `right`, wherever it is shown."""

    def logits(request: Any) -> list[float]:
        text = bytes(i for i in request.prompt_ids if i < 256).decode()
        shown_first = text.index(f"Answer]\n{right}\n") < text.rindex("The Start of Assistant B")
        return [4.0, 0.0] if shown_first else [0.0, 4.0]

    return FakeEngine(options(label_logits=logits))


async def test_a_manifest_makes_its_judges() -> None:
    scorer = await judges_of((replace(GRAM, self_test=None), replace(TUNED, self_test=None), WRITER_QUIET))
    demo, tuned, writer = scorer.judges.values()
    assert (demo.max_prompt_tokens, demo.max_rationale_tokens, demo.adapter) == (1024, 0, None)
    assert (tuned.adapter, tuned.version.weight_version) == ("tuned", "fake-1+x")
    assert (writer.max_prompt_tokens, writer.max_rationale_tokens, writer.writes_rationale) == (1000, 256, True)
    assert demo.label_ids == (65, 66)


WRITER_QUIET = replace(WRITER, self_test=None)


async def test_a_judge_that_gets_its_pair_right_starts() -> None:
    assert list((await judges_of((GRAM,), favouring("4"))).judges) == ["demo"]


async def test_a_judge_that_gets_its_pair_wrong_does_not_start() -> None:
    with pytest.raises(StartupError, match=r"self-test with p = 0\.018"):
        await judges_of((GRAM,), favouring("5"))


@pytest.mark.parametrize("fault", ["nan", "abort"])
async def test_a_judge_without_an_answer_does_not_start(fault: Any) -> None:
    with pytest.raises(StartupError, match="failed the self-test"):
        await judges_of((GRAM,), FakeEngine(options(fault=fault)))


async def test_labels_that_are_not_one_token_stop_the_start() -> None:
    with pytest.raises(StartupError, match="'yes' as a single token"):
        await judges_of((replace(GRAM, labels=("yes", "no")),))


async def test_a_rationale_that_leaves_no_room_stops_the_start() -> None:
    with pytest.raises(StartupError, match="lower its max_rationale_tokens"):
        await judges_of((replace(WRITER, max_rationale_tokens=32_760),))


@pytest.mark.parametrize(
    "entry",
    [
        replace(GRAM, family="gran"),
        replace(GRAM, template="other"),
        replace(SCALAR, labels=("A", "B")),
        replace(GRAM, labels=()),
        replace(WRITER, labels=("1", "2")),
    ],
)
def test_manifests_that_make_no_sense_are_refused(entry: JudgeEntry) -> None:
    with pytest.raises(StartupError):
        plan_judges(vllm_settings(), Manifest("v1", (entry,)))


def test_configured_judges_replace_the_manifests_and_borrow_its_limits() -> None:
    settings = vllm_settings(
        judges=[{"name": "mine", "family": "gram", "min_label_mass": 0.5}, {"name": "r", "family": "rm_r1"}]
    )
    mine, other = plan_judges(settings, Manifest("v1", (GRAM, WRITER)))
    assert (mine.name, mine.max_prompt_tokens, mine.self_test, mine.min_label_mass) == ("mine", 1024, TEST, 0.5)
    assert (other.name, other.max_prompt_tokens, other.self_test) == ("r", None, None)


def test_engine_options_follow_from_judges_and_manifest() -> None:
    settings = vllm_settings()
    manifest = Manifest("v7", (GRAM, TUNED))
    fields = engine_fields(settings, plan_judges(settings, manifest), manifest)
    assert fields["weight_version"] == "v7"
    assert fields["adapters"] == {"tuned": "/models/judge/adapters/tuned"}
    assert "runner" not in fields
    scalar = Manifest("v1", (SCALAR,))
    assert engine_fields(settings, plan_judges(settings, scalar), scalar)["runner"] == "pooling"
    mixed = Manifest("v1", (GRAM, SCALAR))
    with pytest.raises(StartupError, match="not both"):
        engine_fields(settings, plan_judges(settings, mixed), mixed)


def test_a_remote_key_is_handed_on() -> None:
    remote = {"type": "remote", "urls": ["http://x"], "api_key": "k" * 20}
    settings = load_settings(None, {"engine": remote})
    assert engine_fields(settings, [], None)["api_key"] == "k" * 20


@pytest.mark.slow
def test_light_engines_load_no_model_library(root: Path) -> None:
    """vLLM takes 8 seconds to import and a GPU to please; the fake and remote engines need neither."""
    code = (
        "import sys, service.app, service.engines.fake, service.engines.remote\n"
        "assert 'vllm' not in sys.modules and 'service.engines.vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


async def test_a_store_that_cannot_open_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = build_app(settings_for({"store": {"type": "sqlite", "path": str(tmp_path / "file" / "rewards.sqlite")}}))
    with pytest.raises(StartupError):
        async with app.router.lifespan_context(app):
            pass


def test_every_family_has_a_plan_on_the_fake_engine() -> None:
    plans = plan_judges(settings_for(), None)
    assert [plan.family for plan in plans] == [get_family(f) for f in ("gram", "gram_r2", "rm_r1", "scalar")]


def test_the_judge_of_trainers_formats_must_be_there() -> None:
    assert plan_judges(settings_for({"compat": {"judge": "gram"}}), None)[0].name == "gram"
    with pytest.raises(StartupError, match=r"compat\.judge names no judge.*gram"):
        plan_judges(settings_for({"compat": {"judge": "grammar"}}), None)
