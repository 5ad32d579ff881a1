"""What trainers send back as one string is taken apart exactly, in the chat templates that policies have."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.settings import demo_model
from service.types import Message, Prompt
from service.untemplating import (
    DIALECTS,
    dialect_of,
    plain_prompt,
    plain_response,
    split,
    split_alone,
    without_ends,
)
from tests.support.policy_templates import POLICIES, Policy
from tests.support.properties import bar


def texts(least: int = 1) -> st.SearchStrategy[str]:
    """Of people who type no markers, nor what markers begin with."""
    letters = st.characters(exclude_categories=("Cs",), exclude_characters="<[\ufffd\uff5c\x00")
    return st.text(letters, min_size=least, max_size=80).filter(lambda text: bool(text.strip()) or not least)


@st.composite
def conversations(draw: st.DrawFn, system: bool = True) -> list[dict[str, str]]:
    """Turns by turns, the user's first and last, with or without a system message."""
    turns = draw(st.lists(texts(), min_size=1, max_size=3))
    replies = draw(st.lists(texts(), min_size=len(turns) - 1, max_size=len(turns) - 1))
    messages = [{"role": "user", "content": turns[0]}]
    for reply, turn in zip(replies, turns[1:], strict=True):
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": turn}]
    opening = draw(st.none() | texts()) if system else None
    return messages if opening is None else [{"role": "system", "content": opening}, *messages]


def wanted(messages: list[dict[str, str]], trims: bool) -> Prompt:
    return Prompt(tuple(Message(m["role"], m["content"].strip() if trims else m["content"]) for m in messages))


def stripped(prompt: Prompt) -> Prompt:
    """Beside a system message's edges, which some templates keep and some trim, white space is compared exactly."""
    first, *rest = prompt.messages
    return Prompt((Message(first.role, first.content.strip()), *rest)) if first.role == "system" else prompt


@pytest.mark.parametrize("name", POLICIES)
def test_prompt_and_response_are_recovered_exactly(name: str) -> None:
    policy = POLICIES[name]

    @bar(1_500)
    @given(conversations(policy.system), texts(0), st.integers(0, 200), st.booleans())
    def check(messages: list[dict[str, str]], answer: str, cut: int, finished: bool) -> None:
        prompt = policy.render(messages)
        assert stripped(plain_prompt(prompt)) == stripped(wanted(messages, policy.trims))
        query = prompt[min(cut, len(prompt) - 12) :] + answer + (policy.end if finished else "")
        found = plain_response(split(query, prompt), dialect_of(prompt))
        assert found == (answer.strip() if policy.trims_response else answer)

    check()


@pytest.mark.parametrize("name", POLICIES)
def test_a_whole_conversation_is_split_at_its_last_answer(name: str) -> None:
    policy = POLICIES[name]

    @bar(750)
    @given(conversations(policy.system), texts())
    def check(messages: list[dict[str, str]], answer: str) -> None:
        query = policy.render([*messages, {"role": "assistant", "content": answer}], generation_prompt=False)
        prompt, response = split_alone(query)
        assert stripped(prompt) == stripped(wanted(messages, policy.trims))
        assert response == (answer.strip() if policy.trims or policy.trims_response else answer)

    check()


def test_the_demo_judges_own_template_is_one_of_them() -> None:
    """The fake engine's byte tokenizer and the demo checkpoint speak ChatML."""
    demo = Policy((Path(demo_model()) / "chat_template.jinja").read_text(), "<|im_end|>")
    prompt = demo.render([{"role": "user", "content": "What is 7 + 5?"}])
    assert plain_prompt(prompt) == Prompt.from_text("What is 7 + 5?")
    assert plain_response(split(prompt + "12<|im_end|>", prompt), dialect_of(prompt)) == "12"


@pytest.mark.parametrize(
    ("name", "dialect"), [(name, name) for name in ("chatml", "gemma", "deepseek", "zephyr", "phi-4")]
)
def test_templates_are_told_apart(name: str, dialect: str) -> None:
    found = dialect_of(POLICIES[name].render([{"role": "user", "content": "x"}]))
    assert found is not None
    assert found.name == dialect


def test_thinking_that_the_template_begins_is_not_of_the_prompt() -> None:
    prompt = POLICIES["chatml"].render([{"role": "user", "content": "Q"}]) + "<think>\n\n</think>\n\n"
    assert plain_prompt(prompt) == Prompt.from_text("Q")
    assert split(prompt + "A", prompt) == "A"


