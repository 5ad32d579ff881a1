"""Written judgments: the last anchored answer wins, quoted ones are counted, all else is invalid; nothing raises."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import NonFiniteScore
from service.judging import gram, gram_r2, rm_r1
from service.judging.base import PairwiseFamily, read_labels, read_scalars, sigmoid
from tests.support.properties import bar

R2, R1 = gram_r2.FAMILY, rm_r1.INSTRUCT
TAG = {R2: "<answer>\n{}\n</answer>", R1: "<answer>[[{}]]</answer>"}
WRITERS = [pytest.param(R2, id="gram_r2"), pytest.param(R1, id="rm_r1"), pytest.param(rm_r1.REASONER, id="reasoner")]


def tag(family: PairwiseFamily, letter: str) -> str:
    return ("<answer>\n{}\n</answer>" if family.name == "gram_r2" else "<answer>[[{}]]</answer>").format(letter)


# {A} and {B} stand for the family's own verdict tag with that letter.
TABLE = [
    ("plain A", "{A}", "A", 0),
    ("plain B", "{B}", "B", 0),
    ("after a thought", "<think>\nwhy\n</think>\n{A}", "A", 0),
    ("white space around", "\n\n{B} \n\t", "B", 0),
    ("spelled without its thought's opening", "why\n</think>\n{A}", "A", 0),
    ("a quoted verdict, then another", "<think>B writes {B}, a trick.</think>\n{A}", "A", 1),
    ("quoted twice after the thought", "</think>It says {B} and {B}. But:\n{A}", "A", 2),
    ("said twice alike", "{A}\n{A}", "A", 0),
    ("a quoted end of thought", "<think>B contains </think> and {B}</think>\n{A}", "A", 1),
    ("text after the answer", "{A}\nBecause it is right.", "invalid", 0),
    ("a full stop after the answer", "{A}.", "invalid", 0),
    ("answer inside the thought only", "<think>{A}</think>", "invalid", 0),
    ("answer inside, silence after", "<think>{A}</think>\nSo A.", "invalid", 0),
    ("stopped inside the thought", "<think>It says {A}", "invalid", 0),
    ("stopped inside a second thought", "<think>x</think>\n<think>It says {A}", "invalid", 0),
    ("a quoted beginning of a thought", "<think>B writes <think> and {B}</think>\n{A}", "A", 1),
    ("no tag", "A is better", "invalid", 0),
    ("empty", "", "invalid", 0),
    ("both letters", "<answer>A or B</answer>", "invalid", 0),
    ("published placeholder", "<answer>[[A/B]]</answer>", "invalid", 0),
    ("another letter", "<answer>[[C]]</answer>", "invalid", 0),
    ("lower case", "<answer>[[a]]</answer>", "invalid", 0),
    ("unclosed", "<answer>\nA\n", "invalid", 0),
    ("half closed", "<answer>[[A]]</ans", "invalid", 0),
    ("cyrillic letter", "<answer>[[\u0410]]</answer>", "invalid", 0),
    ("end tag only", "A</answer>", "invalid", 0),
    ("boxed", "\\boxed{ A }", "invalid", 0),
]


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize(("name", "text", "letter", "conflicting"), TABLE, ids=[row[0] for row in TABLE])
def test_verdicts(family: PairwiseFamily, name: str, text: str, letter: str, conflicting: int) -> None:
    text = text.replace("{A}", tag(family, "A")).replace("{B}", tag(family, "B"))
    parsed = family.parse(text)
    assert (parsed.verdict, parsed.conflicting) == (letter, conflicting)
    assert (parsed.label_at is None) == (letter == "invalid")
    if parsed.label_at is not None:
        assert text[parsed.label_at] == letter
        assert text[: parsed.label_at].endswith(family.verdict_opener)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<type>Chat</type><eval>B says {B}", "invalid"),
        ("<type>Chat</type><eval><quote_B>{B}</quote_B>", "invalid"),
        ("<eval>x</eval> I quote <quote_B>{B}", "invalid"),
        ("<rubric>x<justify>{B}", "invalid"),
        ("<solution>{B}", "invalid"),
        ("<rubric>x</rubric><eval>B says <rubric> and <quote_A></eval>{A}", "A"),
        ("<eval>B says </eval> and <eval>, a trick</eval>\n{A}", "A"),
        ("<think><eval>unclosed</think>{A}", "A"),
    ],
)
def test_rm_r1_judges_outside_its_sections(text: str, letter: str) -> None:
    """The instruct template has sections, and judges quote inside them; the reasoner's knows a thought only."""
    text = text.replace("{A}", tag(R1, "A")).replace("{B}", tag(R1, "B"))
    assert R1.parse(text).verdict == letter
    assert rm_r1.REASONER.parse("It writes <eval>, so " + tag(R1, "B")).verdict == "B"


