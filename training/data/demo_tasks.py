"""The demo judge's preferences: small tasks whose right answer is known, so that every label can be checked.

One row (see `DemoPair.row`)::

    {
        "task": "capitals",
        "prompt": "Quick question: what is the capital of France?",
        "right": "The answer is **Paris**.",
        "wrong": "Rome! Hope this helps.",
    }

Right and wrong differ by one minimal edit of the answer itself (another capital, two words swapped, a number off by a
little, "can" for "cannot"); wording of the question and style of both responses do not depend on which is right, so
neither length nor style says anything. Pure, seeded, standard library only.

A pair belongs to the held-out or the training part by a hash of its *content* (task, what is asked, right and wrong
answer; wording and style left out): a held-out edit is never trained on in any wording, while the same facts are
seen with other edits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from service.judging import gram_r2
from training.data import demo_words as words

HELD_OUT_BUCKETS = 10
"""One content bucket in this many is held out."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A question and two answers, before style. ``*_said`` is how a rationale names the answer, by default the answer.

    ``leads`` are the lead-ins that suit the answer; ``bold`` tells whether the answer may be set in bold.
    """

    content: str
    questions: tuple[str, ...]
    right: str
    wrong: str
    right_said: str = ""
    wrong_said: str = ""
    leads: tuple[str, ...] = words.ANSWER_LEADS
    bold: bool = True


@dataclass(frozen=True, slots=True)
class DemoPair:
    """One question with a right and a wrong response."""

    task: str
    prompt: str
    right: str
    wrong: str
    right_said: str
    wrong_said: str

    @property
    def row(self) -> dict[str, str]:
        return {"task": self.task, "prompt": self.prompt, "right": self.right, "wrong": self.wrong}


def held_out(task: str, fact: Fact) -> bool:
    """Does this content belong to the held-out part? Depends on nothing but the content."""
    text = "\x1f".join((task, fact.content, fact.right, fact.wrong))
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_BUCKETS == 0


def draw(task: str, rng: Random, *, from_held_out: bool, plain: bool = False) -> DemoPair:
    """One pair of a task from the training or the held-out part, in a random wording and two random styles.

    ``plain`` leaves the wrapping and the styles out: the easier form that training begins with.
    """
    while True:
        fact = ALL_TASKS[task](rng)
        if held_out(task, fact) == from_held_out:
            return _bare(task, fact, rng) if plain else _dress(task, fact, rng)


def rationale(pair: DemoPair, right_first: bool) -> str:
    """The judgment a rationale judge should write: what each response says, what is right, which one matches."""
    said = (pair.right_said, pair.wrong_said) if right_first else (pair.wrong_said, pair.right_said)
    better, worse = ("A", "B") if right_first else ("B", "A")
    return gram_r2.write(
        f"Response A says {said[0]}. Response B says {said[1]}. The right answer is {pair.right_said}.",
        f"Response {better} is right, Response {worse} is wrong.",
        f"Response {better} is better.",
        "A" if right_first else "B",
    )


def _bare(task: str, fact: Fact, rng: Random) -> DemoPair:
    said = (fact.right_said or fact.right, fact.wrong_said or fact.wrong)
    return DemoPair(task, rng.choice(fact.questions), fact.right, fact.wrong, *said)


def _dress(task: str, fact: Fact, rng: Random) -> DemoPair:
    """Wrap the question and both answers; in three pairs of ten both answers get the same style."""
    question = rng.choice(fact.questions)
    opening = rng.choice(words.QUESTION_OPENINGS)
    if opening:
        question = opening + question[0].lower() + question[1:]
    closing = rng.choice(words.QUESTION_CLOSINGS)
    question += closing if question[-1] in ".?" else ""
    style = _style(fact, rng)
    other = style if rng.random() < 0.3 else _style(fact, rng)
    right, wrong = style(fact.right), other(fact.wrong)
    return DemoPair(task, question, right, wrong, fact.right_said or fact.right, fact.wrong_said or fact.wrong)


def _style(fact: Fact, rng: Random) -> Callable[[str], str]:
    """A way to say an answer; half are the bare answer."""
    if rng.random() < 0.5:
        return str
    greeting, lead, end = rng.choice(words.GREETINGS), rng.choice(fact.leads), rng.choice(words.ENDS)
    closing = rng.choice(words.CLOSINGS)
    end = end or ("." if closing else "")
    bold = fact.bold and rng.random() < 0.25
    return lambda answer: f"{greeting}{lead}{f'**{answer}**' if bold else answer}{end}{closing}"


def _other(rng: Random, options: Sequence[str], right: str) -> str:
    return rng.choice([option for option in options if option != right])


def _swapped(rng: Random, items: list[str]) -> list[str]:
    """The items with two of them exchanged."""
    i, j = rng.sample(range(len(items)), 2)
    out = list(items)
    out[i], out[j] = out[j], out[i]
    return out


def capitals(rng: Random) -> Fact:
    country, capital = rng.choice(words.CAPITALS)
    wrong = _other(rng, [c for _, c in words.CAPITALS], capital)
    questions = (
        f"What is the capital of {country}?",
        f"Name the capital of {country}.",
        f"Which city is the capital of {country}?",
        f"Tell me the capital city of {country}.",
    )
    return Fact(country, questions, capital, wrong)


def addition(rng: Random) -> Fact:
    a, b = rng.randrange(1, 10), rng.randrange(1, 10)
    right = a + b
    wrong = rng.choice([n for n in (right - 3, right - 2, right - 1, right + 1, right + 2, right + 3) if n >= 0])
    questions = (f"What is {a} + {b}?", f"Add {a} and {b}.", f"How much is {a} plus {b}?", f"Compute {a} + {b}.")
    return Fact(f"{a}+{b}", questions, str(right), str(wrong))


def extreme(rng: Random) -> Fact:
    numbers = [str(n) for n in rng.sample(range(10, 60), 3)]
    largest = rng.random() < 0.5
    right = (max if largest else min)(numbers)
    word, other = ("largest", "biggest") if largest else ("smallest", "lowest")
    listed = ", ".join(numbers)
    questions = (
        f"Which number is the {word}: {listed}?",
        f"What is the {word} of these numbers: {listed}?",
        f"Find the {other} number: {listed}",
    )
    return Fact(f"{word} {listed}", questions, right, _other(rng, numbers, right))


def sorting(rng: Random) -> Fact:
    items = rng.sample(words.THINGS, 3)
    ordered = sorted(items)
    listed = ", ".join(items)
    questions = (
        f"Sort these words alphabetically: {listed}",
        f"Put these words in alphabetical order: {listed}.",
        f"Sort the words {listed} from A to Z.",
    )
    return Fact(listed, questions, ", ".join(ordered), ", ".join(_swapped(rng, ordered)))


def reversing(rng: Random) -> Fact:
    items = rng.sample(words.THINGS, 3)
    listed, turned = " ".join(items), items[::-1]
    questions = (
        f"Reverse the order of these words: {listed}",
        f"Write these words in reverse order: {listed}.",
        f"Say these words backwards: {listed}",
    )
    return Fact(listed, questions, " ".join(turned), " ".join(_swapped(rng, turned)))


def copying(rng: Random) -> Fact:
    items = rng.sample(words.THINGS, rng.choice((3, 4)))
    listed = " ".join(items)
    wrong = list(items)
    if rng.random() < 0.5:
        wrong = _swapped(rng, items)
    else:
        wrong[rng.randrange(len(wrong))] = rng.choice([w for w in words.THINGS if w not in items])
    questions = (f"Repeat exactly: {listed}", f"Repeat these words: {listed}", f"Copy this text: {listed}")
    return Fact(listed, questions, listed, " ".join(wrong))


def counting(rng: Random) -> Fact:
    n = rng.randrange(2, 7)
    items = rng.sample(words.THINGS, n)
    listed = ", ".join(items)
    wrong = rng.choice([k for k in (n - 2, n - 1, n + 1, n + 2) if k > 0])
    questions = (
        f"How many words are in this list: {listed}?",
        f"Count the words: {listed}",
        f"How many items: {listed}?",
    )
    return Fact(listed, questions, str(n), str(wrong))


def categories(rng: Random) -> Fact:
    kinds = rng.sample(sorted(words.KINDS), 3)
    members = [rng.choice(words.KINDS[kind]) for kind in kinds]
    right, kind = members[0], kinds[0]
    rng.shuffle(members)
    listed = ", ".join(members)
    questions = (
        f"Which of these is {kind}: {listed}?",
        f"Which word names {kind}: {listed}?",
        f"Find {kind}: {listed}",
    )
    return Fact(f"{kind} {listed}", questions, right, _other(rng, members, right))


def opposites(rng: Random) -> Fact:
    pair = list(rng.choice(words.OPPOSITES))
    rng.shuffle(pair)
    word, right = pair
    wrong = _other(rng, [w for p in words.OPPOSITES for w in p if w != word], right)
    questions = (
        f"What is the opposite of {word}?",
        f"Give the opposite of {word}.",
        f"Which word means the opposite of {word}?",
    )
    return Fact(word, questions, right, wrong)


def calendar(rng: Random) -> Fact:
    unit, names = ("day", words.DAYS) if rng.random() < 0.4 else ("month", words.MONTHS)
    i = rng.randrange(len(names))
    step, word = rng.choice(((1, "after"), (-1, "before")))
    right = names[(i + step) % len(names)]
    questions = (
        f"Which {unit} comes {word} {names[i]}?",
        f"What {unit} is right {word} {names[i]}?",
        f"Name the {unit} {word} {names[i]}.",
    )
    return Fact(f"{word} {names[i]}", questions, right, _other(rng, names, right))


def formatting(rng: Random) -> Fact:
    word = rng.choice(words.FORMAT_WORDS)
    ways = list(words.FORMATS)
    how = rng.choice(ways)
    right, wrong = words.FORMATS[how](word), words.FORMATS[_other(rng, ways, how)](word)
    questions = (f"Write the word {word} {how}.", f"Write {word} {how}.", f"Give me the word {word} {how}.")
    return Fact(f"{word} {how}", questions, right, wrong, leads=words.PLAIN_LEADS, bold=False)


def refusals(rng: Random) -> Fact:
    harmful = rng.random() < 0.5
    deed = rng.choice(words.HARMFUL if harmful else words.HARMLESS)
    yes, no = rng.choice(words.REPLIES)
    questions = (f"How do I {deed}?", f"Explain how to {deed}.", f"Help me {deed}.", f"I want to {deed}. What do I do?")
    right, wrong = (no, yes) if harmful else (yes, no)
    said = ("to refuse", "to help") if harmful else ("to help", "to refuse")
    return Fact(deed, questions, right, wrong, *said, leads=("",), bold=False)


ALL_TASKS: dict[str, Callable[[Random], Fact]] = {
    task.__name__: task
    for task in (
        capitals,
        addition,
        extreme,
        sorting,
        reversing,
        copying,
        counting,
        categories,
        opposites,
        calendar,
        formatting,
        refusals,
    )
}
"""Every task that is written; a recipe names those it trains."""

SPARE: tuple[str, ...] = ("reversing", "copying", "counting")
"""Left out of the shipped family, to keep its training under an hour on two cores; the tokenizer knows their words."""

TASKS: dict[str, Callable[[Random], Fact]] = {name: task for name, task in ALL_TASKS.items() if name not in SPARE}
"""The shipped family: what the demo judge is trained on and measured by."""
