"""A policy for trainers' tests: two random layers that write bytes, and rows of prompts."""

from __future__ import annotations

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.support.tiny_tokenizer import tiny_tokenizer

QUESTIONS = ("What is 2 + 3?", "Name a colour.", "Say yes.", "What is 7 + 5?")


def tiny_policy(seed: int = 0) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """The model and its tokenizer, padded on the left as trainers want it. The same weights for the same seed."""
    torch.set_num_threads(1)  # more only wait for each other on a model this small
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.pad_token, tokenizer.eos_token = "<|endoftext|>", "<|im_end|>"
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config), tokenizer


def ending_policy() -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """A policy that is sharper than a fresh one, and ends a response where it would often write one certain token."""
    policy, tokenizer = tiny_policy()
    weights = policy.lm_head.weight.data
    weights.mul_(20.0)
    weights[tokenizer.convert_tokens_to_ids("<|im_end|>")] = 1.5 * weights[89]
    return policy.eval(), tokenizer


def rows(questions: tuple[str, ...] = QUESTIONS, chat: bool = False, **columns: list[object]) -> Dataset:
    """One row a question, as a text or as a chat."""
    prompts = [[{"role": "user", "content": question}] if chat else question for question in questions]
    return Dataset.from_dict({"prompt": prompts} | columns)
