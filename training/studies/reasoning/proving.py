"""The prover (GRAM-R2, arXiv 2509.02492, section 3): it is told the label and writes the rationale that proves it.

Its prompt is the judge's, then the label and the cue `PROVE`; its text the judge's. A share of what it learns stands
behind the cue alone: the published score of a proof needs its probability without the pair, which would otherwise be
asked of a model that never saw a text begin there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.studies.backbone import derived_seed
from training.studies.fitting import Plan
from training.studies.judges import Shape
from training.studies.reasoning.rationales import PROVE, Cases, Floats
from training.studies.reasoning.writers import AT_ONCE, Rows, Writer, learn, new_writer, text_loss
from training.studies.tasks import Integers

ALONE = 0.1
"""Weight of the loss of texts without their pair."""


def prover_prompts(prompt: Integers, label: Integers) -> Integers:
    """[B, P + 2] of the judge's prompts [B, P] and the labels to be proven [B]."""
    return np.concatenate([prompt, label[:, None], np.full((len(prompt), 1), PROVE)], axis=1)


def train_prover(cases: Cases, shape: Shape, plan: Plan, seed: int) -> Writer:
    """A fresh prover from true rationales."""
    prover = new_writer(shape, derived_seed("prover", seed))
    rows = Rows.of(prover_prompts(cases.prompt, cases.label), cases.text)
    learn(prover, rows, plan, derived_seed("proofs", seed), proof_loss)
    return prover


def proof_loss(prover: Writer, rows: Rows) -> Tensor:
    """GRAM-R2's L_p, and a little of the same without the pair."""
    few = rows.take(torch.arange(max(1, len(rows) // 4)))
    return text_loss(prover, rows) + ALONE * text_loss(prover, without_pair(few))


def without_pair(rows: Rows) -> Rows:
    """The same texts behind the cue alone."""
    return Rows(rows.prompt[:, -1:], rows.text)


def log_likelihood(prover: Writer, rows: Rows) -> Floats:
    """[B], nats: of whole texts."""
    parts = torch.arange(len(rows)).split(AT_ONCE)
    with torch.inference_mode():
        sums = [prover.log_p(rows.prompt[part], rows.text[part]).sum(1).double().numpy() for part in parts]
    return np.concatenate(sums)


def ratio_score(with_pair: Floats, alone: Floats) -> Floats:
    """GRAM-R2's score of proofs, at most 0, from log-likelihoods given pair and label, and alone; high is good."""
    score: Floats = -with_pair / alone
    return score
