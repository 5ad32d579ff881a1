"""What is remembered, for how long, and what is published of it."""

from __future__ import annotations

import sys

import pytest

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.score_health import Drift, QueueHealth, Sample
from service.score_monitor import NO_QUEUE, ScoreMonitor, worst
from service.stores.base import Queue, QueueKey
from service.stores.memory import MemoryStore
from service.types import JudgeVersion
from tests.service.test_metrics import value

GRAM = JudgeVersion("gram", "w1", "t1")


def sample(bias: float = 0.0, lead: float = 0.0, log_length: float = 0.0) -> Sample:
    return Sample(bias, False, 0.95, lead, log_length)


def key(name: str, kind: str = "group") -> QueueKey:
    return QueueKey(name, GRAM.judge, GRAM.weight_version, GRAM.template_hash, kind)


async def published(monitor: ScoreMonitor, store: MemoryStore, most: int = 20) -> list[QueueHealth]:
    found: list[QueueHealth] = []
    await monitor.refresh(store, most, found.append)
    return found


async def test_the_ring_forgets_the_oldest() -> None:
    monitor = ScoreMonitor(3, 10)
    for bias in (100.0, 1.0, 2.0, 3.0):
        monitor.saw("q", GRAM, [sample(bias)], [("bidi",) if bias == 100.0 else ()])
    figures = await monitor.figures("q", GRAM)
    assert figures.comparisons == 3
    assert figures.position_bias.mean == 2.0
    assert figures.flagged.share == 0.0


async def test_queues_judges_and_weights_are_told_apart() -> None:
    monitor = ScoreMonitor(10, 10)
    for bias, place in enumerate([("q", GRAM), ("r", GRAM), ("q", JudgeVersion("gram", "w2", "t1")), (NO_QUEUE, GRAM)]):
        monitor.saw(*place, [sample(float(bias))], [])
        assert (await monitor.figures(*place)).position_bias.mean == bias
        assert (await monitor.figures(*place)).comparisons == 1
    assert (await monitor.figures("unknown", GRAM)).comparisons == 0


async def test_memory_is_bounded_in_queues_and_samples() -> None:
    monitor = ScoreMonitor(5, 4)
    for number in range(1000):
        monitor.saw(f"q{number}", GRAM, [sample()] * 50, [()] * 50)
        monitor.saw("busy", GRAM, [sample()], [()])
    assert len(monitor) == 4
    counts = [(await monitor.figures(name, GRAM)).comparisons for name in ("q997", "q998", "q999", "busy", "q996")]
    assert counts == [5, 5, 5, 5, 0]


def test_a_sample_is_small() -> None:
    one = Sample(0.1, False, 0.95, 0.2, 0.3)
    assert sys.getsizeof(one) + sum(sys.getsizeof(x) for x in one if isinstance(x, float)) <= 256


async def test_only_what_was_touched_is_published_again() -> None:
    monitor, store = ScoreMonitor(10, 10), MemoryStore()
    monitor.saw("q", GRAM, [sample()], [])
    monitor.saw("r", GRAM, [sample()], [])
    assert [one.queue for one in await published(monitor, store)] == ["q", "r"]
    assert await published(monitor, store) == []
    monitor.saw("q", GRAM, [sample()], [])
    (again,) = await published(monitor, store)
    assert (again.queue, again.figures.comparisons) == ("q", 2)


async def test_the_most_recently_used_are_published_and_the_rest_taken_out() -> None:
    monitor, store, metrics = ScoreMonitor(10, 10), MemoryStore(), Metrics()

    async def refresh() -> list[float | None]:
        metrics.queues.keep(await monitor.refresh(store, 2, metrics.queues.publish))
        return [value(metrics, "gram_queue_comparisons", queue=name, judge="gram") for name in ("a", "b", "c")]

    for name in ("a", "b", "c"):
        monitor.saw(name, GRAM, [sample()], [("bidi",)])
    assert await refresh() == [None, 1.0, 1.0]
    monitor.saw("a", GRAM, [sample()], [()])
    assert await refresh() == [2.0, None, 1.0]
    assert b'queue="b"' not in metrics.render()
    monitor.forget("c")  # b is among the two again, though nobody used it
    assert await refresh() == [2.0, 1.0, None]
    assert value(metrics, "gram_queue_flagged_code_share", queue="a", judge="gram", code="bidi") == 0.5


