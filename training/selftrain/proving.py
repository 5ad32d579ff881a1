"""From labelled pairs to written judgments: sample proofs, check them, score what passes, keep one.

Four files, each made by one step that goes on where it was interrupted: the sampled proofs, the likelihoods of those
that passed the rules, the kept judgments, and with them the counts of what was dropped and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.engines.base import Engine, EngineRequest
from service.tokenization import ChatTokenizer
from training.data.judgments import ShownPair, WrittenJudgment
from training.data.lengths import fit
from training.data.pairs import DataError, Pair
from training.data.proofs import Proof, render_prover, render_prover_alone
from training.generation.bulk import Job, answer_all, read_answers
from training.generation.outcomes import Answer
from training.generation.seeds import seed_of
from training.selftrain.recipe import ProofSection
from training.selftrain.rules import Written, check
from training.selftrain.selection import Likelihoods, choose

NO_ROOM, FAILED, NONE_LEFT, NO_SCORE = "prompt too long", "engine failed", "no proof passed", "no finite score"


@dataclass(slots=True)
class Proved:
    """What came of the claims: judgments, claims without one by reason, and candidates dropped by rule."""

    claims: int = 0
    candidates: int = 0
    judgments: list[WrittenJudgment] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)

    @property
    def reasons(self) -> str:
        """Why nothing may be left, for people."""
        counts = [*self.lost.most_common(), *self.dropped.most_common()]
        return ", ".join(f"{reason} {count:,}" for reason, count in counts) or "there was none"

    def figures(self) -> dict[str, Any]:
        ranked = sorted(self.scores)
        return {
            "claims": self.claims,
            "candidates": self.candidates,
            "dropped": dict(self.dropped.most_common()),
            "without_judgment": dict(self.lost.most_common()),
            "judgments": len(self.judgments),
            "median_score": round(ranked[len(ranked) // 2], 4) if ranked else None,
        }


def claims_of(pairs: Iterable[Pair], section: ProofSection, seed: int) -> Iterator[ShownPair]:
    """What is to be proved, that the labels are right: of each pair in one order drawn by seed and id, or in both."""
    for pair in pairs:
        if section.orders == "both":
            yield ShownPair(pair, "ab")
            yield ShownPair(pair, "ba")
        else:
            yield ShownPair(pair, "ba" if seed_of("order", seed, pair.id) & 1 else "ab")


class Prover:
    """A prover's prompts in tokens: cut like a judge's where a pair is too long for the model's window."""

    def __init__(self, chat: ChatTokenizer, window: int, section: ProofSection) -> None:
        """``window`` is tokens of prompt and proof together. Raises `DataError` without an end-of-text token."""
        if chat.eos_id is None:
            raise DataError("The prover's tokenizer has no end-of-text token, so a proof would never end.")
        self._chat, self._end, self._section = chat, chat.eos_id, section
        self._room = window - section.max_tokens - 1
        self._alone = chat.encode(render_prover_alone())

    def prompt(self, claim: ShownPair) -> tuple[int, ...]:
        """Raises `DataError` where not even the bare template fits."""
        return fit(self._chat, lambda c: self._chat.encode(render_prover(c, claim.letter)), claim.shown, self._room).ids

    def sampling(self, prompt: tuple[int, ...], seed: int) -> EngineRequest:
        section = self._section
        return EngineRequest(
            prompt, "generate", max_tokens=section.max_tokens, temperature=section.temperature, seed=seed
        )

    def likelihoods(self, prompt: tuple[int, ...], proof: str) -> tuple[EngineRequest, EngineRequest]:
        """How probable the proof and its end are, given the claim and alone."""
        text = (*self._chat.encode_text(proof), self._end)
        given, alone = (
            EngineRequest((*before, *text), "likelihood", scored_from=len(before)) for before in (prompt, self._alone)
        )
        return given, alone


