"""Recipes of stages whose model learns to write: `reason` and `distill` make judges, `prove` a prover; `grpo` goes on.

The first three are one stage, `training.stages.writing`; they differ in the rows they read and in what they leave
behind. `grpo` (`training.stages.grpo`) rewards what a judge writes by its verdict.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.configs import (
    DataSection,
    Fraction,
    Name,
    OutputSection,
    Positive,
    Rate,
    Section,
    StageRecipe,
    Weight,
)


class JudgmentFiles(DataSection):
    """``train``: files of written judgments (`training.data.judgments`); ``evaluation``: labelled pairs."""

    swap: Literal["none"] = "none"
    """A judgment speaks of one order; a builder that wants both writes both."""


class TextFiles(DataSection):
    """``train`` and ``evaluation``: files of prompts with the text that answers them (`training.data.writing`)."""

    swap: Literal["none"] = "none"


class WritingObjective(Section):
    """Next-token loss of the text and of the token that ends it, given the prompt: a mean over all tokens of a step."""

    name: Literal["writing"] = "writing"


class WriterOutput(OutputSection):
    """The judge of a stage that teaches to write."""

    judge: Name = "judge"
    max_rationale_tokens: Positive | None = None
    """What the judge may write when it is served and evaluated; None: half as much again as the longest text learned,
    at most half of the model's positions."""


class ReasonRecipe(StageRecipe):
    """A judge that writes a rationale, then the label: GRAM-R2's first and its last fine-tuning (arXiv 2509.02492)."""

    stage: Literal["reason"]
    data: JudgmentFiles
    objective: WritingObjective = WritingObjective()
    output: WriterOutput
    family: Literal["gram_r2", "rm_r1"] = "gram_r2"
    template: Literal["", "release", "instruct", "reasoner"] = ""
    """Which of the family's prompts; empty: its first."""


class DistillRecipe(StageRecipe):
    """RM-R1's first stage (arXiv 2505.02387, section 3.2): Chain-of-Rubrics traces of a stronger model."""

    stage: Literal["distill"]
    data: JudgmentFiles
    objective: WritingObjective = WritingObjective()
    output: WriterOutput
    family: Literal["rm_r1"] = "rm_r1"
    template: Literal["instruct", "reasoner"] = "instruct"


class ProveRecipe(StageRecipe):
    """GRAM-R2's prover: given a pair and its label, the proof that the label is right. No judge, so no judge.json."""

    stage: Literal["prove"]
    data: TextFiles
    objective: WritingObjective = WritingObjective()


WritingRecipe = ReasonRecipe | DistillRecipe | ProveRecipe


class PolicyData(DataSection):
    """Labelled pairs; ``max_tokens`` is the prompt's own limit, what is written comes on top."""

    max_tokens: Positive = 4096
    swap: Literal["both", "random"] = "random"
    """Each pair in both orders, or in one drawn anew each epoch."""
    task_types: dict[Name, Literal["reasoning", "chat"]] = Field(default_factory=dict)
    """Of which type a subset (or a source) is, to log how often the judge names it; others are unknown."""


class RolloutSection(Section):
    """One rollout samples ``group`` judgments for each of ``prompts`` prompts; updates follow on all of them."""

    prompts: Positive = 1024
    group: Annotated[int, Field(ge=2)] = 7
    temperature: Rate = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: Positive = 8192
    """A judgment that is longer is cut off, and rewarded as one without a verdict."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """``vllm`` shares the training GPUs (colocated). Sampling by transformers can be resumed bit by bit; vLLM's not."""
    gpu_memory: Fraction = 0.4
    """Share of a GPU's memory for vLLM."""
    tensor_parallel: Positive = 1
    sleep: bool = True
    """vLLM leaves the GPU's memory while weights are updated."""


class GrpoObjective(Section):
    """GRPO (arXiv 2402.03300) with a verdict's reward of +1 or -1, in RM-R1's settings.

    ``kl`` weighs the k3 estimate of the divergence from the starting model inside the loss; ``clip`` bounds the
    probability ratio. ``loss`` says how tokens are averaged, ``scale`` by which deviation advantages are divided.
    """

    name: Literal["grpo"] = "grpo"
    kl: Weight = 1e-3
    clip: Rate = 0.2
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"
    scale: Literal["group", "batch", "none"] = "group"
    mask_cut: bool = False
    """Leave judgments that were cut off out of the loss instead of rewarding them with -1."""


class PolicyOutput(WriterOutput):
    select: Literal["best", "last"] = "best"
    """The saved state whose held-out accuracy was highest, or the last; without ``data.evaluation`` the last."""


class GrpoRecipe(StageRecipe):
    """RM-R1's second stage (arXiv 2505.02387, section 3.3). ``batch.rows`` counts sampled judgments of an update."""

    stage: Literal["grpo"]
    data: PolicyData
    rollout: RolloutSection = RolloutSection()
    objective: GrpoObjective = GrpoObjective()
    output: PolicyOutput
    family: Literal["rm_r1", "gram_r2"] = "rm_r1"
    template: Literal["", "release", "instruct", "reasoner"] = ""
    """Which of the family's prompts; empty: its first."""

    @property
    def updates(self) -> int:
        """Optimizer steps on the judgments of one rollout."""
        return self.rollout.prompts * self.rollout.group // self.batch.rows

    @model_validator(mode="after")
    def _rollouts_are_whole(self) -> Self:
        if not self.model.path:
            raise ValueError("grpo starts from a model that writes judgments: give model.path.")
        if self.rollout.prompts * self.rollout.group % self.batch.rows:
            raise ValueError("rollout.prompts x rollout.group must be a multiple of batch.rows.")
        if self.output.save_every % self.updates:
            raise ValueError(f"output.save_every must be a multiple of the {self.updates} updates of a rollout.")
        if self.selects and self.evaluation.every % self.output.save_every:
            raise ValueError("with output.select = best, evaluation.every must be a multiple of output.save_every.")
        if self.batch.shared_prefix or self.optimizer.name == "muon":
            raise ValueError("grpo has neither batch.shared_prefix nor muon.")
        return self

    @property
    def selects(self) -> bool:
        """Is a state chosen by held-out accuracy?"""
        return bool(self.data.evaluation) and self.evaluation.every > 0 and self.output.select == "best"