@pytest.mark.parametrize(("text", "letter"), [("<answer>A</answer>", "A"), ("<answer>  B\n\n</answer>", "B")])
def test_gram_r2_is_lenient_about_white_space(text: str, letter: str) -> None:
    assert R2.parse(text).verdict == letter


@pytest.mark.parametrize("text", ["[[A]]", "<answer>A</answer>", "<answer>[A]</answer>", "<answer>[[A] ]</answer>"])
def test_rm_r1_wants_its_own_tag(text: str) -> None:
    """Published readers look for ``[[A]]`` anywhere, first: a judge that quotes one and decides B is read as A."""
    assert R1.parse(text).verdict == "invalid"
    assert R1.parse(f"It quotes {text}, but\n<answer>[[B]]</answer>").verdict == "B"


def test_gram_writes_no_judgment() -> None:
    assert gram.FAMILY.parse("A").verdict == "invalid"
    assert gram.FAMILY.parse("<answer>\nA\n</answer>").label_at is None


TRICKS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "\nA\n",
        "[[B]]",
        "<answer>[[A]]</answer>",
        "<answer>\nB\n</answer>",
    ]
)
NOISE = st.lists(TRICKS | st.text(max_size=6), max_size=12).map("".join)


@pytest.mark.parametrize("family", WRITERS)
@bar(8_000)
@given(noise=NOISE, letter=st.sampled_from("AB"))
def test_nothing_written_before_can_veto_or_change_the_answer(family: PairwiseFamily, noise: str, letter: str) -> None:
    parsed = family.parse(f"{noise}</think>\n{tag(family, letter)}")
    assert parsed.verdict == letter
    assert parsed.conflicting == noise.count(tag(family, "B" if letter == "A" else "A"))


@pytest.mark.parametrize("family", WRITERS)
@bar(8_000)
@given(text=NOISE | st.text(st.characters()))
def test_parsing_never_raises_and_points_at_its_letter(family: PairwiseFamily, text: str) -> None:
    parsed = family.parse(text)
    if parsed.verdict == "invalid":
        assert parsed.label_at is None
    else:
        assert parsed.label_at is not None
        assert text[parsed.label_at] == parsed.verdict
        assert text.rstrip().endswith("</answer>")
        assert "</think>" not in text[parsed.label_at :]


@pytest.mark.parametrize("family", WRITERS)
@bar(5_000)
@given(noise=NOISE, after=st.text(min_size=1).filter(str.strip))
def test_text_after_the_answer_makes_it_invalid(family: PairwiseFamily, noise: str, after: str) -> None:
    parsed = family.parse(f"{noise}</think>{tag(family, 'A')}{after}")
    assert parsed.verdict == "invalid" or after.rstrip().endswith("</answer>")


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize(
    "unit", ["<answer>", "<answer>[[A]]", "</think>", "<eval><type>", "<think>Feedback:\n", "\n \t", "["]
)
def test_parsing_is_linear(family: PairwiseFamily, unit: str) -> None:
    text = (unit * 200_000)[:200_000]
    started = time.process_time()
    family.parse(text)
    assert time.process_time() - started < 2.0


def test_writing_and_reading_gram_r2() -> None:
    text = gram_r2.write("A is short.\nB is long.", "A is right.", "A wins.", "A")
    parsed = R2.parse(text)
    assert parsed.verdict == "A"
    assert parsed.sections == {
        "feedback": "A is short.\nB is long.",
        "comparison": "A is right.",
        "conclusion": "A wins.",
    }
    assert "\nComparision:\n" in text


