"""RM-R1's second stage (arXiv 2505.02387, section 3.3): sampled judgments, rewarded by their verdict alone.

For each prompt the model writes a group of judgments at temperature 1; one whose verdict is the pair's label gets +1,
every other -1, and each is moved by how much better than its group it did (GRPO, arXiv 2402.03300, as TRL implements
it). The verdict is read by the family's own parser, so that training and serving agree on what counts: the published
reward searches the last 80 characters, the published evaluation anywhere. A judgment that was cut off is invalid
whatever it says; it is counted apart from wrong ones.

What TRL leaves to us, and why:

- Prompts are tokenized by the service's tokenizer: control tokens typed in a text stay text, ids are those of serving.
- The order of prompts is laid out for the whole run, so that a resumed run meets the same prompts; states are saved
  between rollouts only, because a rollout in progress is in no state.
- Held-out pairs are judged greedily in both orders; the state that does best is what is written out.
- The library's defaults differ from the paper: its KL term is multiplied by the probability ratio (switched off here),
  its loss averages over all tokens of a step ("dapo").

Left out: a reward for form (the paper finds no difference after distillation), and an entropy bonus (0 there).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerBase, TrainerCallback

from service.judging.base import PairwiseFamily, require_pairwise
from service.judging.registry import get_family
from service.tokenization import ChatTokenizer
from service.types import Comparison, Message, Rendered
from training.data.lengths import fit
from training.data.pairs import DataError, Pair, shown_swapped
from training.stages.datasets import check_self_test, evaluation_pairs, training_pairs
from training.stages.export import Judged, entry, gathered_state, pick_self_test, save_model, write_checkpoint
from training.stages.generating import Writing, as_writing, end_ids, read_opinions, write_greedily
from training.stages.models import check_positions, load_causal, load_tokenizer, require_family, with_adapters
from training.stages.run import settings, shard_on_cpu, train, write_figures
from training.stages.states import WholeStates
from training.writing_configs import GrpoRecipe

with warnings.catch_warnings():  # TRL 1.16 knows vLLM up to 0.31 and says so to everyone; it matters to engine = "vllm"
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")
    from trl import GRPOConfig, GRPOTrainer

SELF_TESTS = 8
"""Pairs that are right in both orders and read once more for their probability, to choose the self-test from."""
_DECIMALS = 6


def grpo(recipe: GrpoRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()) -> PolicyTrainer:
    """Train, choose a state, write the checkpoint. Raises `DataError`, `SaveError` and `TrainingDiverged`."""
    require_family(recipe.model.path, recipe.family)
    family = require_pairwise(get_family(recipe.family, recipe.template or None))
    tokenizer = load_tokenizer(recipe.model)
    chat = ChatTokenizer(tokenizer)
    pairs = training_pairs(recipe.data, recipe.seed, labelled=True)
    held_out = evaluation_pairs(recipe.data, recipe.evaluation.limit)
    check_self_test(recipe.output.self_test, held_out)
    steps = total_updates(recipe, len(pairs))
    args = _arguments(recipe, steps, evaluates=bool(held_out))
    model = load_causal(recipe.model, recipe.precision, tokenizer)
    check_positions(model, recipe.data.max_tokens + recipe.rollout.max_tokens)
    if recipe.model.lora is not None:
        model = with_adapters(model, recipe.model.lora)
    prompts = Prompts(recipe, chat, family)
    held_out_rows = [prompts.row(pair, swapped) for pair in held_out for swapped in (False, True)]
    trainer = PolicyTrainer(
        recipe,
        chat,
        family,
        held_out_rows,
        model=model,
        reward_funcs=[VerdictReward(chat, family, end_ids(model, chat))],
        args=args,
        train_dataset=Dataset.from_list([prompts.row(p, s) for p, s in layout(recipe, pairs, steps // recipe.updates)]),
        eval_dataset=Dataset.from_list(held_out_rows) if held_out_rows else None,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    train(trainer, resume=resume)
    trainer.take_best()
    judged = _final(recipe, trainer, held_out)
    _export(recipe, trainer, model, tokenizer, judged)
    return trainer


def total_updates(recipe: GrpoRecipe, pairs: int) -> int:
    """Optimizer steps of the run, in whole rollouts."""
    if recipe.schedule.steps is not None:
        return math.ceil(recipe.schedule.steps / recipe.updates) * recipe.updates
    prompts = pairs * (2 if recipe.data.swap == "both" else 1) * recipe.schedule.epochs
    return max(1, round(prompts / recipe.rollout.prompts)) * recipe.updates


def layout(recipe: GrpoRecipe, pairs: Sequence[Pair], rollouts: int) -> list[tuple[Pair, bool]]:
    """Every prompt of the run in its order: a pair, and whether B is shown first. Depends on seed and pairs only."""
    wanted = rollouts * recipe.rollout.prompts
    shown: list[tuple[Pair, bool]] = []
    epoch = 0
    while len(shown) < wanted:
        if recipe.data.swap == "both":
            rows = [(pair, swapped) for pair in pairs for swapped in (False, True)]
        else:
            rows = [(pair, shown_swapped(pair, recipe.seed + epoch)) for pair in pairs]
        if recipe.data.shuffle:
            Random(f"prompts/{recipe.seed}/{epoch}").shuffle(rows)
        shown += rows
        epoch += 1
    return shown[:wanted]


class Prompts:
    """Pairs as TRL's rows: a chat, and what its reward is checked against."""

    def __init__(self, recipe: GrpoRecipe, chat: ChatTokenizer, family: PairwiseFamily) -> None:
        self._data, self._chat, self._family = recipe.data, chat, family

    def row(self, pair: Pair, swapped: bool) -> dict[str, Any]:
        """Raises `DataError` naming the pair."""
        shown = pair.swapped if swapped else pair
        try:
            fitted = fit(self._chat, self._encode, shown.comparison, self._data.max_tokens)
        except DataError as error:
            raise DataError(f"Pair {pair.id}: {error}") from error
        messages = self._family.render(fitted.comparison).messages
        types = self._data.task_types
        return {
            "prompt": [{"role": m.role, "content": m.content} for m in messages],
            "letter": "A" if shown.label == "a" else "B",
            "task_type": types.get(pair.subset, types.get(pair.source, "")),
        }

    def _encode(self, comparison: Comparison) -> tuple[int, ...]:
        return self._chat.encode(self._family.render(comparison))


