"""GRAM-R2's self-training from beginning to end (arXiv 2509.02492, section 3), as one resumable run.

1. the prover learns from people's rationales, as proofs;  2. it writes rationales for the labelled pairs;
3. the first judge learns from these;
4. each round: the judge votes on unlabelled pairs, uncertain labels go, the prover says why the others are right, bad
   proofs go, and a judge is trained from the backbone on everything so far;
5. the last judge is fine-tuned on people's rationales.

Each call of `RunDirectory.step` below is a step of that directory's manifest. What a step writes depends on the recipe
and the steps before it only: each sampled text has a seed of its own (run, round, pair, order, number).
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.tokenization import ChatTokenizer
from training.configs import StageRecipe
from training.data.judgments import ShownPair, write_judgments
from training.data.pairs import DataError, Pair, read_pairs, write_pairs
from training.generation.engines import offline_engine, open_judge
from training.presets import toml_text
from training.selftrain.card import write_card
from training.selftrain.directory import Figures, RunDirectory, fingerprint, opened, read_manifest
from training.selftrain.preparing import Prepared, prepare
from training.selftrain.proving import Proved, claims_of, prove
from training.selftrain.recipe import SelfTrainRecipe
from training.selftrain.voting import Labelled, gold_labels, own_rationales, vote
from training.stages.states import HISTORY
from training.stages.writing import learn_to_write
from training.writing_configs import ProveRecipe, ReasonRecipe

log = logging.getLogger(__name__)


def selftrain(recipe: SelfTrainRecipe, *, resume: bool = False) -> Path:
    """Run what is not done yet; returns the last judge's checkpoint. The card is in the run's directory.

    Raises `DataError`, `SaveError`, `training.stages.errors.TrainingDiverged` and
    `training.generation.outcomes.GenerationError`; after each of them the run goes on with ``resume``.
    """
    with opened(recipe.run, _made_from(recipe), resume=resume) as directory:
        run = _Run(recipe, directory)
        if recipe.steps_like:
            run.take_over(Path(recipe.steps_like))
        else:
            run.begin()
        for number in range(1, recipe.rounds + 1):
            run.round(number)
        return run.finish()


class _Run:
    """The steps, in the words of the module's list."""

    def __init__(self, recipe: SelfTrainRecipe, directory: RunDirectory) -> None:
        self.recipe, self.directory = recipe, directory
        self.prepared = Prepared(recipe.run / "data", 0 if recipe.steps_like else recipe.rounds)
        self.prover = Path(recipe.prover) if recipe.prover else recipe.run / "prover" / "checkpoint"
        self.judge = recipe.run / "start" / "checkpoint"
        self.files: list[Path] = []
        """Everything so far: what the next judge is trained on."""

    def begin(self) -> None:
        """Files, prover, rationales of the labelled pairs, first judge."""
        home = self.recipe.run / "start"
        self.directory.step("prepare", self.prepared.files, lambda: prepare(self.recipe, self.prepared.home))
        if not self.recipe.prover:
            made = self.recipe.prove_recipe(self.prepared.proofs)
            self._train("prover", made)
        self._prove("start/proofs", home, lambda: list(read_pairs(self.prepared.labelled)), 0)
        self.files.append(home / "judgments.jsonl")
        self._train("start/train", self.recipe.reason_recipe("start", "start", home, self.recipe.backbone, self.files))
        write_card(self.directory, self.recipe)

    def take_over(self, other: Path) -> None:
        """A control begins where the run it controls began: its rationales of labelled pairs, its first judge."""
        steps = read_manifest(other)["steps"]
        needed = ["prepare", "start/proofs", "start/train", *(_name(n + 1, "train") for n in range(self.recipe.rounds))]
        if missing := [name for name in needed if name not in steps]:
            raise DataError(f"steps_like: {other} has not done {missing[0]} yet; finish that run first.")
        for name in needed[:3]:
            self.directory.step(name, [], lambda name=name: steps[name]["figures"])  # type: ignore[misc]
        self.prepared = Prepared(other / "data", 0)
        self.files, self.judge = [other / "start" / "judgments.jsonl"], other / "start" / "checkpoint"

    def round(self, number: int) -> None:
        """Label, prove, train."""
        home = self.recipe.run / "rounds" / f"{number:02}"
        steps = None
        if self.recipe.steps_like:
            steps = _steps_of(Path(self.recipe.steps_like), _name(number, "train"))
        else:
            self._label(number, home)
            self._prove(_name(number, "proofs"), home, lambda: list(read_pairs(home / "kept.jsonl")), number)
            self.files.append(home / "judgments.jsonl")
        path = self.recipe.backbone if self.recipe.retrain else str(self.judge)
        name = f"round-{number:02}"
        self._train(_name(number, "train"), self.recipe.reason_recipe("round", name, home, path, self.files, steps))
        self.judge = home / "checkpoint"
        write_card(self.directory, self.recipe)

    def finish(self) -> Path:
        """People's rationales last."""
        home = self.recipe.run / "final"
        files = [self.prepared.rationales]
        self._train("final/train", self.recipe.reason_recipe("final", "final", home, str(self.judge), files))
        write_card(self.directory, self.recipe)
        return home / "checkpoint"

    def _label(self, number: int, home: Path) -> None:
        def work() -> Figures:
            pairs = list(read_pairs(self.prepared.unlabelled(number)))
            found = (
                gold_labels(pairs) if self.recipe.labels.source == "gold" else asyncio.run(self._vote(pairs, number))
            )
            if not found.kept:
                dropped = ", ".join(f"{reason} {count:,}" for reason, count in found.dropped.most_common())
                raise DataError(
                    f"Round {number}: no label is left of {found.read:,} ({dropped}); lower labels.min_confidence, or "
                    "train the first judge better."
                )
            write_pairs(home / "kept.jsonl", found.kept)
            return found.figures()

        files = [home / "kept.jsonl"]
        self.directory.step(_name(number, "votes"), files, work)

    async def _vote(self, pairs: Sequence[Pair], number: int) -> Labelled:
        engine = self.recipe.engine
        async with open_judge(self.judge, None, engine.kind, **engine.options) as judge:
            votes = self.recipe.run / "rounds" / f"{number:02}" / "votes.jsonl"
            return await vote(judge, pairs, self.recipe.labels, self.recipe.seed, number, votes, engine.at_once)

    def _prove(self, name: str, home: Path, pairs: Any, number: int) -> None:
        def work() -> Figures:
            section, seeds = self.recipe.proofs, (self.recipe.seed, number)
            if number and section.writer == "judge":
                found = own_rationales(pairs(), home / "votes.jsonl", section, seeds)
            else:
                found = asyncio.run(
                    self._write_proofs(list(claims_of(pairs(), section, self.recipe.seed)), home, number)
                )
            if not found.judgments:
                raise DataError(
                    f"{name}: no rationale is left of {found.claims:,} ({found.reasons}); train the prover better, or "
                    "widen the limits of proofs."
                )
            write_judgments(home / "judgments.jsonl", found.judgments)
            return found.figures()

        self.directory.step(name, [home / "judgments.jsonl"], work)

    async def _write_proofs(self, claims: Sequence[ShownPair], home: Path, number: int) -> Proved:
        engine, section = self.recipe.engine, self.recipe.proofs
        async with offline_engine(self.prover, engine.kind, **engine.options) as started:
            return await prove(
                started,
                chat_of(self.prover),
                claims,
                section,
                home,
                seeds=(self.recipe.seed, number),
                at_once=engine.at_once,
                title=f"round {number}" if number else "labelled pairs",
            )

    def _train(self, name: str, recipe: ProveRecipe | ReasonRecipe) -> None:
        """One training, here or by ``stages.launch``; its states to go on from are removed once it is done."""

        def work() -> Figures:
            resume = any(recipe.run_directory.glob("checkpoint-*"))
            if self.recipe.stages.launch:
                self._launch(recipe, resume)
            else:
                train_here(recipe, resume=resume)
            return _figures(recipe)

        self.directory.step(name, [Path(recipe.output.directory)], work)
        for state in recipe.run_directory.glob("checkpoint-*"):
            shutil.rmtree(state)

    def _launch(self, recipe: ProveRecipe | ReasonRecipe, resume: bool) -> None:
        file = Path(recipe.output.directory).parent / "recipe.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(toml_text(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        command = [*shlex.split(self.recipe.stages.launch), "-m", "training", recipe.stage, str(file)]
        log.info("%s", shlex.join(command))
        done = subprocess.run(  # noqa: S603  # the recipe's own command
            [*command, *(["--resume"] if resume else [])], check=False, pass_fds=(self.directory.lock.fileno(),)
        )
        if done.returncode:
            raise DataError(f"{shlex.join(command)} ended with status {done.returncode}; see above, then use --resume.")


