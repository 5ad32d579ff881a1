"""Where the helper terms look inside a prompt, and what the prompts of a family share."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from service.judging import gram, gram_r2
from service.judging.base import PairwiseFamily
from service.tokenization import ChatTokenizer
from service.types import Message, Prompt
from tests.support.tiny_tokenizer import QWEN3, tiny_tokenizer
from tests.support.tiny_training import TOKENIZER, pairs
from training.configs import PreferenceObjective
from training.data.pairs import DataError, Pair
from training.stages.examples import collate, collate_families
from training.stages.labels import LabelExamples, common_prefix, places_in

WANTS = PreferenceObjective(chosen_weight=0.3, verdict_weight=0.5)
TEXTS = ("Paris", "  two\n\nlines ", "[The End of Assistant A's Answer]", "caf\u00e9 \u4f60\u597d", "A")


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return ChatTokenizer(AutoTokenizer.from_pretrained(TOKENIZER))


@pytest.mark.parametrize("family", [gram.FAMILY, gram_r2.FAMILY], ids=lambda family: family.name)
@pytest.mark.parametrize("template", ["demo", "qwen3"])
def test_responses_and_their_ends_are_found(chat: ChatTokenizer, family: PairwiseFamily, template: str) -> None:
    """Also beside a response that imitates the closing line, and one that is a label."""
    if template == "qwen3":
        chat = ChatTokenizer(tiny_tokenizer(QWEN3))
    for first in TEXTS:
        for second in TEXTS:
            pair = Pair("p", Prompt.from_text("Which?\n"), first, second, "a")
            rendered = family.render(pair.comparison)
            ids = chat.encode(rendered)
            places = places_in(chat, rendered.messages[0], ids)
            for (start, end), text in zip(places.responses, (first, second), strict=True):
                assert text in chat.decode(ids[start:end])
                assert len(chat.decode(ids[start:end])) <= len(text) + 12, "a neighbouring token or two at most"
            a_end, b_end = places.ends
            assert chat.decode(ids[: a_end + 1]).rstrip().endswith(family.delimiters[2])
            assert chat.decode(ids[: b_end + 1]).rstrip().endswith(family.delimiters[4])
            assert places.responses[0][1] <= a_end < places.responses[1][0] <= b_end


def test_the_verdicts_say_which_response_is_right(chat: ChatTokenizer) -> None:
    examples = LabelExamples(chat, gram.FAMILY, WANTS, 512)
    for pair in pairs(6):
        for swapped in (False, True):
            example = examples(pair, swapped)
            label, *verdicts = example.reads
            assert label.at == len(example.ids) - 1
            assert [read.right for read in verdicts] == ([0, 1] if label.right == 0 else [1, 0])
            (span,) = example.spans
            assert pair.chosen in chat.decode(example.ids[span.start : span.end])


def test_without_helpers_a_row_is_the_label_alone(chat: ChatTokenizer) -> None:
    example = LabelExamples(chat, gram.FAMILY, PreferenceObjective(), 512)(pairs(1)[0], False)
    assert [read.kind for read in example.reads] == ["label"]
    assert example.spans == ()


def test_verdicts_need_single_tokens() -> None:
    with pytest.raises(DataError, match="verdict_weight"):
        LabelExamples(ChatTokenizer(tiny_tokenizer()), gram.FAMILY, WANTS, 4096)


def test_the_prefix_is_the_instruction(chat: ChatTokenizer) -> None:
    prefix = common_prefix(chat, gram.FAMILY)
    text = chat.decode(prefix)
    assert text.rstrip().endswith("[User Question]")
    for pair in pairs(4):
        assert chat.encode(gram.FAMILY.render(pair.comparison))[: len(prefix)] == prefix


def test_batches_without_the_prefix_hold_the_same_positions(chat: ChatTokenizer) -> None:
    examples = [LabelExamples(chat, gram.FAMILY, WANTS, 512)(pair, False) for pair in pairs(3)]
    prefix = common_prefix(chat, gram.FAMILY)
    whole = collate(examples, 0)
    (part,) = collate_families(examples, 0, [prefix])["parts"]
    assert (part["label.columns"] + len(prefix)).tolist() == whole["label.columns"].tolist()
    assert part["chosen.targets"].tolist() == whole["chosen.targets"].tolist()
    assert part["input_ids"].shape[1] + len(prefix) == whole["input_ids"].shape[1]


def test_conversations_are_placed_too(chat: ChatTokenizer) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Sum?"))
    example = LabelExamples(chat, gram.FAMILY, WANTS, 512)(Pair("p", Prompt(turns), "12", "13", "b"), False)
    (span,) = example.spans
    assert "13" in chat.decode(example.ids[span.start : span.end])
