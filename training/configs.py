"""Typed recipes: one TOML file per run, read without torch. Unknown keys are errors, so no typo trains silently.

``stage`` says which kind a file is: GRAM's four here, those of judges that write in `writing_configs`. What a file
leaves out has the default below; what the stages share is in `StageRecipe`. `recipe_files.load_recipe` reads one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.pairs import DataError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Smoothing = Annotated[float, Field(ge=0.0, lt=0.5)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of a recipe: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScratchSection(Section):
    """Shape of a fresh Qwen3 transformer, in the words of its config.json. Only small ones are trained from nothing."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive
    rope_theta: Rate = 10000.0
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads.")
        return self


class LoraSection(Section):
    """Low-rank adapters instead of all weights; they are merged into the saved checkpoint."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.0
    targets: tuple[Name, ...] = ("all-linear",)


class ModelSection(Section):
    """Where training starts: ``path`` (directory or hub id), or ``scratch`` with the tokenizer of ``tokenizer``."""

    path: str = ""
    revision: str | None = None
    scratch: ScratchSection | None = None
    tokenizer: str = ""
    """Directory or hub id; empty: the model's own."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: memory of one layer instead of all, a third more time."""
    lora: LoraSection | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if bool(self.path) == (self.scratch is not None):
            raise ValueError("give either path or scratch.")
        if self.scratch is not None and not self.tokenizer:
            raise ValueError("a model from scratch needs a tokenizer.")
        return self


class DataSection(Section):
    """Files of preference pairs (`training.data.pairs`), relative to the working directory."""

    train: Annotated[tuple[Name, ...], Field(min_length=1)]
    evaluation: str = ""
    """Held-out labelled pairs, judged in both orders during training and for the self-test; empty: none."""
    max_tokens: Positive = 2048
    """Longer rows are cut: both responses alike, never the header or the cue (`training.data.lengths`)."""
    limit: Count | None = None
    """Train on this many pairs only, drawn by the seed; 0 writes the starting checkpoint again."""
    swap: Literal["both", "random", "none"] = "both"
    """Each pair in both orders (two rows), in one order drawn anew each epoch, or as it is in the file."""
    shuffle: bool = True
    """False: in the order of the files, for a curriculum."""
    workers: Count = 0
    """Processes that make rows ahead of the model, for each process that trains; 0: made when they are needed."""


class OptimizerSection(Section):
    """AdamW; ``muon`` trains matrices inside the layers by Muon at ``matrix_learning_rate``, the rest by AdamW."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: Rate
    matrix_learning_rate: Rate | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Weight = 0.0
    clip_norm: Rate = 1.0

    @model_validator(mode="after")
    def _muon_has_a_rate(self) -> Self:
        if (self.name == "muon") != (self.matrix_learning_rate is not None):
            raise ValueError("matrix_learning_rate belongs to muon, and muon needs it.")
        return self


class ScheduleSection(Section):
    """Linear warm-up over a part of the run, then ``kind``. The run takes ``epochs``, or ``steps`` where given."""

    kind: Literal["cosine", "linear", "constant", "trapezoid"] = "cosine"
    warmup: Fraction = 0.1
    epochs: Rate = 1.0
    steps: Positive | None = None
    decay_from: Fraction = 0.8
    """``trapezoid`` only: the part of the run after which the rate falls linearly to zero."""


class BatchSection(Section):
    """``rows`` of one optimizer step, over all processes; ``rows_per_device`` run at once, the rest accumulates.

    A row is one sequence; for the reward stage one pair of sequences.
    """

    rows: Positive
    rows_per_device: Positive
    shared_prefix: bool = False
    """Run the instruction that all rows begin with once a batch, with gradient: exact, for one process only."""

    def accumulation(self, processes: int) -> int:
        """Micro-batches of a step. Raises `DataError` when ``rows`` is not a multiple of what runs at once."""
        at_once = self.rows_per_device * processes
        if self.rows % at_once:
            raise DataError(
                f"batch.rows = {self.rows} is not a multiple of rows_per_device x processes = {at_once}; change either."
            )
        return self.rows // at_once


class PrecisionSection(Section):
    """``compute`` is the type of matrix products, ``weights`` that of parameters and optimizer state."""

    compute: Literal["float32", "bfloat16"] = "bfloat16"
    weights: Literal["float32", "bfloat16"] = "float32"


class EvaluationSection(Section):
    """Accuracy in both orders, flips, label mass and calibration on ``data.evaluation``."""

    every: Count = 200
    """Optimizer steps between evaluations; 0: only at the end."""
    limit: Positive | None = None
    """Judge the first so many pairs only."""
    rows_per_device: Positive = 16


class SelfTestSection(Section):
    """The evaluation pair the service asks the judge before it serves; without one the trainer picks the surest."""

    prompt: Name
    chosen: Name
    rejected: Name


class OutputSection(Section):
    """``directory`` gets the finished checkpoint, ``runs`` the state to go on from, the curves and the history."""

    directory: Name
    runs: str = "runs"
    judge: Name = "gram"
    """The judge's name in judge.json."""
    save_every: Positive = 500
    keep: Positive = 2
    """Saved states kept; the older ones go."""
    weights: Literal["float32", "bfloat16"] = "bfloat16"
    self_test: SelfTestSection | None = None


