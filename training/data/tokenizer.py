"""The demo judge's tokenizer: a small byte-level BPE with a ChatML-like chat template.

Pieces are cut before merging so that a text means the same tokens alone and inside a prompt: line breaks, punctuation
marks and one- or two-digit groups are pieces of their own, a word takes at most one space in front. Lines that the two
demo prompts repeat around every response, and the rationale's tags, are pieces too: they become one token each, which
makes a judgment several times cheaper. They are ordinary text tokens; the only control tokens are the three of ChatML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from service.judging import gram, gram_r2
from service.types import Comparison, Prompt, Response
from training.data import demo_words
from training.data.demo_tasks import ALL_TASKS, draw, rationale

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Content goes in as it is: not trimmed, not inspected. There is no think block to add: the judge writes its own."""

_LONG_LINE = 60
"""Rules of the rationale prompt longer than this (characters) become one token each; its two opening lines do not."""


def _instruction_lines() -> list[str]:
    instruction = gram_r2.FAMILY.template_text.partition("[User Question]")[0]
    return [line for line in instruction.splitlines() if len(line) > _LONG_LINE][2:]


_PIECES = Regex(
    "|".join(re.escape(line) for line in _instruction_lines())
    + r"|\[The (?:Start|End) of Assistant [AB]'s (?:Answer|Response)\]|\[User Question\]|#Preferred:"
    r"|</?(?:think|answer)>|\*\*| ?\p{L}+| ?\p{N}{1,2}|\n| ?[^\s\p{L}\p{N}]|\s"
)


def build_tokenizer(vocab_size: int, pairs_per_task: int, seed: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Train the BPE on demo pairs rendered as both families render them. Deterministic in its arguments."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(pairs_per_task, seed), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus(pairs_per_task: int, seed: int) -> Iterable[str]:
    """Rendered pairs and rationales, then each listed word often enough to become one token, with and without space."""
    rng = Random(seed)
    for task in ALL_TASKS:
        for i in range(pairs_per_task):
            pair = draw(task, rng, from_held_out=False)
            comparison = Comparison(Prompt.from_text(pair.prompt), Response(pair.right), Response(pair.wrong))
            yield (gram if i % 2 else gram_r2).FAMILY.render(comparison).messages[0].content
            yield rationale(pair, bool(i % 3))
    for word in _closed_words():
        yield f"{word} {word}\n" * pairs_per_task
    yield "assistant\nuser\nsystem\ntool\nA\nB\n" * pairs_per_task


def _closed_words() -> list[str]:
    """Every word and number that can be an answer."""
    listed = [
        *(name for pair in demo_words.CAPITALS for name in " ".join(pair).split()),
        *demo_words.THINGS,
        *(word for members in demo_words.KINDS.values() for word in members),
        *(word for pair in demo_words.OPPOSITES for word in pair),
        *demo_words.DAYS,
        *demo_words.MONTHS,
        *(form for word in demo_words.FORMAT_WORDS for form in (word, word.upper(), word.capitalize())),
        *(str(n) for n in range(100)),
    ]
    return list(dict.fromkeys(listed))