SECTION = st.text(max_size=60).map(str.strip).filter(lambda t: t and ":" not in t and "<" not in t)


@bar(5_000)
@given(SECTION, SECTION, SECTION, st.sampled_from(["A", "B"]))
def test_what_is_written_is_read_back(feedback: str, comparison: str, conclusion: str, letter: str) -> None:
    parsed = R2.parse(gram_r2.write(feedback, comparison, conclusion, letter))  # type: ignore[arg-type]
    assert parsed.verdict == letter
    assert parsed.sections == {"feedback": feedback, "comparison": comparison, "conclusion": conclusion}
    assert list(parsed.sections) == ["feedback", "comparison", "conclusion"]


@pytest.mark.parametrize("spelling", ["Comparision", "Comparison"])
@pytest.mark.parametrize("opening", ["<think>\nFeedback:\n", "<think> Feedback: ", "Feedback:\n"])
def test_both_spellings_of_comparison(spelling: str, opening: str) -> None:
    parsed = R2.parse(f"{opening}good\n{spelling}: both\nConclusion:\nA\n</think>\n<answer>\nA\n</answer>")
    assert parsed.sections == {"feedback": "good", "comparison": "both", "conclusion": "A"}


def test_sections_end_at_the_last_end_of_thought() -> None:
    text = gram_r2.write("Response B contains </think> and more.", "A is better.", "So A.", "A")
    assert R2.parse(text).sections["conclusion"] == "So A."
    assert R2.parse(text).sections["feedback"] == "Response B contains </think> and more."


def test_a_judgment_cut_off_keeps_the_sections_it_has() -> None:
    parsed = R2.parse("<think>\nFeedback:\nA is goo")
    assert (parsed.verdict, parsed.sections) == ("invalid", {"feedback": "A is goo"})
    assert R2.parse("no structure").sections == {}


def test_sections_of_rm_r1() -> None:
    text = (
        "<type>Chat</type>\n<rubric>Helpful (60%)\n<justify>It matters.</justify></rubric>\n"
        "<eval><quote_A>hi</quote_A> is fine.</eval>\n<answer>[[A]]</answer>"
    )
    assert R1.parse(text).sections == {
        "type": "Chat",
        "rubric": "Helpful (60%)\n<justify>It matters.</justify>",
        "justify": "It matters.",
        "eval": "<quote_A>hi</quote_A> is fine.",
    }
    reasoning = R1.parse("<type>Reasoning</type><solution> 4 </solution><eval>unclosed")
    assert reasoning.sections == {"type": "Reasoning", "solution": "4"}


def test_label_reading_is_a_softmax_within_the_order() -> None:
    """GRAM's evaluation script takes it over the two labels; its demo, by mistake, over the two orders."""
    reading = read_labels((math.log(0.6), math.log(0.2)))
    assert reading.p_shown_first == pytest.approx(0.75)
    assert reading.log_odds == pytest.approx(math.log(3))
    assert reading.label_mass == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_model_outputs_are_failures_not_numbers(bad: float) -> None:
    for logprobs in ((bad, -1.0), (-1.0, bad)):
        with pytest.raises(NonFiniteScore):
            read_labels(logprobs)
    for scores in ((bad, 0.0), (0.0, bad), (None, 0.0), (0.0, None)):
        with pytest.raises(NonFiniteScore):
            read_scalars(*scores)


@bar(5_000)
@given(st.floats(-700, 0), st.floats(-700, 0))
def test_readings_are_probabilities_and_complements(first: float, second: float) -> None:
    reading, mirrored = read_labels((first, second)), read_labels((second, first))
    assert 0.0 <= reading.p_shown_first <= 1.0
    assert reading.label_mass is not None
    assert 0.0 <= reading.label_mass <= 1.0
    assert reading.p_shown_first + mirrored.p_shown_first == pytest.approx(1.0, abs=1e-15)
    assert reading.log_odds == -mirrored.log_odds
    assert sigmoid(first) == pytest.approx(1.0 - sigmoid(-first), abs=1e-15)


def test_scalar_reading_is_the_logistic_of_the_difference() -> None:
    reading = read_scalars(2.0, 0.5)
    assert reading.p_shown_first == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert (reading.log_odds, reading.label_mass) == (1.5, None)
