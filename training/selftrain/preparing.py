"""The run's own files, made once: what is kept of the inputs, what is not and why, and which pairs are whose round.

Left out, each under its own name: pairs a benchmark asks (`training.data.decontamination`), pairs that are held out for
the evaluation, pairs with two equal responses, and pairs that were there before (labelled ones first, then unlabelled
ones; the same texts the other way round are the same pair).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from training.data.decontamination import Benchmarks, benchmark_prompts
from training.data.judgments import WrittenJudgment, read_judgments, write_judgments
from training.data.pairs import DataError, Pair, read_pairs, write_pairs
from training.data.proofs import Proof, ProofError, render_prover
from training.data.writing import Text, write_texts
from training.selftrain.recipe import DataFiles, SelfTrainRecipe
from training.stages.datasets import check_self_test

FAMILY = "prover"
"""The family of a prover's rows: no judge's."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Where the run's own files lie."""

    home: Path
    rounds: int

    @property
    def labelled(self) -> Path:
        return self.home / "labelled.jsonl"

    @property
    def rationales(self) -> Path:
        return self.home / "rationales.jsonl"

    @property
    def proofs(self) -> Path:
        return self.home / "proofs.jsonl"

    def unlabelled(self, number: int) -> Path:
        """Of round ``number``, from 1."""
        return self.home / f"unlabelled-{number:02}.jsonl"

    @property
    def files(self) -> list[Path]:
        return [self.labelled, self.rationales, self.proofs, *(self.unlabelled(n + 1) for n in range(self.rounds))]


@dataclass(slots=True)
class Sieve:
    """What pairs pass, and why the others do not."""

    benchmarks: Benchmarks
    held_out: frozenset[tuple[object, ...]]
    seen: set[tuple[object, ...]] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)

    def pass_(self, pair: Pair, *, once: bool = True) -> bool:
        reason = self._reason(pair, once)
        if reason:
            self.dropped[reason] += 1
        return reason is None

    def _reason(self, pair: Pair, once: bool) -> str | None:
        key = identity(pair)
        if key in self.held_out:
            return "held out for the evaluation"
        if overlap := self.benchmarks.overlap_of(pair.prompt):
            return f"benchmark {overlap[1]}: {overlap[0]}"
        if pair.response_a == pair.response_b:
            return "identical responses"
        if once and key in self.seen:
            return "there before"
        self.seen.add(key)
        return None


def identity(pair: Pair) -> tuple[object, ...]:
    """Equal for the same texts in either order, whatever label, id and source."""
    turns = tuple((message.role, message.content) for message in pair.prompt.messages)
    return turns, *sorted((pair.response_a, pair.response_b))


def prepare(recipe: SelfTrainRecipe, home: Path) -> dict[str, Any]:
    """Write the files of `Prepared`; returns the counts. Raises `DataError`, also where nothing is left of an input."""
    data = recipe.data
    made = Prepared(home, recipe.rounds if data.unlabelled else 0)
    evaluation = list(read_pairs(Path(data.evaluation))) if data.evaluation else []
    for stage in recipe.judge_stages():  # each would refuse its own; the last one only when all the work is done
        check_self_test(stage.output.self_test, evaluation)
    sieve = Sieve(_benchmarks(data), frozenset(map(identity, evaluation)))
    judgments = list(_judgments(data, sieve))
    _require(judgments, "data.rationales", sieve)
    labelled = _named(pair for pair in _pairs(data.labelled, "labelled") if _is_labelled(pair) and sieve.pass_(pair))
    _require(labelled, "data.labelled", sieve)
    unlabelled = _named(pair for pair in _pairs(data.unlabelled, "unlabelled") if sieve.pass_(pair))
    write_judgments(made.rationales, judgments)
    write_texts(made.proofs, prover_rows(judgments))
    write_pairs(made.labelled, labelled)
    sizes = [
        write_pairs(made.unlabelled(i + 1), part) for i, part in enumerate(_rounds(recipe, unlabelled, made, sieve))
    ]
    return {
        "rationales": len(judgments),
        "evaluation": len(evaluation),
        "labelled": len(labelled),
        "unlabelled": sizes,
        "dropped": dict(sieve.dropped.most_common()),
    }


