"""vLLM's own Prometheus metrics, beside ours, and the sign of life that its engine gives with each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase
from vllm.v1.metrics.perf import PerfMetricsProm
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

Metric = TypeVar("Metric", bound=MetricWrapperBase)


class EngineMetrics:
    """vLLM's Prometheus metrics in our registry, where a second engine or a restart neither erases nor doubles them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._created: list[MetricWrapperBase] = []

        class PerfMetrics(PerfMetricsProm):  # type: ignore[misc]  # vLLM is not type-checked
            _counter_cls = self._ours(Counter)

        class StatLogger(PrometheusStatLogger):  # type: ignore[misc]
            _gauge_cls = self._ours(Gauge)
            _counter_cls = self._ours(Counter)
            _histogram_cls = self._ours(Histogram)
            _perf_metrics_cls = PerfMetrics

        self.logger = StatLogger

    def _ours(self, base: type[Metric]) -> type[Metric]:
        """The metric class, registering with our registry whatever its caller leaves out."""

        def init(metric: Metric, *args: Any, **kwargs: Any) -> None:
            base.__init__(metric, *args, **(kwargs | {"registry": self._registry}))
            if not kwargs.get("_labelvalues"):  # children of a labelled metric are never registered
                self._created.append(metric)

        return type(base.__name__, (base,), {"__init__": init})

    def unregister(self) -> None:
        while self._created:
            self._registry.unregister(self._created.pop())


def pulse(moved: Callable[[], None]) -> type[StatLoggerBase]:
    """A logger for vLLM that calls `moved` after each step in which the engine computed something.

    A request that wants its last output only is silent until then, which may be minutes of writing; steps are not.
    """

    class Pulse(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
            pass

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: IterationStats | None,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            if iteration_stats is not None or (scheduler_stats is not None and scheduler_stats.num_running_reqs):
                moved()

        def log_engine_initialized(self) -> None:
            pass

    return Pulse
