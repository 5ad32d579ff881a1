"""Several sampled rationales a pair: the majority, how sure it is, and when the rest need not be written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.studies.judges import LABEL_A, LABEL_B
from training.studies.reasoning.rationales import PAD, Cases, Floats, verdicts
from training.studies.reasoning.writers import Writer, Written, noise_for, write
from training.studies.tasks import Booleans, Integers


@dataclass(frozen=True, slots=True)
class Ballot:
    """``V`` rationales for each of ``B`` pairs."""

    text: Integers
    """[V, B, T]."""
    confidence: Floats
    """[V, B]: probability of the verdict written, after its rationale."""

    @classmethod
    def of(cls, runs: list[Written]) -> Ballot:
        return cls(np.stack([run.text for run in runs]), np.stack([run.confidence for run in runs]))

    @property
    def verdicts(self) -> Integers:
        """[V, B]: `LABEL_A`, `LABEL_B`, or `PAD` for none."""
        return np.stack([verdicts(text) for text in self.text])

    @property
    def lengths(self) -> Integers:
        """[V, B]: tokens written."""
        count: Integers = (self.text != PAD).sum(axis=2)
        return count

    def first(self, votes: int) -> Ballot:
        """What there was when so many had been written."""
        return Ballot(self.text[:votes], self.confidence[:votes])


def cast_votes(writer: Writer, cases: Cases, votes: int, *purpose: object, temperature: float = 1.0) -> Ballot:
    """Sampled rationales. Vote v of row r has its own random numbers, whatever the number of votes."""
    tokens = cases.text.shape[1]
    noise = [noise_for(len(cases), tokens, *purpose, vote) for vote in range(votes)]
    return Ballot.of([write(writer, cases.prompt, tokens, each, temperature) for each in noise])


def greedy_vote(writer: Writer, cases: Cases) -> Ballot:
    """The one greedy rationale."""
    return Ballot.of([write(writer, cases.prompt, cases.text.shape[1])])


def probability_of_a(ballot: Ballot) -> Floats:
    """[V, B]: of A after each rationale, A or B; one half where no verdict came."""
    verdict = ballot.verdicts
    return np.select([verdict == LABEL_A, verdict == LABEL_B], [ballot.confidence, 1 - ballot.confidence], default=0.5)


def majority(verdict: Integers, p_a: Floats) -> Integers:
    """[B]: what most of the votes [V, B] say; where as many say either, the mean probability of A decides."""
    lead = (verdict == LABEL_A).sum(axis=0) - (verdict == LABEL_B).sum(axis=0)
    lead = np.where(lead == 0, np.sign(p_a.mean(axis=0) - 0.5), lead)
    return np.select([lead > 0, lead < 0], [LABEL_A, LABEL_B], default=PAD)


def swapped(verdict: Integers) -> Integers:
    """A verdict on a pair shown the other way round, in this display's letters."""
    return np.select([verdict == LABEL_A, verdict == LABEL_B], [LABEL_B, LABEL_A], default=PAD)


def needed_votes(verdict: Integers) -> Integers:
    """[B]: how many of the votes [V, B] must be written before the others cannot change the majority."""
    total = len(verdict)
    signed = np.select([verdict == LABEL_A, verdict == LABEL_B], [1, -1], default=0)
    lead = np.abs(signed.cumsum(axis=0))
    left = total - np.arange(1, total + 1)[:, None]
    decided: Booleans = lead > left
    return np.where(decided.any(axis=0), decided.argmax(axis=0) + 1, total)
