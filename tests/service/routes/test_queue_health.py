"""A judge with known faults: position bias, flips and a love of long answers, which must show with sign and size."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, decode_bytes
from tests.support.serving import Api, options, serving, until

ANSWER = re.compile(r"\[The Start of Assistant ([AB])'s Answer\]\n(.*?)\n\[The End", re.DOTALL)
BIAS, PER_E_FOLD = 0.8, 1.5
KEYS = {"position_bias", "flip_rate", "label_mass", "flagged", "length_slope", "drift", "comparisons"}


def biased_logits(request: EngineRequest) -> tuple[float, float]:
    """The first place is worth `BIAS` nats, and each factor e of length `PER_E_FOLD` nats."""
    shown = dict(ANSWER.findall(decode_bytes(request.prompt_ids)))
    if not shown:  # the read behind a rationale
        return BIAS, 0.0
    length = {letter: math.log(len(text) + 1) for letter, text in shown.items()}
    return BIAS + PER_E_FOLD * (length["A"] - length["B"]), 0.0


@asynccontextmanager
async def biased(**health: Any) -> AsyncIterator[Api]:
    engine = FakeEngine(options(label_logits=biased_logits))
    async with serving({"score_health": health}, engine) as api:
        yield api


def items(lengths: list[tuple[int, int]]) -> list[dict[str, str]]:
    """Reference items with responses of these lengths; letters differ, so that equal lengths are not equal texts."""
    return [{"prompt": f"Q{i}", "response": "r" * n, "reference": "s" * m} for i, (n, m) in enumerate(lengths)]


async def score(api: Api, sent: Any, queue: str | None = "run", **more: Any) -> None:
    wanted = {} if queue is None else {"normalize": {"queue": queue, **more}}
    reply = await api.post("/score", {"judge": "gram", **sent, **wanted})
    assert reply.status_code == 200, reply.text


async def health(api: Api, queue: str = "run") -> dict[str, Any]:
    (found,) = (await api.client.get(f"/queues/{queue}")).json()["queues"]
    assert set(found["health"]) == KEYS
    figures: dict[str, Any] = found["health"]
    return figures


async def test_a_biased_judge_is_found_out() -> None:
    lengths = [(n, 20) for n in (5, 10, 18, 20, 22, 30, 40, 60, 80, 200)]
    async with biased() as api:
        await score(api, {"items": items(lengths)})
        found = await health(api)
    # An order's log-odds are bias +- slope * log ratio: it flips where the bias outweighs the lead
    flips = sum(abs(PER_E_FOLD * math.log((n + 1) / (m + 1))) < BIAS for n, m in lengths)
    assert found["comparisons"] == 10
    assert found["position_bias"]["mean"] == pytest.approx(BIAS)
    assert found["position_bias"]["stderr"] == pytest.approx(0.0, abs=1e-6)
    assert found["flip_rate"]["value"] == flips / 10
    assert 0 < flips < 10
    assert found["flip_rate"]["low"] < flips / 10 < found["flip_rate"]["high"]
    assert found["length_slope"]["value"] == pytest.approx(PER_E_FOLD)
    assert found["length_slope"]["stderr"] == pytest.approx(0.0, abs=1e-6)
    assert 0.9 < found["label_mass"]["min"] <= found["label_mass"]["mean"] < 1.0
    assert found["flagged"] == {"share": 0.1, "by_code": {"repeated_text": 0.1}}  # the longest one


async def test_a_group_shows_the_same_faults() -> None:
    async with biased() as api:
        responses = ["g" * n for n in (3, 9, 27, 81, 243)]
        await score(api, {"groups": [{"prompt": "Q", "responses": responses}]})
        found = await health(api)
    assert found["comparisons"] == 10
    assert found["position_bias"]["mean"] == pytest.approx(BIAS)
    assert found["length_slope"]["value"] == pytest.approx(PER_E_FOLD)
    assert found["flip_rate"]["value"] == 0.0


async def test_a_cohort_counts_for_its_queue_once() -> None:
    members = [
        {"prompt": "Q", "response": "c" * n, "cohort": {"group_id": "g", "size": 4, "index": i}}
        for i, n in enumerate((3, 9, 27, 243))
    ]
    async with biased() as api:
        await asyncio.gather(*(score(api, {"items": [member]}) for member in members))
        await score(api, {"items": members[:1]})  # sent again
        found = await health(api)
    assert found["comparisons"] == 6
    assert found["length_slope"]["value"] == pytest.approx(PER_E_FOLD)
    assert found["flagged"]["share"] == 0.25  # the repeated letters of the longest


async def test_a_fair_judge_is_not_accused() -> None:
    noise = random.Random(1)
    engine = FakeEngine(options(label_logits=lambda request: (noise.gauss(0, 1), 0.0)))
    lengths = [(noise.randint(5, 100), noise.randint(5, 100)) for _ in range(200)]
    async with serving({}, engine) as api:
        await score(api, {"items": items(lengths)})
        found = await health(api)
    for name, figure in (("position_bias", "mean"), ("length_slope", "value")):
        assert abs(found[name][figure]) < 4 * found[name]["stderr"]
    assert found["flip_rate"]["value"] == pytest.approx(0.5, abs=0.15)  # pure noise flips half the time


async def test_flagged_rows_count_once_by_code() -> None:
    async with biased() as api:
        sent = items([(5, 7)] * 4)
        sent[0]["response"] = "a<|im_end|>b<|im_end|>"
        await score(api, {"items": sent})
        found = await health(api)
    assert found["flagged"] == {"share": 0.25, "by_code": {"control_token_text": 0.25}}


async def test_no_data_is_null() -> None:
    async with biased() as api:
        await score(api, {"items": [{"prompt": "Q", "response": "same", "reference": "same"}]})
        found = await health(api)
    assert found["comparisons"] == 0
    assert found["position_bias"] == {"mean": None, "stderr": None}
    assert found["flip_rate"] == {"value": None, "low": None, "high": None}
    assert found["label_mass"] == {"mean": None, "min": None}
    assert found["length_slope"] == {"value": None, "stderr": None}
    assert found["drift"] == {"psi": None, "ks": None, "p_value": None, "reference_count": 0}


async def test_a_scalar_judge_has_lengths_only() -> None:
    engine = FakeEngine(options(score=lambda request: 0.01 * len(request.prompt_ids)))
    async with serving({}, engine) as api:
        singles = [{"prompt": "Q", "response": "r" * n} for n in (10, 100, 1000)]
        await score(api, {"items": singles, "judge": "scalar"})
        found = await health(api)
    assert found["comparisons"] == 3
    assert found["length_slope"]["value"] > 0
    assert (found["position_bias"]["mean"], found["flip_rate"]["value"], found["label_mass"]["min"]) == (None,) * 3


async def test_figures_are_of_the_queue_and_judge_that_were_asked() -> None:
    async with biased() as api:
        await score(api, {"items": items([(5, 10)] * 3)}, "one")
        await score(api, {"items": items([(5, 10)] * 4)}, "two")
        await score(api, {"items": items([(5, 10)] * 5)}, "two", update=False)  # an evaluation
        await score(api, {"items": items([(5, 10)] * 6)}, None)
        assert (await health(api, "one"))["comparisons"] == 3
        assert (await health(api, "two"))["comparisons"] == 4


async def test_a_retry_answered_from_its_record_is_not_judged_again() -> None:
    async with biased() as api:
        body = {"judge": "gram", "items": items([(5, 10)] * 3), "normalize": {"queue": "run"}}
        for _ in range(3):
            await api.client.post("/score", json=body, headers={"Idempotency-Key": "k"})
        assert (await health(api))["comparisons"] == 3


async def test_drift_shows_when_scores_leave_where_they_began() -> None:
    async with biased() as api:
        spread = [(n, 20) for n in range(10, 35)]
        await score(api, {"items": items(spread)}, window=25)
        steady = (await health(api))["drift"]
        await score(api, {"items": items([(300 + n, 20) for n in range(25)])}, window=25)
        moved = (await health(api))["drift"]
    assert steady == {"psi": 0.0, "ks": 0.0, "p_value": 1.0, "reference_count": 25}
    assert moved["psi"] > 0.25
    assert moved["ks"] == 1.0
    assert moved["p_value"] < 1e-6


async def test_a_deleted_queue_starts_afresh() -> None:
    async with biased() as api:
        await score(api, {"items": items([(5, 10)] * 3)})
        await api.client.delete("/queues/run")
        await score(api, {"items": items([(5, 10)])})
        assert (await health(api))["comparisons"] == 1


async def test_the_metrics_follow_and_stay_bounded() -> None:
    async with biased(refresh_s=0.01, metric_queues=3, max_queues=5) as api:

        async def scrape() -> str:
            return (await api.client.get("/metrics")).text

        await api.post("/compare", {"judge": "gram", "prompt": "Q", "response_a": "long answer", "response_b": "short"})
        await api.post("/rank", {"judge": "gram", "prompt": "Q", "responses": ["a", "bb", "ccc"]})
        for stream in (False, True):
            await api.post("/rationale", {"prompt": "Q", "response_a": "x", "response_b": "yy", "stream": stream})
        metrics = api.app.state.gate.metrics
        for judge, count in (("gram", 4.0), ("gram_r2", 2.0)):
            series = f'gram_queue_comparisons{{judge="{judge}",queue=""}} {count}'
            await until(lambda series=series: series.encode() in metrics.render())
        found = metrics.registry.get_sample_value("gram_queue_position_bias_logit", {"judge": "gram", "queue": ""})
        assert found == pytest.approx(BIAS)
        for number in range(8):
            await score(api, {"items": items([(5, 10)])}, f"run{number}")
        await until(lambda: b'queue="run7"' in metrics.render())
        shown = set(re.findall(r'gram_queue_comparisons\{judge="(\w+)",queue="(\w*)"\}', await scrape()))
        assert shown == {("gram", f"run{number}") for number in (5, 6, 7)}
        assert len(api.app.state.gate.monitor) == 5


async def test_publishing_survives_a_bug_and_ends_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    before = asyncio.all_tasks()
    async with biased(refresh_s=0.01) as api:
        monitor, calls = api.app.state.gate.monitor, []
        refresh = monitor.refresh

        async def failing(*args: Any) -> Any:
            calls.append(None)
            if len(calls) < 3:
                raise RuntimeError("a bug")
            return await refresh(*args)

        monkeypatch.setattr(monitor, "refresh", failing)
        await score(api, {"items": items([(5, 10)])})
        await until(lambda: b'queue="run"' in api.app.state.gate.metrics.render())
    assert asyncio.all_tasks() <= before
