"""Each family's prompt, byte for byte, as its authors publish it.

The files under prompts/ were put together from the authors' own scripts, not by this code, and are never rewritten to
make a test pass: a changed prompt is another judge.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StartupError
from service.judging import gram, gram_r2, rm_r1, scalar
from service.judging.base import PairwiseFamily, require_pairwise, template_hash
from service.judging.registry import FAMILIES, get_family
from service.types import Comparison, Message, Prompt, Rendered, Response
from tests.support.properties import bar

PROMPTS = Path(__file__).parent / "prompts"
PAIRWISE: dict[str, PairwiseFamily] = {
    "gram": gram.FAMILY,
    "gram_r2": gram_r2.FAMILY,
    "rm_r1_instruct": rm_r1.INSTRUCT,
    "rm_r1_reasoner": rm_r1.REASONER,
}
CASES = {
    "single": Comparison(Prompt.from_text("What is 2 + 2?"), Response("4"), Response("The answer is 5.\n")),
    "multi": Comparison(
        Prompt(
            (Message("user", "Hi"), Message("assistant", "Hello, how can I help?"), Message("user", "Name a prime."))
        ),
        Response("7"),
        Response("9"),
    ),
    # Every placeholder of every template, and what other languages would substitute.
    "placeholders": Comparison(
        Prompt.from_text("{response_a} {response_b} {question} {{x}} %s $x"),
        Response("{response_b}{question}{conversation_b}{conversation_a}{input}{unknown}"),
        Response("{response_a}\\1\\g<0>{0}{}"),
    ),
}


def as_text(rendered: Rendered) -> str:
    return "".join(f"=== {message.role} ===\n{message.content}\n" for message in rendered.messages)


def golden(name: str) -> str:
    return (PROMPTS / f"{name}.txt").read_bytes().decode("utf-8")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", PAIRWISE)
def test_prompts_are_the_published_ones(family: str, case: str) -> None:
    assert as_text(PAIRWISE[family].render(CASES[case])) == golden(f"{family}_{case}")


def test_every_golden_file_is_compared() -> None:
    assert {path.stem for path in PROMPTS.iterdir()} == {f"{family}_{case}" for family in PAIRWISE for case in CASES}


def test_every_registered_template_has_golden_prompts() -> None:
    pairwise = [family for templates in FAMILIES.values() for family in templates.values() if family.reads != "scalar"]
    assert all(family in pairwise for family in PAIRWISE.values())
    assert len(pairwise) == len(PAIRWISE)


def test_only_gram_switches_thinking_off() -> None:
    thinking = {name: family.render(CASES["single"]).enable_thinking for name, family in PAIRWISE.items()}
    assert thinking == {"gram": False, "gram_r2": None, "rm_r1_instruct": None, "rm_r1_reasoner": None}
    assert all(family.render(CASES["single"]).generation_prompt for family in PAIRWISE.values())


def test_gram_s_cue_ends_with_a_space() -> None:
    assert gram.FAMILY.render(CASES["single"]).messages[-1].content.endswith("\n\n#Preferred: ")


@pytest.mark.parametrize("family", PAIRWISE)
def test_swapping_swaps_the_responses_and_nothing_else(family: str) -> None:
    first, second = "first answer", "second answer"
    comparison = Comparison(Prompt.from_text("Why?"), Response(first), Response(second))
    swapped = as_text(PAIRWISE[family].render(comparison.swap()))
    exchanged = {first: second, second: first}
    straight = as_text(PAIRWISE[family].render(comparison))
    assert re.sub(f"{first}|{second}", lambda m: exchanged[m.group()], straight) == swapped
    assert straight != swapped


@pytest.mark.parametrize("family", ["rm_r1_instruct", "rm_r1_reasoner"])
def test_conversations_differ_by_their_chatbot_and_response_only(family: str) -> None:
    """The published builder spells one of the chatbots otherwise, which tells the answer away; ours must not."""
    prompt = CASES["multi"].prompt
    text = PAIRWISE[family].render(Comparison(prompt, Response("same"), Response("same"))).messages[-1].content
    a, b = re.findall(r"Client\]\n(User.*?)\n\[The End", text, re.DOTALL)
    assert a.replace("Chatbot A", "Chatbot B") == b


def test_roles_of_a_conversation_are_spelled_out() -> None:
    prompt = Prompt(
        (Message("system", "Be kind."), Message("user", "Hi"), Message("tool", "3"), Message("user", "So?"))
    )
    content = gram.FAMILY.render(Comparison(prompt, Response("x"), Response("y"))).messages[0].content
    assert "[User Question]\nSystem: Be kind.\nUser: Hi\nTool: 3\nUser: So?\n\n[The Start" in content


def test_a_single_message_of_another_role_keeps_its_name() -> None:
    prompt = Prompt((Message("system", "Be kind."),))
    content = gram.FAMILY.render(Comparison(prompt, Response("x"), Response("y"))).messages[0].content
    assert "[User Question]\nSystem: Be kind.\n" in content


def test_a_scalar_judge_reads_the_conversation_as_it_is() -> None:
    prompt = Prompt((Message("system", "Be kind."), Message("user", "{response_a}")))
    rendered = scalar.FAMILY.render_one(prompt, Response("{x}"))
    assert rendered == Rendered((*prompt.messages, Message("assistant", "{x}")), generation_prompt=False)


@pytest.mark.parametrize("family", PAIRWISE)
@bar(2_000)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_texts_arrive_unchanged_and_in_place(family: str, question: str, first: str, second: str) -> None:
    """Single-pass substitution: whatever the texts say, each stands once between the template's own lines."""
    marks = [f"<{n}>" for n in ("question", "first", "second")]
    skeleton = as_text(PAIRWISE[family].render(_comparison(*marks)))
    expected = "".join(
        {"<question>": question, "<first>": first, "<second>": second}.get(part, part)
        for part in re.split(f"({'|'.join(marks)})", skeleton)
    )
    assert as_text(PAIRWISE[family].render(_comparison(question, first, second))) == expected


def _comparison(question: str, first: str, second: str) -> Comparison:
    return Comparison(Prompt.from_text(question), Response(first), Response(second))


def test_template_hashes_tell_templates_apart() -> None:
    families = [family for templates in FAMILIES.values() for family in templates.values()]
    hashes = {template_hash(family, chat) for family in families for chat in ("{{ a }}", "{{ b }}")}
    assert len(hashes) == 2 * len(families)
    assert all(re.fullmatch("[0-9a-f]{12}", value) for value in hashes)
    assert template_hash(gram.FAMILY, "x") == template_hash(gram.Gram(), "x")
    assert template_hash(gram.Gram(labels=("1", "2")), "x") != template_hash(gram.FAMILY, "x")


def test_families_are_found_by_name() -> None:
    assert get_family("rm_r1") is rm_r1.INSTRUCT
    assert get_family("rm_r1", "reasoner") is rm_r1.REASONER
    with pytest.raises(StartupError, match="choose one of gram, gram_r2, rm_r1, scalar"):
        get_family("grm")
    with pytest.raises(StartupError, match="choose one of instruct, reasoner"):
        get_family("rm_r1", "x")


def test_scalar_judges_are_not_pairwise() -> None:
    assert require_pairwise(gram.FAMILY) is gram.FAMILY
    with pytest.raises(Exception, match="scores single responses"):
        require_pairwise(scalar.FAMILY)