class TrackerSection(Section):
    """Where curves go: a tracker transformers knows by name (tensorboard, wandb, mlflow, trackio ...), or none."""

    name: Name = "tensorboard"
    every: Positive = 10


class LanguageModelObjective(Section):
    """Stage 1: next-token loss over both responses."""

    name: Literal["language_model"] = "language_model"


class PreferenceObjective(Section):
    """Stage 2. ``smoothing`` is alpha, the target mass of the wrong label: half of PyTorch's ``label_smoothing``."""

    name: Literal["preference"] = "preference"
    smoothing: Smoothing = 0.05
    label_mass_weight: Weight = 0.0
    """Weight of -log(p(A) + p(B)) over the whole vocabulary, at the one position the label is read."""
    judgment_weight: Weight = 0.0
    """Weight of the language-model loss of written judgments (data.judgments): GRAM-R2's objective."""
    chosen_weight: Weight = 0.0
    """Weight of the language-model loss of the better response inside the prompt."""
    verdict_weight: Weight = 0.0
    """Weight of a two-way loss, " right" against " wrong", where each response ends: two more answers a pair."""


class BradleyTerryObjective(Section):
    """The discriminative baselines. ``margin`` subtracts the pair's own margin; ``smoothing`` is alpha as above."""

    name: Literal["bradley_terry"] = "bradley_terry"
    smoothing: Smoothing = 0.0
    margin: bool = False
    centering: Weight = 0.0
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near zero."""
    text_regularizer: Literal["none", "sft", "dpo", "dpo_noref"] = "none"
    """GRM's regulariser (arXiv 2406.10216): the language-model head goes on generating on the shared backbone. ``dpo``
    compares with the model training starts from, whose log-probabilities are taken once before the first step."""
    text_weight: Fraction = 0.01
    text_beta: Rate = 0.1
    freeze_backbone: bool = False


class StageRecipe(Section):
    """What every stage's recipe holds."""

    version: Name
    """Names the weights: scores of different versions are never mixed."""
    seed: int = 1
    model: ModelSection
    data: DataSection
    optimizer: OptimizerSection
    schedule: ScheduleSection = ScheduleSection()
    batch: BatchSection
    precision: PrecisionSection = PrecisionSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: OutputSection
    tracker: TrackerSection = TrackerSection()

    @property
    def run_directory(self) -> Path:
        """Saved states, history and curves of this run."""
        return Path(self.output.runs) / self.version


class PretrainRecipe(StageRecipe):
    """GRAM stage 1: write both responses, given the prompt. Labels are not used."""

    stage: Literal["pretrain"]
    objective: LanguageModelObjective = LanguageModelObjective()


class JudgmentDataSection(DataSection):
    judgments: tuple[Name, ...] = ()
    """Files of written judgments (`training.data.judgments`), spread evenly among the pairs."""


class FinetuneRecipe(StageRecipe):
    """GRAM stage 2: which of two responses is better."""

    stage: Literal["finetune"]
    data: JudgmentDataSection
    objective: PreferenceObjective = PreferenceObjective()
    family: Literal["gram"] = "gram"

    @model_validator(mode="after")
    def _judgments_have_a_weight(self) -> Self:
        if bool(self.data.judgments) != (self.objective.judgment_weight > 0):
            raise ValueError("data.judgments and objective.judgment_weight go together.")
        return self


class AdaptRecipe(StageRecipe):
    """A GRAM checkpoint on few pairs of a new domain, all weights or low-rank adapters."""

    stage: Literal["adapt"]
    objective: PreferenceObjective = PreferenceObjective()
    family: Literal["gram"] = "gram"

    @model_validator(mode="after")
    def _starts_from_a_judge(self) -> Self:
        if not self.model.path:
            raise ValueError("adapt starts from a GRAM checkpoint: give model.path.")
        if self.objective.judgment_weight or self.objective.verdict_weight:
            raise ValueError("adapt learns labels only: judgment_weight and verdict_weight must be 0.")
        return self


class RewardRecipe(StageRecipe):
    """A discriminative reward model, the baseline: one number for each response."""

    stage: Literal["reward"]
    objective: BradleyTerryObjective = BradleyTerryObjective()
