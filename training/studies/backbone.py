"""Stage 1 of the studies: a transformer that has read unlabelled pairs, kept for the runs that begin from it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from training.studies.fitting import Plan, fit, fresh, stage_one
from training.studies.judges import Judge, Shape, new_judge, prompt_ids, response_ids, stage_one_rows
from training.studies.tasks import PairSet, Source, draw, right_answers


def derived_seed(*purpose: object) -> int:
    """A seed for each purpose, the same on every machine: what must be paired is given the same words."""
    text = "/".join(map(str, purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def random_for(*purpose: object) -> np.random.Generator:
    """`derived_seed` as a generator."""
    return np.random.default_rng(derived_seed(*purpose))


def pretrain(
    shape: Shape, source: Source, plan: Plan, seed: int, path: Path, *, foreign_prompts: bool = False
) -> dict[str, float]:
    """Train a fresh transformer on unlabelled pairs and save its weights; says how well it writes answers.

    ``foreign_prompts`` is the control: the same text statistics and as many steps, but no response fits its prompt.
    """
    judge = new_judge("generative", shape, derived_seed("weights", seed))
    batches = fresh(source, plan.batch, derived_seed("unlabelled", seed), foreign_prompts=foreign_prompts)
    loss = fit(judge, batches, plan, stage_one, judge.body, derived_seed("order", seed))
    save_weights(judge, path)
    return {"loss": loss, **written_digits(judge, source, seed)}


def written_digits(judge: Judge, source: Source, seed: int) -> dict[str, float]:
    """Share of digits of right answers that are the most likely next token, given the prompt and the digits before."""
    held = replace(source, test=True)
    return {"digits/accuracy": next_digit_accuracy(judge, draw(held, 500, random_for("written", seed)))}


def next_digit_accuracy(judge: Judge, pairs: PairSet) -> float:
    """Of the answers as first response, in stage 1's own format."""
    right = right_answers(pairs.task, pairs.prompt)
    prompt, answers = prompt_ids(pairs.task, pairs.prompt), response_ids(np.c_[right, np.zeros(len(pairs), np.int64)])
    ids, at = stage_one_rows(prompt, answers, answers)
    digits = at[: answers.shape[1] - 1]
    with torch.inference_mode():
        guesses = judge.logits(judge.hidden(ids)[:, digits - 1]).argmax(-1)
    return float((guesses == ids[:, digits]).float().mean())


def save_weights(judge: Judge, path: Path) -> None:
    """Whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_model(judge.body, str(part))
    part.replace(path)


def begin_from(judge: Judge, path: Path) -> None:
    """Take over a saved transformer; a scalar head stays fresh."""
    load_model(judge.body, str(path))
