"""GRAM's second stage at demo size: one transformer from scratch that labels pairs directly and with a rationale.

Reads top to bottom: tokenizer, model, steps, evaluation, checkpoint. Left out, and why: stage one (pre-training on
unlabeled pairs) is replaced by a language-model term on the better response, which at this size teaches the answers in
the same pass; there is no data loader, because a step's pairs are drawn from (seed, step) in milliseconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from service.judging import gram, gram_r2
from service.manifest import JudgeEntry, Manifest, SelfTest
from training.data.demo_tasks import ALL_TASKS, DemoPair, draw
from training.data.encoding import Encoder, Row, padded
from training.data.tokenizer import build_tokenizer
from training.demo_configs import LossSection, OptimizerSection, Recipe
from training.evaluation.demo import LabelReport, heldout_pairs
from training.evaluation.demo_judge import DemoJudge
from training.objectives.language_model import language_model_loss
from training.objectives.preference import preference_loss
from training.stages.shared_prefix import hidden_after_prefix

RATIONALE_TOKENS = 160
"""Limit of a written judgment; the trained ones take 50 to 70 tokens."""

log = logging.getLogger(__name__)


def finetune(recipe: Recipe, output: Path, *, resume: bool = False) -> None:
    """Train the demo judge and write its checkpoint directory."""
    check_tasks(recipe)
    torch.set_num_threads(recipe.optimizer.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(
        recipe.tokenizer.vocab_size,
        recipe.tokenizer.pairs_per_task,
        recipe.seed,
        recipe.model.max_position_embeddings,
    )
    model = build_model(recipe, tokenizer)
    judge = DemoJudge(model, tokenizer)
    share_delimiters(model, judge)
    run = Run(recipe, model, judge)
    if resume:
        run.restore()
    log.info("%.2f M parameters, %d tokens", sum(p.numel() for p in model.parameters()) / 1e6, len(tokenizer))

    for step in (bar := tqdm(range(run.step, recipe.optimizer.steps), mininterval=5)):
        bar.set_postfix_str(run.train_step(step))
        if (step + 1) % recipe.evaluation.every == 0:
            run.evaluate()
            run.save_state()

    save_checkpoint(recipe, model, tokenizer, output)
    final = measure(recipe, output)
    (run.runs / "final.json").write_text(json.dumps(final, indent=1) + "\n", encoding="utf-8")


def check_tasks(recipe: Recipe) -> None:
    """Raises `ValueError` for a task the family does not have."""
    if unknown := set(recipe.data.task_weights) - set(ALL_TASKS):
        raise ValueError(f"The recipe names unknown tasks: {', '.join(sorted(unknown))}.")


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A fresh Qwen3 transformer of the recipe's shape, in float32."""
    config = Qwen3Config(
        **recipe.model.model_dump(exclude={"rope_theta"}),
        rope_parameters={"rope_type": "default", "rope_theta": recipe.model.rope_theta},
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


def share_delimiters(model: Qwen3ForCausalLM, judge: DemoJudge) -> None:
    """Give both families' response brackets the same first embeddings: what one format learns then serves both."""
    weight = model.model.embed_tokens.weight.data
    weight[list(judge.rationale.delimiter_ids)] = weight[list(judge.label.delimiter_ids)]


class Run:
    """The moving parts of a run: model, optimizers, history."""

    def __init__(self, recipe: Recipe, model: Qwen3ForCausalLM, judge: DemoJudge) -> None:
        self.recipe, self.model, self.judge = recipe, model, judge
        self.step = 0
        self.history: list[dict[str, object]] = []
        self.optimizers, self.schedules = build_optimizers(model, recipe.optimizer)
        names, weights = zip(*sorted(recipe.data.task_weights.items()), strict=True)
        self.tasks, self.weights = list(names), list(weights)
        self.runs = Path("runs") / recipe.version
        self.runs.mkdir(parents=True, exist_ok=True)
        self.state_path = self.runs / "state.pt"
        self._start = time.monotonic()

    def train_step(self, step: int) -> str:
        """One optimizer step; returns what the progress bar shows."""
        data = self.recipe.data
        rng = Random(f"{self.recipe.seed}/{step}")
        written = step % data.rationale_every == data.rationale_every - 1
        encoder = self.judge.rationale if written else self.judge.label
        pairs = self.draw_pairs(rng, data.rationale_pairs if written else data.label_pairs, self.plain_share(step))
        rows = encoder.alternating_orders(pairs)
        rows.sort(key=lambda row: len(row.ids))
        shown: dict[str, float] = {}
        for group in groups(rows, data.length_groups):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optimizer.bfloat16):
                hidden, ids = self.hidden(encoder, group)
                loss, parts = (
                    rationale_loss(self.model, hidden, ids, group, self.recipe.loss)
                    if written
                    else label_loss(self.model, hidden, group, encoder, self.recipe.loss)
                )
                help_, told = helper_losses(self.model, hidden, ids, group, encoder, self.recipe.loss)
            share = len(group) / len(rows)
            (share * (loss + help_)).backward()
            for name, value in {**parts, **told}.items():
                shown[name] = shown.get(name, 0.0) + value * share
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.step = step + 1
        self.history.append({"step": self.step, **shown})
        return " ".join(f"{name} {value:.3f}" for name, value in shown.items())

    def plain_share(self, step: int) -> float:
        """Share of pairs without style noise: all at first, falling to none."""
        start, end = self.recipe.data.plain_until, self.recipe.data.styled_from
        done = step / self.recipe.optimizer.steps
        return min(1.0, max(0.0, (end - done) / (end - start)))

    def draw_pairs(self, rng: Random, n: int, plain_share: float) -> list[DemoPair]:
        tasks = rng.choices(self.tasks, self.weights, k=n)
        return [draw(task, rng, from_held_out=False, plain=rng.random() < plain_share) for task in tasks]

    def hidden(self, encoder: Encoder, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Hidden states [rows, length, width] of the rows' own tokens, and those tokens [rows, length]."""
        ids = torch.tensor(padded(rows, self.model.config.pad_token_id))
        return hidden_after_prefix(self.model, torch.tensor(encoder.prefix), ids), ids

    def evaluate(self) -> None:
        """Held-out accuracy of the weights as they are; kept in the history and logged."""
        settings = self.recipe.evaluation
        report = self.judge.label_report(heldout_pairs(settings.label_pairs, settings.seed, self.tasks))
        written = self.judge.rationale_report(heldout_pairs(settings.rationale_pairs, settings.seed + 1, self.tasks))
        seconds = time.monotonic() - self._start
        self.history.append(
            {
                "step": self.step,
                "seconds": round(seconds, 1),
                "accuracy": report.accuracy,
                "flip_rate": report.flip_rate,
                "label_mass": report.label_mass,
                "rationale_accuracy": written.accuracy,
                "rationale_parsed": written.parsed,
                "by_task": report.by_task,
                "rationale_by_task": written.by_task,
            }
        )
        log.info("step %d, %.0f s: %s; rationale %s", self.step, seconds, summary(report), written.accuracy)
        log.info("rationale by task: %s", {t: f"{c}/{n}" for t, (c, n) in written.by_task.items()})
        self.write_history()

    def save_state(self) -> None:
        """Everything needed to go on from here, in one file that is replaced at once."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
            "history": self.history,
        }
        part = self.state_path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.state_path)

    def restore(self) -> None:
        """Go on from the last saved state. Raises `FileNotFoundError` when there is none."""
        state = torch.load(self.state_path, weights_only=True)
        self.step, self.history = state["step"], state["history"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)

    def write_history(self) -> None:
        (self.runs / "history.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in self.history), encoding="utf-8"
        )


def label_loss(
    model: Qwen3ForCausalLM, hidden: Tensor, rows: list[Row], encoder: Encoder, loss: LossSection
) -> tuple[Tensor, dict[str, float]]:
    """Preference loss at the cue."""
    at = torch.tensor([row.prompt_len - 1 for row in rows])
    result = preference_loss(
        model.lm_head(hidden[torch.arange(len(rows)), at]),
        torch.tensor(encoder.label_ids),
        torch.tensor([row.label for row in rows]),
        smoothing=loss.smoothing,
        label_mass_weight=loss.label_mass_weight,
    )
    return result.loss, {"accuracy": result.accuracy.item(), "ranking": result.ranking.item()}


def helper_losses(
    model: Qwen3ForCausalLM, hidden: Tensor, ids: Tensor, rows: list[Row], encoder: Encoder, loss: LossSection
) -> tuple[Tensor, dict[str, float]]:
    """What speeds up both formats: the better response as text, and a verdict on each response by itself."""
    spoken = span_loss(model, hidden, ids, [row.chosen for row in rows])
    verdict = response_verdict_loss(model, hidden, rows, encoder.verdict_ids)
    parts = {"verdict": verdict.item(), "chosen": spoken.item()}
    return loss.chosen_lm_weight * spoken + loss.response_verdict_weight * verdict, parts


def response_verdict_loss(
    model: Qwen3ForCausalLM, hidden: Tensor, rows: list[Row], verdict_ids: tuple[int, int]
) -> Tensor:
    """Is this response right? Asked at the token that closes it, where nothing is known yet of a later response.

    A label is one bit that says which of two answers fits; these are the two bits it is made of, and learning starts
    from them much earlier than from the label alone.
    """
    at = torch.tensor([row.ends for row in rows])
    closing = hidden[torch.arange(len(rows))[:, None], at]
    pair = model.lm_head(closing).float()[..., list(verdict_ids)]
    is_wrong = torch.tensor([[row.label, 1 - row.label] for row in rows])
    return cross_entropy(pair.flatten(0, 1), is_wrong.flatten())


def rationale_loss(
    model: Qwen3ForCausalLM, hidden: Tensor, ids: Tensor, rows: list[Row], settings: LossSection
) -> tuple[Tensor, dict[str, float]]:
    """GRAM-R2's objective (arXiv 2509.02492): language-model loss of the judgment, label included."""
    loss = span_loss(model, hidden, ids, [(row.prompt_len, len(row.ids)) for row in rows])
    return settings.rationale_weight * loss, {"written": loss.item()}


def span_loss(model: Qwen3ForCausalLM, hidden: Tensor, ids: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Mean loss over the tokens of one half-open range per row; only those positions meet the vocabulary matrix."""
    row = torch.tensor([r for r, (start, end) in enumerate(spans) for _ in range(start, end)])
    column = torch.tensor([c for start, end in spans for c in range(start, end)])
    return language_model_loss(model.lm_head(hidden[row, column - 1]), ids[row, column])


def groups(rows: list[Row], count: int) -> Iterator[list[Row]]:
    """The rows in ``count`` consecutive groups of nearly equal size."""
    size = -(-len(rows) // count)
    return (rows[i : i + size] for i in range(0, len(rows), size))


def build_optimizers(
    model: Qwen3ForCausalLM, settings: OptimizerSection
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for matrices inside the layers, AdamW for the rest, under one schedule."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    vectors = [p for name, p in named if not (p.ndim == 2 and "embed" not in name)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=settings.matrix_lr, weight_decay=settings.matrix_weight_decay),
        torch.optim.AdamW(vectors, lr=settings.vector_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    decay_start = int(settings.decay_from * settings.steps)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
        left = (settings.steps - step) / max(1, settings.steps - decay_start)
        return warm * min(1.0, left)

    return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]


def summary(report: LabelReport) -> str:
    """One line: the bars, then accuracy per task."""
    tasks = " ".join(f"{task} {correct / total:.2f}" for task, (correct, total) in report.by_task.items())
    return f"accuracy {report.accuracy:.3f} flips {report.flip_rate:.3f} mass {report.label_mass:.3f} | {tasks}"


def save_checkpoint(recipe: Recipe, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write the directory the service loads: bfloat16 weights, tokenizer, manifest."""
    output.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    label = SelfTest("What is the capital of France?", "Paris", "Rome", 0.7)
    longest = recipe.model.max_position_embeddings
    Manifest(
        recipe.version,
        (
            JudgeEntry("demo", gram.FAMILY.name, gram.FAMILY.template, gram.FAMILY.labels, longest - 1, 0, label),
            JudgeEntry(
                "demo-r2",
                gram_r2.FAMILY.name,
                gram_r2.FAMILY.template,
                gram_r2.FAMILY.labels,
                longest - RATIONALE_TOKENS,
                RATIONALE_TOKENS,
                label,
            ),
        ),
    ).save(output)


def measure(recipe: Recipe, checkpoint: Path) -> dict[str, object]:
    """Read the checkpoint back as a user would (bfloat16 weights, run in float32) and judge fresh held-out pairs."""
    model = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    judge = DemoJudge(model, AutoTokenizer.from_pretrained(checkpoint))
    settings, tasks = recipe.evaluation, sorted(recipe.data.task_weights)
    report = judge.label_report(heldout_pairs(settings.final_label_pairs, settings.seed + 100, tasks))
    written = judge.rationale_report(heldout_pairs(settings.final_rationale_pairs, settings.seed + 100, tasks))
    log.info("final: %s", summary(report))
    log.info("final rationale: accuracy %.4f parsed %.4f %s", written.accuracy, written.parsed, written.by_task)
    return {"label": asdict(report), "rationale": asdict(written)}
