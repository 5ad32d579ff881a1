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


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    path, dtype, threads = pipe.recv()
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    pipe.send("ready")
    while True:
        try:
            chats, label_ids = pipe.recv()
        except EOFError:
            return
        started = time.perf_counter()
        rows = [row for i in range(0, len(chats), 2) for row in _judge(model, tokenizer, chats[i : i + 2], label_ids)]
        pipe.send({"seconds": time.perf_counter() - started, "logprobs": rows})


@torch.no_grad()  # type: ignore[untyped-decorator]
def _judge(model: Any, tokenizer: Any, orders: list[Chat], label_ids: list[int]) -> list[tuple[float, ...]]:
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