class VerdictReward:
    """+1 for a finished judgment whose verdict is right, -1 for every other; what they were is logged."""

    __name__ = "verdict"

    def __init__(self, chat: ChatTokenizer, family: PairwiseFamily, ends: Sequence[int]) -> None:
        self._chat, self._family, self._ends = chat, family, ends

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        letter: Sequence[str],
        task_type: Sequence[str],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        writings = [as_writing(self._chat, ids, self._ends) for ids in completion_ids]
        for name, value in figures(self._family, writings, letter, task_type).items():
            log_metric(name, value)
        return [1.0 if verdict(self._family, w) == wanted else -1.0 for w, wanted in zip(writings, letter, strict=True)]


def verdict(family: PairwiseFamily, writing: Writing) -> str:
    """The letter a finished judgment ends in, or "invalid"."""
    return family.parse(writing.text).verdict if writing.ended else "invalid"


def figures(
    family: PairwiseFamily, writings: Sequence[Writing], letters: Sequence[str], task_types: Sequence[str]
) -> dict[str, float]:
    """Shares of judgments: right, without a verdict (``cut`` ones among them), with two different verdicts; and of
    those whose task type is known (and whose prompt asks for it), the share that names it."""
    parsed = [family.parse(w.text) for w in writings]
    verdicts = [verdict(family, w) for w in writings]
    n = len(writings)
    found = {
        "accuracy": sum(v == letter for v, letter in zip(verdicts, letters, strict=True)) / n,
        "invalid_rate": verdicts.count("invalid") / n,
        "cut_rate": sum(not w.ended for w in writings) / n,
        "two_verdicts_rate": sum(p.conflicting > 0 for p in parsed) / n,
        "tokens": sum(len(w.ids) for w in writings) / n,
    }
    typed = [(p.sections.get("type", "").lower(), kind) for p, kind in zip(parsed, task_types, strict=True) if kind]
    return found | ({"type_accuracy": sum(said == kind for said, kind in typed) / len(typed)} if typed else {})


