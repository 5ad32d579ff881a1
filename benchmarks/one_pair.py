"""Arm (d), a program of its own: transformers, one pair at a time, the way GRAM's published evaluation script works.

For each pair both display orders are put through the chat template, tokenized with padding and run through the model in
one forward pass; the two label logits of the last position are read.
"""

from __future__ import annotations

import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Chat = list[dict[str, str]]
Row = tuple[float, ...]


def main() -> None:
    """Loads the model in both number formats and keeps the one that is faster here on the first pairs it is asked."""
    pipe = Connection(int(sys.argv[1]))
    path, threads = pipe.recv()
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    models = {
        name: AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, name)).eval()
        for name in ("float32", "bfloat16")
    }
    pipe.send("ready")
    while True:
        try:
            chats, label_ids = pipe.recv()
        except EOFError:
            return
        if len(models) > 1:
            seconds = {name: _judge_all(model, tokenizer, chats, label_ids)[0] for name, model in models.items()}
            models = {name: models[name] for name in sorted(seconds, key=lambda name: seconds[name])[:1]}
        ((name, model),) = models.items()
        elapsed, rows = _judge_all(model, tokenizer, chats, label_ids)
        pipe.send({"seconds": elapsed, "logprobs": rows, "dtype": name})


def _judge_all(model: Any, tokenizer: Any, chats: list[Chat], label_ids: list[int]) -> tuple[float, list[Row]]:
    """Seconds, and two rows a pair."""
    started = time.perf_counter()
    rows = [row for i in range(0, len(chats), 2) for row in _judge(model, tokenizer, chats[i : i + 2], label_ids)]
    return time.perf_counter() - started, rows


@torch.no_grad()  # type: ignore[untyped-decorator]
def _judge(model: Any, tokenizer: Any, orders: list[Chat], label_ids: list[int]) -> list[Row]:
    """Log-probabilities of the labels, one row for each display order of a pair."""
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        for chat in orders
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    last = model(**inputs).logits[:, -1].float().log_softmax(-1)
    return [tuple(row) for row in last[:, list(label_ids)].tolist()]


if __name__ == "__main__":
    main()
