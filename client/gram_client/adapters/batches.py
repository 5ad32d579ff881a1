"""A trainer's batch as one call of the client, and the call's rows as one reward for each sample, in the same order.

Pure: nothing here waits or sends, so sync and async adapters share all of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import grouped, is_visible, key_of
from gram_client.async_client import AsyncClient
from gram_client.client import Client
from gram_client.errors import ScoringError
from gram_client.items import Group, Prompt, Referenced, Single
from gram_client.scores import Row, Scores

MAX_GROUP = 64


@dataclass(frozen=True)
class Sample:
    """A response to judge. ``group`` is the trainer's own word for its group; empty: equal prompts are a group."""

    prompt: Prompt
    response: str
    reference: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Reward:
    """``value`` is what to train on, ``score`` the judge's own; both None where there is none, and ``error`` says why
    in one word (a code of docs/errors.md, or one of `ERRORS`)."""

    value: float | None
    score: float | None = None
    error: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.value is not None

    @property
    def why(self) -> str:
        return f"{self.error}: {self.message}" if self.message else self.error


ERRORS = {
    "empty_response": "The response holds nothing to judge.",
    "empty_prompt": "The prompt holds nothing to judge by.",
    "alone": "No other response to this prompt is in the batch.",
    "no_reference": "This sample has no reference.",
}
"""What is not even sent, and why."""


def unsent(code: str) -> Reward:
    return Reward(None, None, code, ERRORS[code])


def lost(error: BaseException) -> Reward:
    """The reward of every sample of a call that failed as a whole."""
    ours = error if isinstance(error, ScoringError) else None
    code = ours.code if ours is not None else ""
    return Reward(None, None, code or type(error).__name__, str(error) if ours is None else ours.message)


def of_row(row: Row) -> Reward:
    if row.error is not None:
        return Reward(None, None, row.error.code, row.error.message)
    return Reward(row.reward, row.score)


Item = Group | Referenced | Single


@dataclass(frozen=True)
class Batch:
    """``items`` are sent; ``places`` names the sample of each row that will come back; ``kept_back`` was not sent."""

    samples: Sequence[Sample]
    judging: Judging
    items: Sequence[Item]
    places: Sequence[int]
    kept_back: Mapping[int, Reward]

    def call(self, client: Client | AsyncClient) -> Scores | Awaitable[Scores]:
        """The one call: `Scores` of a `Client`, something to await of an `AsyncClient`."""
        items: Any = list(self.items)
        normalize = self.judging.normalize
        if self.judging.mode == "references":
            return client.score_references(items, normalize=normalize)
        if self.judging.mode == "singles":
            return client.score_single(items, normalize=normalize)
        return client.score_groups(items, normalize=normalize, method=self.judging.method)

    def read(self, scores: Scores) -> list[Reward]:
        found = dict(self.kept_back)
        for place, row in zip(self.places, scores.rows, strict=True):
            found[place] = of_row(row)
        return [found[place] for place in range(len(self.samples))]

    def lost(self, error: BaseException) -> list[Reward]:
        """When the call failed: a reason for each sample, and no number."""
        return [self.kept_back.get(place, lost(error)) for place in range(len(self.samples))]


def plan(samples: Sequence[Sample], judging: Judging) -> Batch:
    """What to send. Samples that cannot be judged are kept back and spoil no other."""
    kept_back = {i: unsent(problem) for i, sample in enumerate(samples) if (problem := _problem(sample, judging))}
    rest = [i for i in range(len(samples)) if i not in kept_back]
    if judging.mode == "references":
        items: list[Item] = [
            Referenced(samples[i].prompt, samples[i].response, samples[i].reference or "") for i in rest
        ]
        return Batch(samples, judging, items, rest, kept_back)
    if judging.mode == "singles":
        return Batch(samples, judging, [Single(samples[i].prompt, samples[i].response) for i in rest], rest, kept_back)
    items, places = [], []
    for members in _groups(samples, rest):
        if len(members) == 1:
            kept_back[members[0]] = unsent("alone")
            continue
        items.append(Group(samples[members[0]].prompt, [samples[i].response for i in members]))
        places += members
    return Batch(samples, judging, items, places, kept_back)


def _problem(sample: Sample, judging: Judging) -> str:
    prompt = sample.prompt
    if not is_visible(prompt if isinstance(prompt, str) else "".join(str(m["content"]) for m in prompt)):
        return "empty_prompt"
    if not is_visible(sample.response):
        return "empty_response"
    return "no_reference" if judging.mode == "references" and not is_visible(sample.reference or "") else ""


def _groups(samples: Sequence[Sample], rest: Sequence[int]) -> Iterator[list[int]]:
    """Positions of each group: equal prompts (and the trainer's own group), wherever they stand in the batch.

    More than the service takes in one group are divided evenly.
    """
    keys = [f"{samples[i].group}\0{key_of(samples[i].prompt)}" for i in rest]
    for members in grouped(keys).values():
        found = [rest[k] for k in members]
        parts = -(-len(found) // MAX_GROUP)
        yield from (found[part::parts] for part in range(parts))


def judged(samples: Sequence[Sample], judging: Judging) -> list[Reward]:
    """One reward for each sample, never an exception of the service's: see `Reward`."""
    return _sync(plan(samples, judging), judging.client)


def _sync(batch: Batch, client: Callable[[], Client]) -> list[Reward]:
    if not batch.items:
        return batch.read(Scores())
    try:
        scores = batch.call(client())
    except ScoringError as error:
        return batch.lost(error)
    assert isinstance(scores, Scores)
    return batch.read(scores)


async def judged_async(samples: Sequence[Sample], judging: Judging) -> list[Reward]:
    """As `judged`, for a running event loop."""
    batch = plan(samples, judging)
    if not batch.items:
        return batch.read(Scores())
    try:
        scores = batch.call(judging.async_client())
        return batch.read(scores if isinstance(scores, Scores) else await scores)
    except ScoringError as error:
        return batch.lost(error)
