"""Dashboard and alert rules name metrics and labels that exist, and leave none of this project's out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from prometheus_client import CollectorRegistry

from tests.support.promql import ALWAYS, PromqlError, parse
from tests.support.serving import serving

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {
    "counter": {"_total": frozenset[str]()},
    "gauge": {"": frozenset[str]()},
    "histogram": {"_bucket": frozenset({"le"}), "_sum": frozenset[str](), "_count": frozenset[str]()},
}
Known = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Expression:
    """An expression, where it stands, and the templates beside it that name labels of its result."""

    where: str
    text: str
    templates: str


def declared(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    """Every metric on the wire with its labels."""
    found = {}
    for collector in registry._collector_to_names:
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for metric in collector.describe() if hasattr(collector, "describe") else collector.collect():
            for suffix, more in SUFFIXES[metric.type].items():
                found[metric.name + suffix] = labels | more
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def known() -> Known:
    """Ours from a running service, vLLM's from the list that the engine's own test compares with the engine."""
    async with serving() as api:
        ours = declared(api.app.state.gate.metrics.registry)
    listed = json.loads((ROOT / "tests/golden/vllm_metrics.json").read_text(encoding="utf-8"))
    return ours | {name: frozenset(labels) for name, labels in listed.items()} | {"up": ALWAYS}


def dashboard() -> Iterator[Expression]:
    for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield Expression(f"{path.name}, {panel['title']}", target["expr"], target.get("legendFormat", ""))


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in (ROOT / "deploy").rglob("alerts*.y*ml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def alerts() -> Iterator[Expression]:
    for name, rule in rules():
        yield Expression(f"{name}, {rule['alert']}", rule["expr"], " ".join(rule["annotations"].values()))


def problems(expression: Expression, known: Known) -> list[str]:
    try:
        query = parse(expression.text)
    except PromqlError as error:
        return [str(error)]
    named = set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", expression.templates))
    wrong = [f"its result has no label {name}" for name in sorted(named - query.labels(known))]
    return query.problems(known) + wrong


def test_every_expression_names_what_there_is(known: Known) -> None:
    wrong = {one.where: found for one in (*dashboard(), *alerts()) if (found := problems(one, known))}
    assert not wrong


def test_the_dashboard_shows_every_metric_of_ours(known: Known) -> None:
    """A histogram is shown when its buckets or its sum are."""
    shown = {name for one in dashboard() for name in parse(one.text).metrics}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known if name.startswith("gram_")}
    missing = {name for name in families if not any(one.startswith(name) for one in shown)}
    assert not missing


@pytest.mark.parametrize(
    ("text", "templates", "says"),
    [
        ("rate(gram_request_total[5m])", "", "no metric gram_request_total"),
        ('rate(gram_requests_total{status="200", rout="/score"}[5m])', "", "no label rout"),
        ("sum by (route, judge) (rate(gram_requests_total[5m]))", "", "no label judge"),
        ("sum(rate(gram_requests_total[5m])) by (code)", "", "no label code"),
        ("gram_requests_inside / on (queue) gram_prompts_inside", "", "no label queue"),
        ("histogram_quantile(0.9, sum by (le) (rate(gram_requests_total[5m])))", "", "no label le"),
        ("sum by (route) (rate(gram_requests_total[5m]))", "{{status}}", "result has no label status"),
        ("sum by (route) (rate(gram_requests_total[5m]))", "{{ $labels.instance }}", "result has no label instance"),
        ("gram_requests_inside", "{{ $labels.judge }}", "result has no label judge"),
        ("vllm:num_requests_runing", "", "no metric vllm:num_requests_runing"),
        ("rate(gram_requests_total[5m]", "", "expected"),
        ("rat(gram_requests_total[5m])", "", "no function rat"),
        ("gram_requests_total{status=200}", "", "no text"),
        ("gram_requests_inside §", "", "cannot read"),
    ],
)
def test_a_planted_mistake_is_found(known: Known, text: str, templates: str, says: str) -> None:
    found = problems(Expression("planted", text, templates), known)
    assert any(says in one for one in found), found


@pytest.mark.parametrize(
    "text",
    [
        "sum by (route) (rate(gram_requests_total{status=~'5..'}[5m])) > 0.05 * sum by (route) (gram_requests_total)",
        "histogram_quantile(0.99, sum by (le, route) (rate(gram_request_seconds_bucket[$__rate_interval])))",
        "abs(gram_queue_length_slope) > 1 and abs(gram_queue_length_slope) > 4 * gram_queue_length_slope_stderr",
        "count by (judge) (count by (judge, weight_version) (gram_judge_info)) > 1",
        "gram_requests_inside * on (instance) group_left (judge) gram_judge_info",
        "max(gram_engine_stalled_seconds) without (instance) > 1e3 or vector(0)",
    ],
)
def test_good_expressions_pass(known: Known, text: str) -> None:
    assert not problems(Expression("good", text, ""), known)


def test_alerts_are_complete_and_named_once() -> None:
    found = [rule for _, rule in rules()]
    names = [rule["alert"] for rule in found]
    assert len(names) == len(set(names))
    for rule in found:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert {"summary", "description"} == set(rule["annotations"])