async def prove(
    engine: Engine,
    chat: ChatTokenizer,
    claims: Sequence[ShownPair],
    section: ProofSection,
    home: Path,
    *,
    seeds: tuple[int | str, ...],
    at_once: int,
    title: str,
) -> Proved:
    """A judgment for every claim that has a proof. ``home`` gets ``proofs.jsonl`` and ``likelihoods.jsonl``.

    ``seeds`` are the run's and the round's; a candidate's own is of them, its claim and its number. Raises
    `training.generation.outcomes.GenerationError` and `DataError`.
    """
    prover = Prover(chat, engine.info.max_model_len, section)
    found = Proved(len(claims))
    prompts = dict(_prompts(prover, claims, found))
    jobs = [
        Job(f"{key}/{n}", prover.sampling(prompt, seed_of(*seeds, key, n)))
        for key, prompt in prompts.items()
        for n in range(section.candidates)
    ]
    if not jobs:
        raise DataError(f"No pair fits the prover's {engine.info.max_model_len} tokens with proofs.max_tokens.")
    await answer_all(engine, chat, jobs, home / "proofs.jsonl", title=f"{title}: proofs", at_once=at_once)
    passed = _checked(claims, prompts, home / "proofs.jsonl", section, found)
    scores: Mapping[str, Likelihoods] = {}
    if section.policy in ("ratio", "likelihood") and any(passed.values()):
        path, jobs = home / "likelihoods.jsonl", list(_scoring(prover, prompts, passed))
        await answer_all(engine, chat, jobs, path, title=f"{title}: scores", at_once=at_once)
        scores = _likelihoods(path)
    for claim in claims:
        if claim.key in prompts:
            _keep(claim, passed[claim.key], scores, section, seeds, found)
    return found


def _prompts(prover: Prover, claims: Sequence[ShownPair], found: Proved) -> Iterator[tuple[str, tuple[int, ...]]]:
    for claim in claims:
        try:
            yield claim.key, prover.prompt(claim)
        except DataError:
            found.lost[NO_ROOM] += 1


def _scoring(
    prover: Prover, prompts: Mapping[str, tuple[int, ...]], passed: Mapping[str, Mapping[str, Proof]]
) -> Iterator[Job]:
    for key, proofs in passed.items():
        for candidate, proof in proofs.items():
            given, alone = prover.likelihoods(prompts[key], proof.text)
            yield Job(f"{candidate}/given", given)
            yield Job(f"{candidate}/alone", alone)


def _checked(
    claims: Sequence[ShownPair],
    prompts: Mapping[str, tuple[int, ...]],
    path: Path,
    section: ProofSection,
    found: Proved,
) -> dict[str, dict[str, Proof]]:
    """By claim, the different proofs that pass, by candidate."""
    answers = dict(read_answers(path))
    passed: dict[str, dict[str, Proof]] = {}
    for claim in claims:
        if claim.key not in prompts:
            continue
        proofs: dict[str, Proof] = {}
        for n in range(section.candidates):
            answer = answers[f"{claim.key}/{n}"]
            found.candidates += 1
            if not isinstance(answer, Answer):
                found.dropped[FAILED] += 1
                continue
            written = Written(answer.text, answer.tokens, answer.finish_reason == "stop")
            proof = check(written, claim.shown, claim.letter, section.limits)
            if isinstance(proof, str):
                found.dropped[proof] += 1
            elif proof not in proofs.values():
                proofs[f"{claim.key}/{n}"] = proof
        passed[claim.key] = proofs
    return passed


def _likelihoods(path: Path) -> dict[str, Likelihoods]:
    """Both likelihoods of every candidate; those that could not be read are NaN."""
    values: dict[str, float] = {}
    for key, answer in read_answers(path):
        known = answer.log_likelihood if isinstance(answer, Answer) else None
        values[key] = float("nan") if known is None else known
    candidates = dict.fromkeys(key.rpartition("/")[0] for key in values)
    return {key: Likelihoods(values[f"{key}/given"], values[f"{key}/alone"]) for key in candidates}


def _keep(
    claim: ShownPair,
    proofs: Mapping[str, Proof],
    scores: Mapping[str, Likelihoods],
    section: ProofSection,
    seeds: tuple[int | str, ...],
    found: Proved,
) -> None:
    if not proofs:
        found.lost[NONE_LEFT] += 1
        return
    candidates = list(proofs)
    likelihoods = [scores.get(key) for key in candidates]
    kept = choose(likelihoods, section.policy, seed_of("choice", *seeds, claim.key))
    if kept is None:
        found.lost[NO_SCORE] += 1
        return
    if (likelihood := likelihoods[kept]) is not None:
        found.scores.append(likelihood.score)
    found.judgments.append(WrittenJudgment(claim.pair, claim.order, proofs[candidates[kept]].rationale))
