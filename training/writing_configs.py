"""Recipes of stages whose model learns to write: `reason` and `distill` make judges, `prove` makes a prover.

The three are one stage, `training.stages.writing`; they differ in the rows they read and in what they leave behind.
"""

from __future__ import annotations

from typing import Literal

from training.configs import DataSection, Name, OutputSection, Positive, Section, StageRecipe


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
