"""The data cards, of each round and of the run, written from the manifest alone.

``rounds/NN/card.md`` says how many pairs and proofs were kept and dropped by which rule, and how many pseudo-labels are
right where gold is known; ``card.md`` and ``rounds.png`` in the run's directory put the rounds beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.card import table
from training.evaluation.statistics import wilson_interval
from training.selftrain.directory import Figures, RunDirectory
from training.selftrain.picture import Rounds, draw_rounds
from training.selftrain.recipe import SelfTrainRecipe

MEASURES = ("accuracy", "accuracy_one_order", "parse_rate", "flip_rate", "verdict_mass", "tokens")


def write_card(directory: RunDirectory, recipe: SelfTrainRecipe) -> None:
    """The cards of every round that is done, and the run's."""
    done = directory.done()
    for number in range(1, recipe.rounds + 1):
        if _step(number, "train") in done:
            home = directory.path / "rounds" / f"{number:02}"
            _write(home / "card.md", _round(number, done, recipe))
            _write(home / "card.json", [json.dumps(_of_round(number, done), indent=1)])
    judges = judges_of(recipe, done)
    draw_rounds(_rounds(judges, done, recipe), directory.path / "rounds.png")
    _write(directory.path / "card.md", _run(judges, done, recipe))


def judges_of(recipe: SelfTrainRecipe, done: Mapping[str, Figures]) -> dict[str, Figures]:
    """What each trained judge reported, by its name, in the order they were trained."""
    steps = {"start: labelled only": "start/train"}
    steps |= {f"round {n}": _step(n, "train") for n in range(1, recipe.rounds + 1)}
    steps["final: people's rationales"] = "final/train"
    return {name: done[step] for name, step in steps.items() if step in done}


def summary(recipe: SelfTrainRecipe, done: Mapping[str, Figures]) -> list[str]:
    """The judges' written accuracy on held-out pairs, a line each, for the terminal."""
    judges, pairs = judges_of(recipe, done), evaluated_pairs(recipe, done)
    if not any("accuracy" in figures for figures in judges.values()):
        return ["no data.evaluation: no judge was measured"]
    lines = [f"held-out pairs judged in writing, both orders (n = {pairs}):"]
    for name, figures in judges.items():
        lines.append(f"  {name:<28}accuracy {interval(figures.get('accuracy'), pairs)}   {figures['steps']} steps")
    return lines


def evaluated_pairs(recipe: SelfTrainRecipe, done: Mapping[str, Figures]) -> int:
    """How many held-out pairs a judge of the run was measured on."""
    limit = recipe.reason_recipe("final", "final", Path("x"), "x", (Path("x"),)).evaluation.limit
    held_out = int(done["prepare"]["evaluation"])
    return held_out if limit is None else min(limit, held_out)


def interval(share: float | None, total: int) -> str:
    """A share with its 95 % interval (Wilson), or a dash."""
    if share is None or not total:
        return "-"
    low, high = wilson_interval(share * total, total)
    return f"{share:.3f} [{low:.3f}, {high:.3f}]"


def _of_round(number: int, done: Mapping[str, Figures]) -> dict[str, Any]:
    return {step: done.get(_step(number, step)) for step in ("votes", "proofs", "train")}


def _round(number: int, done: Mapping[str, Figures], recipe: SelfTrainRecipe) -> Iterator[str]:
    votes, proofs = done.get(_step(number, "votes")), done.get(_step(number, "proofs"))
    yield f"# Round {number} of {recipe.version}\n"
    if votes is None or proofs is None:
        yield f"A control: the steps of this round of {recipe.steps_like}, without an unlabelled pair.\n"
    else:
        yield from _labels(votes, recipe)
        yield from _proofs(proofs, recipe)
    yield from _trained(done[_step(number, "train")], evaluated_pairs(recipe, done))


def _labels(votes: Figures, recipe: SelfTrainRecipe) -> Iterator[str]:
    section = recipe.labels
    yield "## Labels\n"
    how = f"{section.votes} votes of each display order; kept from a mean probability of {section.min_confidence} on"
    yield f"{how if section.source == 'judge' else 'The own (gold) labels of the pairs: an upper bound'}.\n"
    dropped = [(f"dropped: {reason}", f"{count:,}") for reason, count in votes["dropped"].items()]
    yield from table(("pairs", "number"), [("read", f"{votes['read']:,}"), *dropped, ("kept", f"{votes['kept']:,}")])
    yield ""
    if votes["kept_gold_known"]:
        known, right = votes["kept_gold_known"], votes["kept_right"]
        yield f"Right among the {known:,} kept with a known gold label: {interval(right / known, known)}."
    if votes["gold_known"]:
        known, right = votes["gold_known"], votes["right"]
        yield f"Had every decided label been kept: {interval(right / known, known)} of {known:,}.\n"
        yield from table(("confidence from", "pairs", "gold known", "right"), list(map(_class, votes["confidence"])))
    yield ""


