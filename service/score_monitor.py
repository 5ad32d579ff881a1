"""What this replica's judges did lately, by queue and judge: bounded rings of samples, and who reads them.

Requests leave their samples here when their reply is out, which costs them an append each; figures are computed when
somebody asks, in a worker thread. Nothing here is a reward window: forgetting an entry changes no score.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from service.errors import ServiceError
from service.score_health import Drift, JudgeHealth, QueueHealth, Sample, drift, judge_health
from service.stores.base import QueueKey, RewardStore
from service.types import JudgeVersion

log = logging.getLogger("gram.score_health")

NO_QUEUE = ""
"""Whose judgments belong to no reward queue: comparisons, rankings, scores without normalization, evaluations."""

Place = tuple[str, JudgeVersion]
"""Queue name and what exactly judged: other weights or another template start with an empty ring."""

Label = tuple[str, str]
"""Queue name and judge name, as metrics are labelled."""


@dataclass(slots=True)
class Recent:
    """The last judgments of one place, oldest first. ``kinds`` are the kinds of score that entered its queue."""

    samples: deque[Sample]
    rows: deque[tuple[str, ...]]
    kinds: set[str] = field(default_factory=set)
    touched: bool = True


class ScoreMonitor:
    """``window`` samples (and as many rows) for each of at most `max_queues` places; the least recently used goes
    first, and only its figures are lost. All methods are called on one event loop."""

    def __init__(self, window: int, max_queues: int) -> None:
        self._window = window
        self._max_queues = max_queues
        self._recent: OrderedDict[Place, Recent] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._recent)

    def saw(
        self,
        queue: str,
        version: JudgeVersion,
        samples: Iterable[Sample],
        rows: Iterable[tuple[str, ...]],
        score_kind: str | None = None,
    ) -> None:
        """Take in what one request judged, and the flag codes of each row of its reply."""
        place = (queue, version)
        recent = self._recent.get(place)
        if recent is None:
            recent = self._recent[place] = Recent(deque(maxlen=self._window), deque(maxlen=self._window))
            if len(self._recent) > self._max_queues:
                self._recent.popitem(last=False)
        self._recent.move_to_end(place)
        recent.samples.extend(samples)
        recent.rows.extend(rows)
        recent.touched = True
        if score_kind is not None:
            recent.kinds.add(score_kind)

    async def of_queue(self, store: RewardStore, key: QueueKey) -> tuple[JudgeHealth, Drift]:
        """What this replica saw of a queue, and the queue's drift. Raises `StoreUnavailable`."""
        version = JudgeVersion(key.judge, key.weight_version, key.template_hash)
        return await self.figures(key.name, version), await queue_drift(store, key)

    async def figures(self, queue: str, version: JudgeVersion) -> JudgeHealth:
        """The figures of what is remembered of this place, all None when that is nothing."""
        recent = self._recent.get((queue, version))
        samples, rows = (list(recent.samples), list(recent.rows)) if recent else ([], [])
        return await asyncio.to_thread(judge_health, samples, rows)

    def forget(self, queue: str) -> None:
        """Drop what is remembered of a deleted queue: its next epoch starts afresh here too."""
        for place in [place for place in self._recent if place[0] == queue]:
            del self._recent[place]

    async def refresh(self, store: RewardStore, most: int, publish: Callable[[QueueHealth], None]) -> set[Label]:
        """Publish the places among the `most` recently used that were touched since they were last published, the
        latest last. Returns the labels of all of those places: what else was published before is out of date."""
        places = list(self._recent)
        for place in places[:-most]:
            self._recent[place].touched = True  # no longer published; to be told again once it is back
        for place in places[-most:]:
            recent = self._recent.get(place)
            if recent is not None and recent.touched:  # neither forgotten meanwhile nor idle
                publish(await self._look(store, place, recent))
        return {(queue, version.judge) for queue, version in places[-most:]}

    async def _look(self, store: RewardStore, place: Place, recent: Recent) -> QueueHealth:
        recent.touched = False
        queue, version = place
        parts = (version.judge, version.weight_version, version.template_hash)
        found: list[Drift] = []
        try:
            for kind in sorted(recent.kinds):
                found.append(await queue_drift(store, QueueKey(queue, *parts, kind)))
        except ServiceError as error:  # the store is down: tell the rest now, and all of it next time
            log.debug("the drift of a queue is unknown: %s", error.message)
            recent.touched = True
        return QueueHealth(queue, version.judge, await self.figures(queue, version), worst(found))


async def queue_drift(store: RewardStore, key: QueueKey) -> Drift:
    """The queue's present window against the first full one of its epoch. Raises `StoreUnavailable`."""
    queue = await store.get(key)
    if queue is None:
        return Drift()
    return await asyncio.to_thread(drift, queue.reference, queue.scores)


def worst(found: Sequence[Drift]) -> Drift:
    """The drift with the largest stability index; an empty one where nothing can be compared."""
    return max(found, key=lambda one: -1.0 if one.psi is None else one.psi, default=Drift())