def prover_rows(
    judgments: Iterable[WrittenJudgment], skipped: MutableMapping[str, int] | None = None
) -> Iterator[Text]:
    """What the prover learns from: pair and label in, the judgment's own rationale as a proof out.

    A judgment that makes no proof is counted in ``skipped`` by its fault; without, it raises `DataError` naming it.
    """
    for number, judgment in enumerate(judgments):
        try:
            proof = _proof_of(judgment)
        except ProofError as error:
            if skipped is None:
                raise DataError(f"Judgment of pair {judgment.pair.id}, field text: {error}") from error
            skipped[error.fault] = skipped.get(error.fault, 0) + 1
            continue
        yield Text(f"{judgment.pair.id}/{number}", FAMILY, render_prover(judgment.shown, proof.letter), proof.text)


def _proof_of(judgment: WrittenJudgment) -> Proof:
    proof = Proof.of_rationale(judgment.text)
    if proof.letter != judgment.letter:
        raise ProofError("disagrees with the label", "It decides against the pair's label; correct one of them.")
    return proof


def _judgments(data: DataFiles, sieve: Sieve) -> Iterator[WrittenJudgment]:
    """Judgments that make proofs. One pair may have several, in other orders or words; they are not duplicates."""
    found = chain.from_iterable(read_judgments(Path(path)) for path in data.rationales)
    for judgment in tqdm(found, desc="rationales", unit="row", disable=None):
        if judgment.family != "gram_r2":
            raise DataError(f"Judgment of pair {judgment.pair.id}, field family: must be gram_r2 to make a proof.")
        if not sieve.pass_(judgment.pair, once=False):
            continue
        try:
            _proof_of(judgment)
        except ProofError as error:
            sieve.dropped[f"rationale: {error.fault}"] += 1
        else:
            yield judgment


def _pairs(files: Sequence[str], what: str) -> Iterator[Pair]:
    found = chain.from_iterable(read_pairs(Path(path)) for path in files)
    yield from tqdm(found, desc=what, unit="row", disable=None)


def _is_labelled(pair: Pair) -> bool:
    if pair.label is None:
        raise DataError(f"data.labelled, pair {pair.id}, field label: missing; name the file in data.unlabelled.")
    return True


def _named(pairs: Iterable[Pair]) -> list[Pair]:
    """With ids that differ: answers are kept by id. Later pairs of one id get a number behind it."""
    seen: Counter[str] = Counter()
    named = []
    for pair in pairs:
        seen[pair.id] += 1
        named.append(pair if seen[pair.id] == 1 else replace(pair, id=f"{pair.id}#{seen[pair.id]}"))
    if len({pair.id for pair in named}) < len(named):
        raise DataError("Ids of pairs end in #2, #3 and so on, and clash; give the pairs ids that differ.")
    return named


def _rounds(recipe: SelfTrainRecipe, pairs: list[Pair], made: Prepared, sieve: Sieve) -> list[list[Pair]]:
    if not made.rounds:
        return []
    if recipe.labels.source == "gold" and any(pair.label is None for pair in pairs):
        raise DataError("labels.source = gold, and an unlabelled pair has no gold label; take the judge's.")
    shuffled = Random(f"rounds/{recipe.seed}").sample(pairs, len(pairs))
    size = min(recipe.data.pairs_per_round or len(pairs), len(pairs) // made.rounds)
    if not size:
        raise DataError(f"data.unlabelled has {len(pairs)} pairs for {made.rounds} rounds{_reasons(sieve)}; add pairs.")
    return [shuffled[i * size : (i + 1) * size] for i in range(made.rounds)]


def _benchmarks(data: DataFiles) -> Benchmarks:
    known = Benchmarks()
    for path in data.decontaminate:
        for prompt in benchmark_prompts(Path(path)):
            known.add(Path(path).stem, prompt)
    return known


def _require(rows: Sequence[object], what: str, sieve: Sieve) -> None:
    if not rows:
        raise DataError(f"Nothing is left of {what}{_reasons(sieve)}; name other files.")


def _reasons(sieve: Sieve) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in sieve.dropped.most_common())
    return f" (dropped: {listed})" if listed else ""
