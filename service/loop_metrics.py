"""Counters and histograms that one thread writes and reads: the event loop, where requests end and scrapes begin.

Those of prometheus_client take a lock for each step of each addition, and check and format labels to find what they add
to: a third of what the service does for a request with its answer at hand. These are custom collectors, as the library
documents them; names, registration and the text that is scraped stay its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.utils import INF, floatToGoString

AT_ONCE = 256
"""Values of a histogram that are put aside and then counted together, which takes half the time."""


class LoopCounter:
    """A counter by label values, in the order of ``labels``."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(labels)
        self._counts: defaultdict[tuple[str, ...], float] = defaultdict(float)
        registry.register(self)

    def add(self, *labels: str, by: float = 1.0) -> None:
        """``by`` at least 0. A series is there from its first addition on."""
        self._counts[labels] += by

    def value(self, *labels: str) -> float:
        """What was added so far."""
        return self._counts.get(labels, 0.0)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labelnames)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class LoopHistogram:
    """A histogram by label values; ``bounds`` are the buckets' upper ends, ascending, without infinity."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry, bounds: Sequence[float]
    ) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._new: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        self._seen: dict[tuple[str, ...], list[int]] = {}
        self._sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        registry.register(self)

    def observe(self, value: float, *labels: str) -> None:
        """One value, in the histogram's unit."""
        values = self._new[labels]
        values.append(value)
        if len(values) == AT_ONCE:
            self._sort_in(labels, values)

    def _sort_in(self, labels: tuple[str, ...], values: list[float]) -> None:
        bounds, seen = self._bounds, self._seen.setdefault(labels, [0] * (len(self._bounds) + 1))
        total = self._sums[labels]
        for value in values:
            seen[bisect_left(bounds, value)] += 1
            total += value  # one by one: floats added in another order come to another sum
        self._sums[labels] = total
        values.clear()

    def collect(self) -> Iterator[Metric]:
        """For the registry. Like the library's own, without a sum where values may be negative: it is no counter."""
        for labels_of, values_of in self._new.items():
            self._sort_in(labels_of, values_of)
        name, family = self._name, Metric(self._name, self._text, "histogram")
        for values, seen in self._seen.items():
            labels, total = dict(zip(self._labelnames, values, strict=True)), 0
            for end, count in zip((*self._bounds, INF), seen, strict=True):
                total += count
                family.add_sample(f"{name}_bucket", labels | {"le": floatToGoString(end)}, total)
            family.add_sample(f"{name}_count", labels, total)
            if self._bounds[0] >= 0:
                family.add_sample(f"{name}_sum", labels, self._sums[values])
        yield family