def train_here(recipe: ProveRecipe | ReasonRecipe, *, resume: bool) -> None:
    """The stage, in this process; the model is let go of before the next step loads its own."""
    learn_to_write(recipe, resume=resume)
    gc.collect()


def chat_of(checkpoint: Path) -> ChatTokenizer:
    """Its tokenizer, which makes control tokens of the template only."""
    return ChatTokenizer.load(str(checkpoint))


def _name(number: int, step: str) -> str:
    return f"rounds/{number:02}/{step}"


def _steps_of(run: Path, name: str) -> int:
    """Optimizer steps that a training step of another run took."""
    return int(read_manifest(run)["steps"][name]["figures"]["steps"])


def _figures(recipe: StageRecipe) -> dict[str, Any]:
    """Steps taken, and the last evaluation where there was one."""
    history = (recipe.run_directory / HISTORY).read_text(encoding="utf-8").splitlines()
    final = recipe.run_directory / "final.json"
    measured = json.loads(final.read_text(encoding="utf-8")) if final.exists() else {}
    return {"steps": max(json.loads(line)["step"] for line in history), **measured}


def _made_from(recipe: SelfTrainRecipe) -> dict[str, Any]:
    """What the run's results depend on, by contents: where files lie, what computes and how many at once is not."""
    data = recipe.data
    files = {name: getattr(data, name) for name in ("labelled", "unlabelled", "rationales")}
    files["evaluation"] = (data.evaluation,) if data.evaluation else ()
    models = {name: getattr(recipe, name) for name in ("backbone", "prover_backbone", "prover")}
    left_out: dict[str, Any] = {
        "directory": True,
        "engine": True,
        "expect": True,
        "steps_like": True,
        "stages": {"launch"},
    }
    left_out |= dict.fromkeys(models, True) | {"data": set(files)}
    like = [str(Path(recipe.steps_like) / "manifest.json")] if recipe.steps_like else []
    try:
        return {
            "recipe": recipe.model_dump(mode="json", exclude=left_out),
            "data": {name: [fingerprint(Path(file)) for file in found] for name, found in files.items()},
            "models": {name: fingerprint(Path(path)) if Path(path).is_dir() else path for name, path in models.items()},
            "control of": [fingerprint(Path(file)) for file in like],
        }
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); check the recipe's files.") from error
