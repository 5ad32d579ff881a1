"""MinHash estimates the Jaccard similarity it is an estimate of; near-duplicates are alike in prompt and responses."""

from __future__ import annotations

from random import Random

import numpy as np

from service.types import Prompt
from training.data.near_duplicates import HASHES, Signatures, signature, similarity
from training.data.pairs import Pair
from training.data.texts import words


def text(rng: Random, length: int) -> str:
    return " ".join(str(rng.randrange(10_000)) for _ in range(length))


def edited(rng: Random, source: str, changes: int) -> str:
    said = source.split()
    for place in rng.sample(range(len(said)), changes):
        said[place] = "changed"
    return " ".join(said)


def jaccard(first: str, second: str) -> float:
    sets = [set(zip(*(words(t)[i:] for i in range(5)), strict=False)) for t in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_estimate_is_unbiased_and_as_sharp_as_promised() -> None:
    rng = Random(0)
    errors = []
    for _ in range(400):
        first = text(rng, 100)
        second = edited(rng, first, rng.randrange(12))
        errors.append(float(similarity(signature(first), signature(second))) - jaccard(first, second))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 1.2 * 0.5 / np.sqrt(HASHES), "the standard deviation of a share of 64 coins at most"


def test_case_spacing_and_punctuation_do_not_count_but_short_texts_do() -> None:
    assert np.array_equal(signature("One, two; THREE four\nfive six!"), signature("one two three four five six"))
    assert similarity(signature("Yes."), signature("No.")) < 0.2
    assert similarity(signature("+"), signature("-")) < 0.2
    assert np.array_equal(
        signature("\u4f60\u597d\u3002\u4e16\u754c\u548c\u5e73"), signature("\u4f60\u597d\u4e16\u754c\u548c\u5e73")
    )


def near(*pairs: Pair) -> dict[int, int]:
    known = Signatures()
    for pair in pairs:
        known.add(pair)
    return known.near_pairs(0.8)


def test_pairs_are_alike_only_in_prompt_and_both_responses() -> None:
    rng = Random(1)
    question, a, b, c = (text(rng, 120) for _ in range(4))
    few = [edited(rng, source, 1) for source in (question, a, b)]

    def pair(prompt: str, first: str, second: str) -> Pair:
        return Pair("p", Prompt.from_text(prompt), first, second)

    original = pair(question, a, b)
    assert near(original, pair(*few)) == {1: 0}
    assert near(original, pair(few[0], few[2], few[1])) == {1: 0}, "the other way round"
    assert near(original, pair(question, a, c)) == {}, "another comparison of the same answer"
    assert near(original, pair(c, a, b)) == {}, "the same answers to another question"
    assert near(original, pair(question, a, c), pair(*few), original) == {2: 0, 3: 0}


def test_near_duplicates_are_found_whatever_stands_between() -> None:
    """98 % of pairs with 2 of 150 words changed in each text (similarity about 0.87), and none of the others."""
    rng = Random(2)
    originals = [Pair("o", Prompt.from_text(text(rng, 150)), text(rng, 150), text(rng, 150)) for _ in range(300)]
    copies = [
        Pair(
            "c",
            Prompt.from_text(edited(rng, o.prompt.messages[0].content, 2)),
            edited(rng, o.response_a, 2),
            edited(rng, o.response_b, 2),
        )
        for o in originals
    ]
    known = Signatures()
    for pair in (*originals, *copies):
        known.add(pair)
    found = known.near_pairs(0.75)
    assert all(later - earlier == 300 for later, earlier in found.items())
    assert len(found) > 0.98 * 300
    prompts = known.near_prompts(0.75)
    assert all(later - earlier == 300 for later, earlier in prompts.items())
    assert len(prompts) > 0.98 * 300


def test_a_bucket_is_a_hint_and_no_verdict() -> None:
    """Prompts that share two thirds of their words meet in some bucket; they are not nearly the same."""
    rng = Random(3)
    known = Signatures()
    for _ in range(30):
        question, a, b = (text(rng, 90) for _ in range(3))
        for prompt in (question, question[: len(question) * 5 // 6] + text(rng, 15)):
            known.add(Pair("p", Prompt.from_text(prompt), a, b))
    assert known.near_prompts(0.5), "they do meet"
    assert known.near_pairs(0.95) == known.near_prompts(0.95) == {}


def test_nothing_is_like_nothing() -> None:
    assert Signatures().near_pairs(0.8) == {}
    assert Signatures().near_prompts(0.8) == {}