async def test_a_figure_without_data_has_no_series() -> None:
    monitor, metrics = ScoreMonitor(10, 10), Metrics()
    monitor.saw("q", GRAM, [Sample(None, None, None, 1.0, 2.0, single=True)], [()])
    await monitor.refresh(MemoryStore(), 20, metrics.queues.publish)
    assert value(metrics, "gram_queue_comparisons", queue="q", judge="gram") == 1.0
    for name in ("flip_rate", "label_mass", "position_bias_logit", "length_slope", "drift_psi"):
        assert value(metrics, f"gram_queue_{name}", queue="q", judge="gram") is None


async def test_a_figure_that_lost_its_data_loses_its_series() -> None:
    """A deleted queue has no drift any more, and a flag that left the ring no share."""
    monitor, metrics, store = ScoreMonitor(1, 10), Metrics(), MemoryStore()
    await store.commit(key("q"), [0.5] * 20, 20)

    async def shown() -> tuple[bool, bool]:
        await monitor.refresh(store, 20, metrics.queues.publish)
        text = metrics.render()
        return b'gram_queue_drift_psi{judge="gram",queue="q"} 0.0' in text, b'code="bidi"' in text

    monitor.saw("q", GRAM, [sample()], [("bidi",)], "group")
    assert await shown() == (True, True)
    await store.delete(key("q"))
    monitor.saw("q", GRAM, [sample()], [()], "group")
    assert await shown() == (False, False)


async def test_drift_is_the_worst_of_the_queue_s_kinds_of_score() -> None:
    monitor, store = ScoreMonitor(10, 10), MemoryStore()
    steady = [i / 40 for i in range(40)]
    for kind, later in (("group", steady), ("reference", [score + 10 for score in steady])):
        await store.commit(key("q", kind), steady, 40)
        await store.commit(key("q", kind), later, 40)
        monitor.saw("q", GRAM, [sample()], [()], kind)
    (found,) = await published(monitor, store)
    assert found.drift.ks == 1.0
    assert found.drift.psi is not None
    assert found.drift.psi > 1.0
    figures, steady_drift = await monitor.of_queue(store, key("q", "group"))
    assert figures.comparisons == 2
    assert steady_drift == Drift(0.0, 0.0, 1.0, 40)


async def test_a_window_that_is_not_full_yet_has_no_drift() -> None:
    monitor, store = ScoreMonitor(10, 10), MemoryStore()
    await store.commit(key("q"), [0.1] * 39, 40)
    assert (await monitor.of_queue(store, key("q")))[1] == Drift()
    await store.commit(key("q"), [0.1], 40)
    assert (await monitor.of_queue(store, key("q")))[1] == Drift(0.0, 0.0, 1.0, 40)


class DownStore(MemoryStore):
    """A store that can be down."""

    down = True

    async def get(self, key: QueueKey) -> Queue | None:
        if self.down:
            raise StoreUnavailable("The store is down.")
        return await super().get(key)


async def test_a_store_that_is_down_hides_drift_only_and_is_asked_again() -> None:
    monitor, store = ScoreMonitor(10, 10), DownStore()
    await store.commit(key("q"), [i / 40 for i in range(40)], 40)
    monitor.saw("q", GRAM, [sample(1.5)], [()], "group")
    (found,) = await published(monitor, store)
    assert (found.figures.position_bias.mean, found.drift) == (1.5, Drift())
    store.down = False
    (found,) = await published(monitor, store)
    assert found.drift.psi == 0.0


def test_a_queue_without_drift_yet_does_not_hide_another_s() -> None:
    for found in (
        (Drift(0.0, 0.1, 0.5, 40), Drift(reference_count=3)),
        (Drift(reference_count=3), Drift(0.0, 0.1, 0.5, 40)),
    ):
        assert worst(found).ks == 0.1


@pytest.mark.parametrize("places", [[], [Drift(reference_count=3)]])
def test_nothing_to_compare_is_no_drift(places: list[Drift]) -> None:
    assert worst(places).psi is None