def test_a_plain_text_is_one_user_turn() -> None:
    assert plain_prompt("<s>What is 7 + 5?") == Prompt.from_text("What is 7 + 5?")
    assert plain_response(split("What is 7 + 5? 12</s>", "What is 7 + 5?"), None) == " 12"
    with pytest.raises(InvalidInput, match="no conversation"):
        split_alone("What is 7 + 5? 12")


@pytest.mark.parametrize(
    ("query", "prompt", "response"),
    [
        ("<s> [INST] Hi  there [/INST] yes</s>", "<s>[INST] Hi there [/INST]", " yes</s>"),
        ("<s><s>[INST] Hi [/INST]yes", "[INST] Hi [/INST]", "yes"),
        ("\ufffd\ufffdlong question<|im_end|>\n<|im_start|>assistant\nyes", None, "yes"),
        ("aaaaaaaaaaaab", "aaaaaaaaaaaa", "b"),
        ("same prompt", "same prompt", ""),
    ],
)
def test_prompts_that_came_back_otherwise_are_found(query: str, prompt: str | None, response: str) -> None:
    whole = "<|im_start|>user\nA very \u4f60long question<|im_end|>\n<|im_start|>assistant\n"
    assert split(query, whole if prompt is None else prompt) == response


@pytest.mark.parametrize(("query", "prompt"), [("", "prompt"), ("another text", "a prompt"), ("p", "a long prompt")])
def test_a_query_without_its_prompt_is_refused(query: str, prompt: str) -> None:
    with pytest.raises(InvalidInput, match="does not begin"):
        split(query, prompt)


def test_only_the_templates_own_markers_are_taken_off_and_only_at_the_end() -> None:
    chatml = next(dialect for dialect in DIALECTS if dialect.name == "chatml")
    assert plain_response("a <s>b</s>", chatml) == "a <s>b</s>"
    assert plain_response("a<|im_end|>b<|im_end|>\n<|endoftext|><|endoftext|>", chatml) == "a<|im_end|>b"
    assert plain_response("a \n<|im_end|>\n", chatml) == "a \n"
    assert plain_response("a<stop>", chatml, ("<stop>",)) == "a"
    assert plain_response("a \n", chatml) == "a \n"


def test_roles_are_ours_and_unknown_ones_are_refused() -> None:
    text = "<|im_start|>developer\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert plain_prompt(text).messages == (Message("system", "Be brief."), Message("user", "Hi"))
    with pytest.raises(InvalidInput, match="role"):
        plain_prompt("<|im_start|>wizard\nHi<|im_end|>\n")
    with pytest.raises(InvalidInput, match="no turn"):
        plain_prompt("<|im_start|>assistant\n")


FRAGMENTS = sorted(
    {"user", "assistant", "\n", " ", "x", "\ufffd", "<<SYS>>\n", "\n<</SYS>>\n\n", "INST]", "<|", "|>", "<|im_sep|>"}
    | {end for dialect in DIALECTS for end in dialect.ends}
    | {"<|im_start|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<start_of_turn>", "[INST]", "[/INST]", "<s>"}
    | {
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "<|user|>\n",
        "<|assistant|>\n",
        "<\uff5cUser\uff5c>",
        "<\uff5cAssistant\uff5c>",
    }
)


def test_whatever_stands_where_nothing_but_a_refusal_is_raised() -> None:
    tangles = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)

    @bar(10_000)
    @given(tangles, tangles)
    def check(prompt: str, rest: str) -> None:
        for call in (lambda: plain_prompt(prompt), lambda: split_alone(prompt + rest), lambda: split(rest, prompt)):
            with suppress(InvalidInput):
                call()
        assert split(prompt + rest, prompt) == rest
        response = plain_response(rest, dialect_of(prompt))
        assert response in rest
        assert plain_response(response, dialect_of(prompt)) == response

    check()


@pytest.mark.parametrize(
    "text", ["</s>" * 50_000 + "x", "<|im_start|>" * 20_000, "[INST]" * 40_000, "<s>" * 80_000, "a " * 120_000]
)
def test_hostile_texts_cost_little(text: str) -> None:
    started = time.process_time()
    without_ends(text, ("</s>",))
    for call in (plain_prompt, split_alone):
        with suppress(InvalidInput):
            call(text)
    assert split("?" + text, "?" + text) == ""
    assert time.process_time() - started < 2.0
