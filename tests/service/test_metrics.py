from __future__ import annotations

from service.metrics import Metrics, Observation
from service.types import Flag, Usage, Verdict


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = metrics.registry.get_sample_value(name, labels)
    return None if found is None else float(found)


def test_one_request_is_recorded_once() -> None:
    metrics = Metrics()
    metrics.record(Observation("/compare", 200, 0.3, 0.0, 0.1, 0.2, "gram", Usage(100, 40, 2, 1)))
    assert value(metrics, "gram_requests_total", route="/compare", status="200") == 1
    assert value(metrics, "gram_request_seconds_sum", route="/compare") == 0.3
    assert value(metrics, "gram_stage_seconds_sum", stage="engine") == 0.2
    assert [value(metrics, "gram_tokens_total", judge="gram", kind=k) for k in ("prompt", "cached", "completion")] == [
        100,
        40,
        2,
    ]


def test_requests_without_a_judge_leave_the_stages_alone() -> None:
    metrics = Metrics()
    metrics.record(Observation("/models", 200, 0.001))
    assert value(metrics, "gram_stage_seconds_count", stage="engine") is None


def test_a_refusal_counts_once_whether_or_not_a_judge_was_chosen() -> None:
    metrics = Metrics()
    metrics.record(Observation("/compare", 503, 0.001, failures=["overloaded"]))
    metrics.record(Observation("/compare", 504, 60.0, judge="gram", failures=["deadline_exceeded"]))
    metrics.record(Observation("/compare", 422, 0.001, failures=["token_limit"]))
    assert value(metrics, "gram_rejected_total", reason="overloaded") == 1
    assert value(metrics, "gram_rejected_total", reason="deadline_exceeded") == 1
    assert value(metrics, "gram_rejected_total", reason="token_limit") is None


def test_judge_health() -> None:
    metrics = Metrics()
    verdicts = [Verdict(0.6, 0.4, 0.9, 0.7, True, 0.97), Verdict(0.5, 0.0, 0.5, 0.5, True, None)]
    flags = [Flag("bidi", 3, "a")]
    metrics.record(
        Observation(judge="gram", verdicts=verdicts, flags=flags, consistency=[True, False], failures=["token_limit"])
    )
    assert value(metrics, "gram_label_mass_sum", judge="gram") == 0.97
    # the mean of log(9) and log(7 / 3) is 1.52
    assert value(metrics, "gram_position_bias_logit_bucket", judge="gram", le="1.0") == 0
    assert value(metrics, "gram_position_bias_logit_bucket", judge="gram", le="2.0") == 1
    assert value(metrics, "gram_order_consistency_total", judge="gram", consistent="no") == 1
    assert value(metrics, "gram_flags_total", judge="gram", code="bidi", where="a") == 3
    assert value(metrics, "gram_failed_items_total", judge="gram", code="token_limit") == 1


def test_certain_verdicts_have_a_finite_bias() -> None:
    metrics = Metrics()
    metrics.record(Observation(judge="gram", verdicts=[Verdict(1.0, 50.0, 1.0, 0.0, True, 1.0)]))
    assert value(metrics, "gram_position_bias_logit_bucket", judge="gram", le="-0.25") == 0
    assert value(metrics, "gram_position_bias_logit_bucket", judge="gram", le="0.25") == 1


def test_live_values_are_read_when_scraped() -> None:
    metrics, level = Metrics(), [1.0]
    metrics.watch("gram_level", "A level.", lambda: level[0])
    level[0] = 7.0
    assert b"gram_level 7.0" in metrics.render()


def test_two_services_in_one_process_do_not_collide() -> None:
    one, other = Metrics(), Metrics()
    one.record(Observation("/compare", 200))
    assert value(other, "gram_requests_total", route="/compare", status="200") is None
