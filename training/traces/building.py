"""Traces in two passes: a teacher judges each pair; where it is wrong it is told the verdict and writes again.

    first.jsonl    every answer of the first pass          second.jsonl   every answer of the second
    traces.jsonl   judgments to learn from                 dropped.jsonl  every pair without one, and why
    card.json, card.md   counts by reason

The hint of the second pass is in the question of that pass alone. What is kept is a judgment with its *pair*
(`training.data.judgments`): the prompt that is trained on is rendered from the pair by the judge's family, so no hint
can be in it; that it equals, byte for byte, what the first pass was asked is checked for every row all the same. The
second pass is verified like the first (`training.data.traces`). Both files can be gone on with after an interruption,
and then give the same bytes; an answer that failed for a reason that may pass is asked for again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from service.judging.base import PairwiseFamily
from service.judging.rm_r1 import INSTRUCT, REASONER
from service.types import Order, Rendered, Usage
from training.data.judgments import ShownPair, WrittenJudgment, read_judgments, write_judgments
from training.data.pairs import DataError, Pair, shown_swapped, write_objects
from training.data.traces import FLAWS, flaw
from training.generation.bulk import Run
from training.generation.ledger import Ledger, Row, digest_of, read_rows, unique
from training.generation.outcomes import Failure
from training.traces.teacher import Messages, Reply, Teacher

HINT = (files("training.traces") / "prompts" / "second_pass.txt").read_text(encoding="utf-8")
IN_FLIGHT = 16
Orders = Literal["random", "both"]


def family_of(template: str) -> PairwiseFamily:
    """RM-R1 with one of its two prompts."""
    return {one.template: one for one in (INSTRUCT, REASONER)}[template]  # type: ignore[index]


def cases_of(pairs: Sequence[Pair], orders: Orders, seed: int) -> list[ShownPair]:
    """What is asked about: every pair in both orders, or in one drawn by the seed.

    Raises `DataError` for pairs without a label.
    """
    for pair in pairs:
        if pair.label is None:
            raise DataError(f"Pair {pair.id}, field label: missing; a trace is verified against the label.")
    if orders == "both":
        return [ShownPair(pair, order) for pair in pairs for order in _BOTH]
    return [ShownPair(pair, _BOTH[shown_swapped(pair, seed)]) for pair in pairs]


_BOTH: tuple[Order, Order] = ("ab", "ba")


async def build_traces(
    cases: Sequence[ShownPair],
    family: PairwiseFamily,
    directory: Path,
    first: Teacher,
    second: Teacher | None = None,
    at_once: int = IN_FLIGHT,
) -> dict[str, Any]:
    """Ask, verify, correct, verify, write. Returns the card. ``second``: another teacher for corrections.

    Raises `DataError` for files of another run, `GenerationError` when the endpoint cannot be asked.
    """
    unique(case.key for case in cases)
    by_key = {case.key: case for case in cases}
    questions = {key: _messages(family.render(case.shown)) for key, case in by_key.items()}
    answers = await _ask(directory / "first.jsonl", questions, first, family, "first pass", at_once)
    flaws = {key: _flaw(by_key[key], answers[key], family) for key in by_key}
    again = {key: _again(questions[key], answers[key], by_key[key]) for key in by_key if flaws[key] in FLAWS}
    corrected: dict[str, Reply | Failure] = {}
    if again:
        corrected = await _ask(directory / "second.jsonl", again, second or first, family, "second pass", at_once)
    second_flaws = {key: _flaw(by_key[key], corrected[key], family, _hint(by_key[key])) for key in again}
    kept = {key: answers[key] for key in by_key if flaws[key] is None}
    kept |= {key: corrected[key] for key in again if second_flaws[key] is None}
    return _write(directory, by_key, family, questions, kept, flaws, second_flaws)


async def _ask(
    path: Path, questions: dict[str, Messages], teacher: Teacher, family: PairwiseFamily, title: str, at_once: int
) -> dict[str, Reply | Failure]:
    made_by = {**teacher.endpoint.identity, "family": family.name, "template": family.template}
    asked = {key: digest_of(*(tuple(m.items()) for m in messages)) for key, messages in questions.items()}
    run = Run(title)

    async def answer(key: str) -> Row | Failure:
        found = await teacher.ask(questions[key])
        if isinstance(found, Failure):
            return found
        run.count(Usage(prompt_tokens=found.prompt_tokens, completion_tokens=found.tokens))
        return {"text": found.text, "finished": found.finished, "tokens": found.tokens, "read": found.prompt_tokens}

    with Ledger(path, made_by, asked) as ledger:
        await run.all(ledger, list(asked), answer, at_once)
    return {row["key"]: _outcome(row) for row in read_rows(path)}


def _outcome(row: Row) -> Reply | Failure:
    if "error" in row:
        return Failure(row["error"], row["message"])
    return Reply(row["text"], row["finished"], row["tokens"], row["read"])


def _flaw(case: ShownPair, answer: Reply | Failure, family: PairwiseFamily, hint: str = "") -> str | None:
    if isinstance(answer, Failure):
        return answer.code
    return flaw(answer.text, answer.finished, case.letter, family, case.shown, hint)


def _messages(rendered: Rendered) -> Messages:
    return tuple({"role": m.role, "content": m.content} for m in rendered.messages)


def _hint(case: ShownPair) -> str:
    return HINT.replace("{letter}", case.letter)


def _again(question: Messages, answer: Reply | Failure, case: ShownPair) -> Messages:
    """The first question, what was answered if anything, and the hint: a new list, the question stays as it is."""
    said = answer.text if isinstance(answer, Reply) else ""
    before: tuple[dict[str, str], ...] = ({"role": "assistant", "content": said},) if said.strip() else ()
    return (*question, *before, {"role": "user", "content": _hint(case)})


def _write(
    directory: Path,
    by_key: dict[str, ShownPair],
    family: PairwiseFamily,
    questions: dict[str, Messages],
    kept: dict[str, Reply | Failure],
    flaws: dict[str, str | None],
    second: dict[str, str | None],
) -> dict[str, Any]:
    rows = [
        (key, WrittenJudgment(case.pair, case.order, _text(kept[key]), family.name))
        for key, case in by_key.items()
        if key in kept
    ]
    lost = [
        {"id": case.pair.id, "order": case.order, "first": flaws[key], "second": second.get(key)}
        for key, case in by_key.items()
        if key not in kept
    ]
    directory.mkdir(parents=True, exist_ok=True)
    if rows:
        write_judgments(directory / "traces.jsonl", (row for _, row in rows))
        _check_prompts(directory / "traces.jsonl", [questions[key] for key, _ in rows], family)
    write_objects(directory / "dropped.jsonl", lost)
    card = _card(family, len(by_key), flaws, second, len(rows))
    (directory / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (directory / "card.md").write_text(card_text(card), encoding="utf-8")
    return card


def _text(answer: Reply | Failure) -> str:
    assert isinstance(answer, Reply), "only replies are kept"
    return answer.text.strip()


def _check_prompts(path: Path, questions: Sequence[Messages], family: PairwiseFamily) -> None:
    """What will be trained on, read back from the file, is the first pass's question: no word of the second's."""
    for row, question in zip(read_judgments(path), questions, strict=True):
        row.require_verdict()
        if _messages(family.render(row.shown)) != question:
            raise DataError(f"{path}, pair {row.pair.id}: the stored prompt differs from the one that was asked.")


def _card(
    family: PairwiseFamily, asked: int, flaws: dict[str, str | None], second: dict[str, str | None], kept: int
) -> dict[str, Any]:
    first_flaws = Counter(flaw for flaw in flaws.values() if flaw)
    second_flaws = Counter(flaw for flaw in second.values() if flaw)
    return {
        "family": family.name,
        "template": family.template,
        "asked": asked,
        "right_at_once": asked - first_flaws.total(),
        "corrected": len(second) - second_flaws.total(),
        "kept": kept,
        "dropped": asked - kept,
        "first_pass": dict(sorted(first_flaws.items())),
        "second_pass": dict(sorted(second_flaws.items())),
    }


def card_text(card: dict[str, Any]) -> str:
    """The card as a page."""
    reasons = sorted({*card["first_pass"], *card["second_pass"]})
    table = "\n".join(
        f"| {name} | {card['first_pass'].get(name, 0)} | {card['second_pass'].get(name, 0)} |" for name in reasons
    )
    return (
        f"# Traces for {card['family']}, template {card['template']}\n\n"
        f"{card['asked']} asked for, {card['right_at_once']} right at once, {card['corrected']} corrected in the "
        f"second pass, {card['kept']} kept, {card['dropped']} dropped (`dropped.jsonl`).\n\n"
        f"| flaw | first pass | second pass |\n|---|---|---|\n{table}\n"
    )
