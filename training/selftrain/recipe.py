"""The recipe of a whole self-training run: one TOML file, read without torch.

The tables of ``stages`` are those of `training.writing_configs` without what the run itself decides (files, the
checkpoint to start from, directories, versions): ``shared`` for all, then ``prove``, ``start``, ``round`` (on top of
``start``) and ``final``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from training.configs import Fraction, Name, Positive, Rate, Section
from training.data.pairs import DataError
from training.presets import merged
from training.recipe_files import read_checked, wrong_keys
from training.selftrain.rules import Limits
from training.selftrain.selection import Policy
from training.writing_configs import ProveRecipe, ReasonRecipe

Step = Literal["start", "round", "final"]
_OWN = ("stage", "version", "family", "model.path", "data.train", "data.evaluation", "output.directory", "output.runs")
Files = tuple[Name, ...]


class DataFiles(Section):
    """What goes in. Labels of ``unlabelled`` pairs, where a file has them, are gold: they measure, and are not used."""

    labelled: Annotated[Files, Field(min_length=1)]
    """Pairs with a label and without a rationale (the paper's D_r)."""
    unlabelled: Files = ()
    """Pairs to be labelled by the judge (D_u), divided among the rounds by the seed. May be empty for a control."""
    rationales: Annotated[Files, Field(min_length=1)]
    """Written judgments by people (`training.data.judgments`, family gram_r2): they teach the prover, and come last."""
    evaluation: str = ""
    """Held-out labelled pairs: every judge of the run writes judgments of them. Pairs found there are never trained."""
    decontaminate: Files = ()
    """Benchmark files or folders; pairs whose prompt one of them asks are dropped (`training.data.decontamination`)."""
    pairs_per_round: Positive | None = None
    """At most so many unlabelled pairs a round; None: all of them, in equal parts."""


class LabelSection(Section):
    """How unlabelled pairs get their label."""

    source: Literal["judge", "gold"] = "judge"
    """``gold`` takes the file's own labels: the upper bound of a study, no way to train on unlabelled pairs."""
    votes: Positive = 8
    """Judgments of each display order."""
    min_confidence: Fraction = 0.8
    """Labels below are dropped (`training.selftrain.labelling`). The paper has a threshold and does not name it."""


class ProofSection(Section):
    """How a label gets its rationale. The paper names neither the number of proofs nor their temperature."""

    writer: Literal["prover", "judge"] = "prover"
    """``judge`` keeps one of the judge's own votes instead, in rounds: what the paper argues against."""
    candidates: Positive = 4
    temperature: Rate = 0.75
    max_tokens: Positive = 1024
    policy: Policy = "ratio"
    orders: Literal["random", "both"] = "random"
    """Show each pair in one order drawn by the seed, or prove it in both (two rows)."""
    max_copied: Fraction = 0.5
    max_repeated: Fraction = 0.3

    @property
    def limits(self) -> Limits:
        return Limits(self.max_tokens, self.max_copied, self.max_repeated)


class EngineSection(Section):
    """What writes in bulk. ``options`` are settings of that engine, such as tensor_parallel_size."""

    kind: Literal["vllm", "transformers"] = "vllm"
    options: dict[str, Any] = Field(default_factory=dict)
    at_once: Positive = 64
    """Requests inside the engine at a time."""


class StageTables(Section):
    """Tables of stage recipes. ``launch``: the command that starts a training step, such as ``accelerate launch
    --num_processes 8``; empty: it runs in this process."""

    shared: dict[str, Any] = Field(default_factory=dict)
    prove: dict[str, Any] = Field(default_factory=dict)
    start: dict[str, Any] = Field(default_factory=dict)
    round: dict[str, Any] = Field(default_factory=dict)
    final: dict[str, Any] = Field(default_factory=dict)
    launch: str = ""


class ExpectSection(Section):
    """How much there will be, for the plan (`training.selftrain.planning`) only: rows, and mean tokens."""

    rationales: Positive
    labelled: Positive
    unlabelled_a_round: Positive
    kept: Fraction
    """Share of unlabelled pairs that become a judgment: a guess until a round is done."""
    row_tokens: Positive
    """Of a training row, prompt and text."""
    text_tokens: Positive
    """Of a written judgment or proof."""


class SelfTrainRecipe(Section):
    """A whole run of GRAM-R2."""

    stage: Literal["selftrain"]
    version: Name
    """Begins the versions of all checkpoints: ``VERSION-start``, ``VERSION-round-01``, ``VERSION-final`` ..."""
    seed: int = 1
    directory: Name
    backbone: Name
    """Directory or hub id the judge starts from."""
    prover_backbone: str = ""
    """Of the prover; empty: ``backbone``."""
    prover: str = ""
    """A finished prover's checkpoint, instead of training one."""
    rounds: Positive = 3
    retrain: bool = True
    """Each round trains from the backbone on everything so far, as published; False goes on from the last round's
    judge on everything so far: with a shorter schedule in stages.round a third of the cost."""
    steps_like: str = ""
    """The directory of another run. Makes this one its control: no unlabelled pair, the same number of steps."""
    data: DataFiles
    labels: LabelSection = LabelSection()
    proofs: ProofSection = ProofSection()
    engine: EngineSection = EngineSection()
    stages: StageTables = StageTables()
    expect: ExpectSection | None = None

    @model_validator(mode="after")
    def _has_something_to_label(self) -> Self:
        if bool(self.data.unlabelled) == bool(self.steps_like):
            raise ValueError("give data.unlabelled, or steps_like for a control without it.")
        return self

    @model_validator(mode="after")
    def _stages_leave_the_runs_own_fields(self) -> Self:
        for name in ("shared", "prove", "start", "round", "final"):
            table = getattr(self.stages, name)
            if own := next((key for key in _OWN if _has(table, key)), None):
                raise ValueError(f"stages.{name}.{own} is decided by the run; leave it out.")
        return self

    @property
    def run(self) -> Path:
        return Path(self.directory)

    def prove_recipe(self, texts: Path) -> ProveRecipe:
        """The prover's training on ``texts``. Raises `DataError`."""
        home = self.run / "prover"
        path = self.prover_backbone or self.backbone
        return ProveRecipe.model_validate(self._fields("prove", ("prove",), "prover", home, path, (texts,), ""))

    def reason_recipe(
        self, step: Step, name: str, home: Path, path: str, files: Sequence[Path], steps: int | None = None
    ) -> ReasonRecipe:
        """The judge's training on ``files`` from the checkpoint ``path``; ``steps`` replaces the schedule's length."""
        tables = ("start",) if step == "start" else ("final",) if step == "final" else ("start", "round")
        fields = self._fields("reason", tables, name, home, path, files, self.data.evaluation)
        fields = merged(fields, {"family": "gram_r2"} | ({"schedule": {"steps": steps}} if steps else {}))
        return ReasonRecipe.model_validate(fields)

    def check(self) -> None:
        """Every stage's recipe, made once with stand-ins. Raises `DataError` naming table and field."""
        try:
            self.prove_recipe(Path("x"))
        except ValidationError as error:
            raise _told("prove", error) from error
        self.judge_stages()

    def judge_stages(self) -> list[ReasonRecipe]:
        """The judges' trainings (first, of a round, last), with stand-ins for paths. Raises `DataError`."""
        steps: tuple[Step, ...] = ("start", "round", "final")
        return [self._stand_in(step) for step in steps]

    def _stand_in(self, step: Step) -> ReasonRecipe:
        try:
            return self.reason_recipe(step, step, Path("x"), "x", (Path("x"),))
        except ValidationError as error:
            raise _told(step, error) from error

    def _fields(
        self,
        stage: str,
        tables: Sequence[str],
        name: str,
        home: Path,
        path: str,
        files: Sequence[Path],
        evaluation: str,
    ) -> dict[str, Any]:
        fields: Mapping[str, Any] = self.stages.shared
        for table in tables:
            fields = merged(fields, getattr(self.stages, table))
        own = {
            "stage": stage,
            "version": f"{self.version}-{name}",
            "seed": self.seed,
            "model": {"path": path},
            "data": {"train": tuple(map(str, files)), "evaluation": evaluation},
            "output": {"directory": str(home / "checkpoint"), "runs": str(home / "training")},
        }
        return dict(merged(fields, own))


def _has(table: Mapping[str, Any], key: str) -> bool:
    first, _, rest = key.partition(".")
    value = table.get(first)
    return value is not None and (not rest or (isinstance(value, Mapping) and _has(value, rest)))


def _told(name: str, error: ValidationError) -> DataError:
    return DataError(f"stages.{name} (with stages.shared): {wrong_keys(error)}.")


def load_selftrain(path: Path) -> SelfTrainRecipe:
    """Read and check a recipe file. Raises `DataError` naming the file and every wrong key."""
    recipe = read_checked(path, SelfTrainRecipe.model_validate)
    try:
        recipe.check()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return recipe
