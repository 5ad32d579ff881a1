"""The demo family as a best-of-n study: prompts with known answers, a checker that is no judge, and a small policy.

The checker takes a response's greeting, lead-in, bold marks and closing off and compares what is left with the right
answer. It shares neither weights nor text with the judge, so it is the independent oracle. Tasks whose answer is itself
a format or a refusal are left out: there the wording is the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from service.settings import demo_model
from training.data import demo_words as words
from training.data.demo_tasks import TASKS, DemoPair, draw

log = logging.getLogger(__name__)

CHECKABLE = tuple(task for task in TASKS if task not in ("formatting", "refusals"))
RIGHT_SHARE = 0.4
"""How often the policy's training shows the right answer: enough to know it, too little to always say it."""
STEPS, ROWS, RATE = 160, 48, 1e-3


def demo_prompts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Held-out questions and their bare right answers, the tasks in turn, each question once."""
    rng, seen, turn = Random(f"best-of-n/{seed}"), set[str](), 0
    while len(seen) < count:
        pair = draw(CHECKABLE[turn % len(CHECKABLE)], rng, from_held_out=True)
        turn += 1
        if pair.prompt not in seen:
            seen.add(pair.prompt)
            yield pair.prompt, pair.right_said


def bare_answer(response: str) -> str:
    """What a response says, without the styles of the demo family."""
    text = response.strip()
    for greeting in words.GREETINGS:
        text = text.removeprefix(greeting)
    for closing in words.CLOSINGS:
        text = text.removesuffix(closing)
    for lead in sorted(words.ANSWER_LEADS, key=len, reverse=True):
        if lead and text.startswith(lead):
            text = text.removeprefix(lead)
            break
    text = text.rstrip(".!").strip()
    return text[2:-2] if text.startswith("**") and text.endswith("**") and len(text) > 4 else text


def check(response: str, answer: str) -> float:
    """1.0 for the right answer, 0.0 for anything else."""
    return float(bare_answer(response) == answer)


def train_policy(path: Path, seed: int = 0, steps: int = STEPS) -> None:
    """Write a small policy that answers demo questions, right in some of its samples, into ``path``.

    It starts from the demo judge's weights, which know the words, and learns to answer in the assistant's turn: plain
    language-model loss on responses of which `RIGHT_SHARE` are right. About a minute on one core.
    """
    import torch
    from tqdm import tqdm
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    model = Qwen3ForCausalLM.from_pretrained(demo_model(), dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    rng = Random(f"policy/{seed}")
    for step in (bar := tqdm(range(steps), desc="demo policy", disable=None)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 10, 2 * (1 - step / steps))
        pairs = [draw(rng.choice(CHECKABLE), rng, from_held_out=False) for _ in range(ROWS)]
        ids, labels = _batch(tokenizer, pairs, rng)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bar.set_postfix_str(f"loss {loss.item():.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.replace(path)
    log.info("demo policy written to %s", path)


def _batch(tokenizer: Any, pairs: list[DemoPair], rng: Random) -> tuple[Any, Any]:
    """Token ids [rows, tokens] and labels: only the response and the mark that ends it are learnt (-100 elsewhere)."""
    import torch

    rows = []
    for pair in pairs:
        said = pair.right if rng.random() < RIGHT_SHARE else pair.wrong
        asked = f"<|im_start|>user\n{pair.prompt}<|im_end|>\n<|im_start|>assistant\n"
        prompt, response = (tokenizer.encode(text, add_special_tokens=False) for text in (asked, f"{said}<|im_end|>"))
        rows.append((prompt + response, [-100] * len(prompt) + response))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])
    return ids, labels
