"""A byte-level BPE tokenizer trained here in a blink, with the chat templates real checkpoints are like.

Like Qwen3's, its ``<think>`` tags are added tokens that are not flagged special: the kind other defences forget.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|bos|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
NOT_FLAGGED_SPECIAL = ("<think>", "</think>", "<tool_call>", "</tool_call>")

CHATML = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""

# Qwen3's habits: an empty think block when thinking is off, one before the last assistant turn, leading line feeds
# dropped there, and branches that look into contents.
QWEN3 = """{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content.split('</think>')[-1].lstrip('\n') if '</think>' in m.content else m.content %}
{%- if loop.last %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content.lstrip('\n') }}
{%- else %}{{ '<|im_start|>assistant\n' + content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""

# Llama 3's: a begin-of-text token in the template itself, and contents trimmed.
LLAMA3 = """{{ '<|bos|>' }}{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

# Gemma's and older Mistral's refusal.
NO_SYSTEM = """{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""

TEMPLATES = {"chatml": CHATML, "qwen3": QWEN3, "llama3": LLAMA3, "no_system": NO_SYSTEM}

_CORPUS = (
    "The quick brown fox jumps over the lazy dog. You are a helpful assistant.",
    "user\nassistant\nsystem\n[User Question]\n[The Start of Assistant A's Answer]\n#Preferred: A",
    "<think>\nFeedback:\nComparision:\nConclusion:\n</think>\n<answer>\nA\n</answer> <answer>[[B]]</answer>",
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(i)",
    "r\u00e9sum\u00e9 \u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u4f60\u597d\u4e16\u754c \U0001f600",
    "1234567890 3.14",
)


@cache
def _base() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS * 20, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in NOT_FLAGGED_SPECIAL])
    return str(tokenizer.to_str())


def tiny_tokenizer(chat_template: str = CHATML) -> PreTrainedTokenizerFast:
    """About 610 tokens; every byte is representable. ``chat_template`` is one of the templates above or your own."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_base()), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tiny_tokenizer(directory: Path, chat_template: str = CHATML) -> Path:
    """As a checkpoint directory holds it."""
    tiny_tokenizer(chat_template).save_pretrained(str(directory))
    return directory