def _class(row: Mapping[str, Any]) -> tuple[str, ...]:
    known = row["gold_known"]
    share = interval(row["right"] / known, known) if known else "-"
    return f"{row['from']:.2f}", f"{row['pairs']:,}", f"{known:,}", share


def _proofs(proofs: Figures, recipe: SelfTrainRecipe) -> Iterator[str]:
    section = recipe.proofs
    yield "## Rationales\n"
    if section.writer == "prover":
        yield f"{section.candidates} proofs a pair at temperature {section.temperature}, kept by {section.policy}.\n"
    else:
        yield "The judge's own votes for its label, one a pair by chance: no prover.\n"
    dropped = [(f"dropped: {rule}", f"{count:,}") for rule, count in proofs["dropped"].items()]
    yield from table(("written", "number"), [("all", f"{proofs['candidates']:,}"), *dropped])
    yield ""
    lost = [(f"without: {reason}", f"{count:,}") for reason, count in proofs["without_judgment"].items()]
    kept = ("with a judgment", f"{proofs['judgments']:,}")
    yield from table(("labels", "number"), [("all", f"{proofs['claims']:,}"), *lost, kept])
    if proofs["median_score"] is not None:
        yield f"\nMedian score of the kept proofs: {proofs['median_score']}."
    yield ""


def _trained(figures: Figures, pairs: int) -> Iterator[str]:
    yield "## The judge\n"
    yield f"{figures['steps']:,} optimizer steps. Held-out pairs judged in writing, both orders:\n"
    rows = [(name, f"{figures[name]:.3f}") for name in MEASURES if figures.get(name) is not None]
    yield from table(("figure", "value"), rows)
    if "accuracy" in figures:
        yield f"\nAccuracy with its 95 % interval ({pairs:,} pairs): {interval(figures['accuracy'], pairs)}."
    yield ""


def _run(judges: Mapping[str, Figures], done: Mapping[str, Figures], recipe: SelfTrainRecipe) -> Iterator[str]:
    prepared, pairs = done["prepare"], evaluated_pairs(recipe, done)
    yield f"# {recipe.version}\n"
    yield "![Accuracy of the judges, labels and rationales of each round](rounds.png)\n"
    yield "## Judges\n"
    heads = ("judge", "steps", "accuracy in writing (95 %)", "one order", "with a verdict")
    yield from table(heads, [_judge(name, figures, pairs) for name, figures in judges.items()])
    yield f"\n{pairs:,} held-out pairs in both orders; a pair without a verdict in either is wrong.\n"
    if recipe.steps_like:
        yield f"A control of {recipe.steps_like}: the same first judge and number of steps, no unlabelled pair.\n"
    else:
        yield "Whether rounds help is told by a control of as many steps without unlabelled pairs (steps_like).\n"
    yield "## Data\n"
    rows = [("people's rationales", prepared["rationales"]), ("labelled pairs", prepared["labelled"])]
    rows += [(f"unlabelled pairs of round {n + 1}", size) for n, size in enumerate(prepared["unlabelled"])]
    rows += [(f"dropped: {reason}", count) for reason, count in prepared["dropped"].items()]
    yield from table(("input", "number"), [(name, f"{count:,}") for name, count in rows])
    yield "\n## Rationales of labelled pairs\n"
    yield from _proofs(done["start/proofs"], recipe)


def _judge(name: str, figures: Figures, pairs: int) -> tuple[str, ...]:
    shares = (figures.get("accuracy_one_order"), figures.get("parse_rate"))
    rest = ("-" if share is None else f"{share:.3f}" for share in shares)
    return name, f"{figures['steps']:,}", interval(figures.get("accuracy"), pairs), *rest


def _rounds(judges: Mapping[str, Figures], done: Mapping[str, Figures], recipe: SelfTrainRecipe) -> Rounds:
    numbers = [n for n in range(1, recipe.rounds + 1) if _step(n, "proofs") in done]
    return Rounds(
        {name.partition(":")[0]: figures["accuracy"] for name, figures in judges.items() if "accuracy" in figures},
        evaluated_pairs(recipe, done),
        {n: done[_step(n, "votes")] for n in numbers},
        {n: done[_step(n, "proofs")] for n in numbers},
    )


def _step(number: int, step: str) -> str:
    return f"rounds/{number:02}/{step}"


def _write(path: Path, lines: Iterator[str] | Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    part.replace(path)
