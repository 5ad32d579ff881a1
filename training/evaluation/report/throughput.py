"""How fast the judge was and what that costs: measured around the very calls that made the verdicts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from service.types import Usage, Verdict
from training.data.pairs import Pair
from training.evaluation.items import Failure
from training.evaluation.judges.base import Judge


@dataclass(frozen=True, slots=True)
class Spent:
    """What judging took: pairs (each in both orders), wall-clock seconds, tokens the engine was given and wrote.

    ``cached_tokens`` is the part of ``prompt_tokens`` that the engine's prefix cache already held.
    """

    pairs: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.pairs + other.pairs,
            self.seconds + other.seconds,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return (self.prompt_tokens + self.completion_tokens) / self.seconds if self.seconds else 0.0

    def cost_per_thousand(self, dollars_per_hour: float) -> float:
        """US dollars for 1,000 comparisons on hardware of that price, kept as busy as it was here."""
        return 1000 / self.pairs_per_second / 3600 * dollars_per_hour if self.pairs else 0.0


class MeteredJudge:
    """A judge that counts what passes through it; calls that overlap in time are counted as one stretch."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._running = 0
        self._since = 0.0
        self.spent = Spent()

    @property
    def name(self) -> str:
        return self._judge.name

    @property
    def version(self) -> str:
        return self._judge.version

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        """As the judge inside; see `training.evaluation.judges.base.Judge`."""
        if not self._running:
            self._since = time.perf_counter()
        self._running += 1
        try:
            outcomes = await self._judge.judge(pairs)
        finally:
            self._running -= 1
            if not self._running:
                self.spent += Spent(seconds=time.perf_counter() - self._since)
        used = sum((one.usage for one in outcomes if isinstance(one, Verdict)), Usage())
        self.spent += Spent(len(pairs), 0.0, used.prompt_tokens, used.cached_tokens, used.completion_tokens)
        return outcomes


def record(path: Path, version: str, spent: Spent) -> None:
    """Add one run's figures to a file of JSON lines, so that a run that was interrupted keeps its share."""
    if spent.pairs:
        with path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"judge": version, **asdict(spent)}) + "\n")


def kept(path: Path, version: str) -> Spent:
    """The sum of the runs of this judge version; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    mine = [{k: v for k, v in row.items() if k != "judge"} for row in rows if row["judge"] == version]
    return sum((Spent(**row) for row in mine), Spent())
