"""vLLM's own Prometheus metrics, beside ours."""

from __future__ import annotations

from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.perf import PerfMetricsProm

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
