"""Tokenizer, encoding, shared prefix and recipe: what training and serving must agree on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from service.judging import gram, gram_r2
from training.data.demo_tasks import ALL_TASKS, TASKS, draw
from training.data.encoding import Encoder, padded
from training.data.tokenizer import END, build_tokenizer
from training.demo_configs import Recipe
from training.stages.shared_prefix import hidden_after_prefix

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "demo.toml"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(2048, 60, 0, 2048)


@pytest.fixture(scope="module")
def encoders(tokenizer: PreTrainedTokenizerFast) -> tuple[Encoder, Encoder]:
    return Encoder(tokenizer, gram.FAMILY), Encoder(tokenizer, gram_r2.FAMILY)


def test_shipped_recipe_loads() -> None:
    recipe = Recipe.load(RECIPE)
    assert set(recipe.data.task_weights) == set(TASKS)
    assert len(TASKS) >= 6


def test_unknown_recipe_key_is_an_error(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(RECIPE.read_text("utf-8").replace("warmup_steps", "warmupsteps"), "utf-8")
    with pytest.raises(ValidationError, match="warmupsteps"):
        Recipe.load(wrong)


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


def test_rows_hold_prefix_prompt_and_judgment(
    tokenizer: PreTrainedTokenizerFast, encoders: tuple[Encoder, Encoder]
) -> None:
    rng = Random(1)
    for task in ALL_TASKS:
        pair = draw(task, rng, from_held_out=False)
        for encoder in encoders:
            for row, better in zip(encoder.both_orders([pair]), (0, 1), strict=True):
                text = tokenizer.decode([*encoder.prefix, *row.ids])
                assert pair.prompt in text
                assert row.label == better
                assert tokenizer.decode(row.ids[slice(*row.chosen)]) == pair.right + "\n"
        written = tokenizer.decode(row.ids[row.prompt_len :])
        assert written.startswith("<think>")
        assert written.endswith("</answer>" + END)


def test_prefixes_are_long_enough_to_be_worth_caching(encoders: tuple[Encoder, Encoder]) -> None:
    assert all(len(encoder.prefix) >= 100 for encoder in encoders)


def test_shared_prefix_equals_the_plain_forward_and_its_gradient(
    tokenizer: PreTrainedTokenizerFast, encoders: tuple[Encoder, Encoder]
) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, intermediate_size=48, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).double()
    rng = Random(2)
    rows = encoders[0].both_orders(draw(task, rng, from_held_out=False) for task in ("sorting", "capitals"))
    suffixes = torch.tensor(padded(rows, tokenizer.pad_token_id))
    prefix = torch.tensor(encoders[0].prefix)
    last = torch.tensor([len(row.ids) - 1 for row in rows])
    at = torch.arange(len(rows))

    shared = hidden_after_prefix(model, prefix, suffixes)[at, last]
    shared.square().sum().backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    full = torch.cat([prefix.expand(len(rows), -1), suffixes], 1)
    plain = model.model(input_ids=full).last_hidden_state[at, last + len(prefix)]
    plain.square().sum().backward()

    torch.testing.assert_close(shared, plain)
    torch.testing.assert_close(gradient, model.model.embed_tokens.weight.grad)
