"""Sixteen responses to one demo question, in four grades of quality: a true order that nobody had to label.

Right answers in several styles, near misses (a neighbour of the right answer), wronger ones (further from it), and
answers of another kind (a word where a number was asked for), four of each. Style is drawn alike for every grade, so
that it says nothing. Responses of one grade are equally good. Seeded; content is not restricted to the held-out part,
for what is measured with these is the ranking plan, not the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random

from training.data import demo_words as words

GRADES = ("right", "near", "wronger", "other kind")
PER_GRADE = 4


@dataclass(frozen=True, slots=True)
class Answers:
    """A question, and the answers of each grade before style, best grade first."""

    question: str
    by_grade: tuple[Sequence[str], ...]


@dataclass(frozen=True, slots=True)
class GradedPrompt:
    """A prompt with distinct responses in random order; ``grades[i]`` is 0 for a right response, 3 for the worst."""

    task: str
    prompt: str
    responses: tuple[str, ...]
    grades: tuple[int, ...]


def draw_graded(n: int, seed: int) -> list[GradedPrompt]:
    """``n`` prompts with different responses, the tasks in turn. A larger ``n`` only adds to the end."""
    random, names = Random(f"graded/{seed}"), list(TASKS)
    drawn: dict[tuple[str, frozenset[str]], GradedPrompt] = {}
    while len(drawn) < n:
        one = _draw(names[len(drawn) % len(names)], random)
        drawn.setdefault((one.prompt, frozenset(one.responses)), one)
    return list(drawn.values())


def _draw(task: str, random: Random) -> GradedPrompt:
    answers = TASKS[task](random)
    graded: dict[str, int] = {}
    for grade, options in enumerate(answers.by_grade):
        kept = 0
        while kept < PER_GRADE:
            text = _styled(options[kept % len(options)], random)
            kept += text not in graded
            graded.setdefault(text, grade)
    texts = random.sample(sorted(graded), len(graded))
    return GradedPrompt(task, answers.question, tuple(texts), tuple(graded[text] for text in texts))


def _styled(answer: str, random: Random) -> str:
    """The styles the demo judge was trained with, half of them the bare answer."""
    if random.random() < 0.5:
        return answer
    greeting, lead = random.choice(words.GREETINGS), random.choice(words.ANSWER_LEADS)
    end, closing = random.choice(words.ENDS), random.choice(words.CLOSINGS)
    said = f"**{answer}**" if random.random() < 0.25 else answer
    return f"{greeting}{lead}{said}{end or ('.' if closing else '')}{closing}"


def _addition(random: Random) -> Answers:
    a, b = random.randrange(1, 10), random.randrange(3, 10)
    right = a + b
    by_distance = [[str(right)], *([str(right - d), str(right + d)] for d in (1, 3))]
    return Answers(f"What is {a} + {b}?", (*by_distance, random.sample(words.THINGS, PER_GRADE)))


def _calendar(random: Random) -> Answers:
    months = words.MONTHS
    i, (step, word) = random.randrange(len(months)), random.choice(((1, "after"), (-1, "before")))
    far = [months[(i + step * away) % len(months)] for away in (1, 2, 5, 7)]
    question = f"Which month comes {word} {months[i]}?"
    return Answers(question, (far[:1], far[1:2], far[2:], [str(n) for n in random.sample(range(20, 60), PER_GRADE)]))


def _sorting(random: Random) -> Answers:
    items = random.sample(words.THINGS, 3)
    ordered = sorted(items)
    by_inversions: list[list[str]] = [[], [], [], []]
    for turned in permutations(range(3)):
        inversions = sum(turned[i] > turned[j] for i in range(3) for j in range(i + 1, 3))
        by_inversions[inversions].append(", ".join(ordered[i] for i in turned))
    right, near, two, three = by_inversions
    other = [str(n) for n in random.sample(range(20, 60), PER_GRADE)]
    return Answers(f"Sort these words alphabetically: {', '.join(items)}", (right, near, two + three, other))


def _extreme(random: Random) -> Answers:
    numbers = random.sample(range(10, 60), 3)
    largest = random.random() < 0.5
    by_rank = [[str(n)] for n in sorted(numbers, reverse=largest)]
    question = f"Which number is the {'largest' if largest else 'smallest'}: {', '.join(map(str, numbers))}?"
    return Answers(question, (*by_rank, random.sample(words.THINGS, PER_GRADE)))


def _capitals(random: Random) -> Answers:
    (country, capital), *others = random.sample(words.CAPITALS, 1 + 2 * PER_GRADE)
    cities, countries = [city for _, city in others[:PER_GRADE]], [land for land, _ in others[PER_GRADE:]]
    numbers = [str(n) for n in random.sample(range(20, 60), PER_GRADE)]
    return Answers(f"What is the capital of {country}?", ([capital], cities, countries, numbers))


TASKS: dict[str, Callable[[Random], Answers]] = {
    "addition": _addition,
    "calendar": _calendar,
    "sorting": _sorting,
    "extreme": _extreme,
    "capitals": _capitals,
}
"""The demo tasks whose answers can be more or less wrong."""