class PolicyTrainer(WholeStates, GRPOTrainer):
    """TRL's trainer on the service's tokens, judging held-out pairs meanwhile."""

    control: Any

    def __init__(
        self,
        recipe: GrpoRecipe,
        chat: ChatTokenizer,
        family: PairwiseFamily,
        held_out: Sequence[dict[str, Any]],
        **options: Any,
    ) -> None:
        """``held_out``: rows as `Prompts` makes them; 2i and 2i + 1 are the two orders of a pair."""
        super().__init__(**options)
        self.recipe, self.chat, self.family = recipe, chat, family
        self.held_out = list(held_out)

    def _send_telemetry(self) -> None:
        """Nobody is told that this runs."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run's directory holds states and curves; the checkpoint's card is its judge.json."""

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._ids(messages)) for messages in prompts], None, {}

    def _ids(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return self.chat.encode(Rendered(tuple(Message(m["role"], m["content"]) for m in messages)))

    def write_held_out(self) -> list[Writing]:
        """A greedy judgment of every held-out row, by all processes together."""
        prompts = [self._ids(row["prompt"]) for row in self.held_out]
        per_process = math.ceil(len(prompts) / self.accelerator.num_processes)
        mine = prompts[self.accelerator.process_index * per_process :][:per_process]
        real = len(mine)
        mine += [prompts[0]] * (per_process - real)  # processes that share weights must take the same steps
        was_training = self.model.training
        self.model.eval()
        batch = self.args.per_device_eval_batch_size
        written = [w for i in range(0, len(mine), batch) for w in self._greedy(mine[i : i + batch])]
        self.model.train(was_training)
        found: list[Writing] = gather_object(written[:real])
        return found

    def _greedy(self, prompts: Sequence[Sequence[int]]) -> list[Writing]:
        most = self.recipe.rollout.max_tokens
        if not self.use_vllm:
            together = self.accelerator.num_processes > 1
            pad_id = int(self._tokenizer.pad_token_id)
            return write_greedily(self.model, self.chat, prompts, most, pad_id, together=together)
        usual = self.vllm_generation.temperature
        self.vllm_generation.temperature = 0.0
        try:
            ids, _ = self._generate_single_turn([list(p) for p in prompts], None, {}, 1)
        finally:
            self.vllm_generation.temperature = usual
        return [as_writing(self.chat, one, end_ids(self.model, self.chat)) for one in ids]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Figures of the held-out pairs, with both orders' agreement, logged as ``eval_*``."""
        found = {f"eval_{name}": value for name, value in self.held_out_figures(self.write_held_out()).items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def held_out_figures(self, writings: Sequence[Writing]) -> dict[str, float]:
        letters = [row["letter"] for row in self.held_out]
        found = figures(self.family, writings, letters, [row["task_type"] for row in self.held_out])
        right = [verdict(self.family, w) == letter for w, letter in zip(writings, letters, strict=True)]
        both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
        return {name: round(v, _DECIMALS) for name, v in (found | {"both_orders": sum(both) / len(both)}).items()}

    def take_best(self) -> None:
        """Put the weights of the state that did best on the held-out pairs in the place of the last ones."""
        best = self.state.best_global_step
        if not self.recipe.selects or not best or best == self.state.global_step:
            return
        self.state.best_model_checkpoint = str(self.state_at(best))
        self._load_best_model()


def _arguments(recipe: GrpoRecipe, steps: int, *, evaluates: bool) -> GRPOConfig:
    """The recipe in TRL's words. Raises `DataError` for batches that cannot be divided among processes."""
    rollout, objective = recipe.rollout, recipe.objective
    vllm: dict[str, Any] = {}
    if rollout.engine == "vllm":
        vllm = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": rollout.gpu_memory,
            "vllm_tensor_parallel_size": rollout.tensor_parallel,
            "vllm_enable_sleep_mode": rollout.sleep,
            "vllm_max_model_length": recipe.data.max_tokens + rollout.max_tokens,
        }
    args = GRPOConfig(
        **settings(recipe, steps, evaluates=evaluates),
        **vllm,
        beta=objective.kl,
        use_bias_correction_kl=False,
        epsilon=objective.clip,
        loss_type=objective.loss,
        scale_rewards=objective.scale,
        mask_truncated_completions=objective.mask_cut,
        num_iterations=1,
        num_generations=rollout.group,
        num_generations_eval=1,
        generation_batch_size=rollout.prompts * rollout.group,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        shuffle_dataset=False,
        metric_for_best_model="accuracy" if recipe.selects else None,
        greater_is_better=True if recipe.selects else None,
    )
    shard_on_cpu(args)
    return args


def _final(recipe: GrpoRecipe, trainer: PolicyTrainer, pairs: Sequence[Pair]) -> list[Judged]:
    """The held-out pairs once more with the chosen weights, and the probability of a few that are right."""
    if not trainer.held_out:
        return []
    writings = trainer.write_held_out()
    if trainer.args.should_save:
        chosen = trainer.state.best_global_step if recipe.selects else None
        steps = {"step": float(chosen or trainer.state.global_step)}
        write_figures(recipe, trainer.held_out_figures(writings) | steps)
        _write_texts(recipe.run_directory / "written.jsonl", trainer, writings)
    right = [verdict(trainer.family, w) == row["letter"] for w, row in zip(writings, trainer.held_out, strict=True)]
    fit_pairs = [i for i in range(len(pairs)) if right[2 * i] and right[2 * i + 1]]
    fit_pairs.sort(key=lambda i: len(pairs[i].response_a) + len(pairs[i].response_b))
    rows = [row for i in fit_pairs[:SELF_TESTS] for row in (2 * i, 2 * i + 1)]
    if not rows:
        return []
    prompts = [trainer._ids(trainer.held_out[row]["prompt"]) for row in rows]
    labels = trainer.chat.label_ids(None, trainer.family.verdict_opener, trainer.family.labels)
    trainer.model.eval()
    pad_id = int(trainer._tokenizer.pad_token_id)
    chosen_writings = [writings[row] for row in rows]
    opinions = read_opinions(trainer.model, trainer.chat, trainer.family, prompts, chosen_writings, labels, pad_id)
    p_right = [
        o.p_first if trainer.held_out[row]["letter"] == "A" else 1.0 - o.p_first
        for o, row in zip(opinions, rows, strict=True)
    ]
    found = zip(fit_pairs, p_right[::2], p_right[1::2], strict=False)
    return [Judged(pairs[i], (ab + ba) / 2, (ab, ba)) for i, ab, ba in found]


def _write_texts(path: Path, trainer: PolicyTrainer, writings: Sequence[Writing]) -> None:
    """Every judgment of the last evaluation, to be read by people."""
    rows = (
        {"letter": row["letter"], "verdict": verdict(trainer.family, w), "finished": w.ended, "text": w.text}
        for w, row in zip(writings, trainer.held_out, strict=True)
    )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _export(
    recipe: GrpoRecipe, trainer: PolicyTrainer, model: Any, tokenizer: PreTrainedTokenizerBase, judged: Sequence[Judged]
) -> None:
    state = gathered_state(trainer)
    if state is None:
        return
    test = pick_self_test(judged, recipe.output.self_test)
    longest = int(model.config.max_position_embeddings)
    most = recipe.output.max_rationale_tokens or recipe.rollout.max_tokens
    entries = (entry(recipe.output.judge, trainer.family, longest - most, most, test),)

    def base() -> Any:
        return load_causal(recipe.model, recipe.precision, tokenizer)

    def write(directory: Path) -> None:
        save_model(directory, model, state, tokenizer, recipe.output.weights, base)

    write_checkpoint(recipe.output, recipe.version, entries, write)
