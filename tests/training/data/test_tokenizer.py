"""The demo's tokenizer: what training and serving must agree on."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from service.judging import gram, gram_r2
from service.judging.base import PairwiseFamily
from service.tokenization import ChatTokenizer
from training.data.tokenizer import build_tokenizer
from training.stages.labels import common_prefix


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(2048, 60, 0, 2048)


@pytest.mark.parametrize("context", ["", "<|im_start|>assistant\n", "<answer>\n"])
def test_labels_are_single_tokens_where_they_are_read(tokenizer: PreTrainedTokenizerFast, context: str) -> None:
    alone = tokenizer(context, add_special_tokens=False).input_ids
    for letter in "AB":
        assert tokenizer(context + letter, add_special_tokens=False).input_ids == [
            *alone,
            tokenizer.convert_tokens_to_ids(letter),
        ]


def test_text_survives_and_means_the_same_tokens_in_context(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("Paris", "café ∑ 😀", " two  spaces\n\n", "1234 x", "<think> a </think>"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        inside = tokenizer(f"[User Question]\n{text}\n\n", add_special_tokens=False).input_ids
        assert any(inside[i : i + len(ids)] == ids for i in range(len(inside)))


def test_template_neither_trims_nor_adds(tokenizer: PreTrainedTokenizerFast) -> None:
    message = [{"role": "user", "content": "  x <think>\n "}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == "<|im_start|>user\n  x <think>\n <|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", [gram.FAMILY, gram_r2.FAMILY], ids=lambda family: family.name)
def test_instructions_are_long_enough_to_be_worth_caching(
    tokenizer: PreTrainedTokenizerFast, family: PairwiseFamily
) -> None:
    assert len(common_prefix(ChatTokenizer(tokenizer), family)) >= 100
