"""The findings in sentences and small tables: one structure, which the page and its markdown twin both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.evaluation.report.findings import Findings, Wrong
from training.evaluation.report.throughput import Spent
from training.evaluation.statistics import Interval

SHOWN_CHARS = 700
"""Longer texts of examples are cut in the middle."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What was judged, by whom, on what: the head of the page. ``sha256`` is of the pairs file."""

    judge: str
    version: str
    where: str
    data: str
    sha256: str
    date: str
    hardware_price: float
    concurrency: int


@dataclass(frozen=True, slots=True)
class Card:
    """One number for a glance: what it is, the number, and what qualifies it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences, a picture by name (empty: none) and a table."""

    title: str
    sentences: tuple[str, ...]
    picture: str = ""
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A pair the judge got wrong; texts are raw and must be escaped where they are shown."""

    id: str
    subset: str
    confidence: str
    prompt: str
    better: str
    preferred: str


def cards(found: Findings, spent: Spent, subject: Subject) -> list[Card]:
    calibrated, bias, slope = found.calibration, found.position.bias, found.length.slope
    shown = [
        Card("accuracy", _percent(found.accuracy.value), f"two orders averaged; {_range(found.accuracy)}"),
        Card("flips", _percent(found.flips.value), f"verdicts the order decides; {_range(found.flips)}"),
        Card("ECE", f"{calibrated.measured.ece:.3f}", f"fitted temperature {calibrated.measured.temperature:.2f}")
        if calibrated
        else Card("ECE", "-", "too few pairs"),
        Card("position", f"{bias.value:+.2f}", "nats to the first shown; 0 is fair"),
        Card("length", f"{slope.value:+.2f}" if slope else "-", "nats for twice the length; 0 is fair"),
        Card("pairs / s", _number(spent.pairs_per_second), "each in both orders") if spent.pairs else None,
        Card("$ / 1,000", _dollars(spent, subject.hardware_price), f"at ${subject.hardware_price:g} an hour")
        if spent.pairs
        else None,
    ]
    return [card for card in shown if card]


def sections(found: Findings, spent: Spent, subject: Subject) -> list[Section]:
    return [
        _accuracy(found),
        _orders(found),
        _calibration(found),
        _length(found),
        _position(found),
        _mass(found),
        _throughput(spent, subject),
    ]


def _accuracy(found: Findings) -> Section:
    test = found.length.against_rule
    sentences = [
        f"{_percent(found.accuracy.value)} of {found.pairs:,} pairs ({_range(found.accuracy)}; {found.prompts:,} "
        "prompts) by the average of both orders.",
        f"One order alone is right in {_percent(found.single.value)}, both orders at once in "
        f"{_percent(found.both.value)}.",
        f'The rule "the longer response wins" is right in {_percent(found.length.longer_wins.value)}: the judge is '
        f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}] against it, {_p_value(test.p)}.",
    ]
    if found.failures:
        listed = ", ".join(f"{count:,} x {code}" for code, count in found.failures)
        sentences.append(f"Without a verdict, and counted as not right: {listed}.")
    if found.ties:
        sentences.append(f"Exact ties, counted as not right: {found.ties:,}.")
    rows = tuple(
        (d.name, f"{d.pairs:,}", _percent(d.accuracy.value), _range(d.accuracy), _percent(d.flips))
        for d in found.divisions
    )
    headers = ("subset", "pairs", "accuracy", "95 % interval", "flips") if rows else ()
    return Section("Is it right?", tuple(sentences), "accuracy", headers, rows)


def _orders(found: Findings) -> Section:
    return Section(
        "Does the order decide?",
        (
            f"{_percent(found.flips.value)} of the verdicts ({_range(found.flips)}) change when the responses change "
            "places.",
            "Each pair is a point: the better response's log-odds when it is shown first and when it is shown second. "
            "On the dotted diagonal the place says nothing.",
        ),
        "orders",
    )


def _calibration(found: Findings) -> Section:
    if found.calibration is None:
        return Section("Does its confidence mean anything?", ("Too few verdicts to say.",))
    measured = found.calibration.measured
    lean = (
        "over-confident"
        if measured.temperature > 1.05
        else "under-confident"
        if measured.temperature < 0.95
        else "about right"
    )
    return Section(
        "Does its confidence mean anything?",
        (
            f"Expected calibration error {measured.ece:.3f} [{found.calibration.ece_low:.3f}, "
            f"{found.calibration.ece_high:.3f}], {measured.nll:.3f} nats a pair.",
            f"The temperature that fits best is {measured.temperature:.2f}: the judge is {lean}. Divided by one fitted "
            f"on other prompts, the error is {found.calibration.ece_after:.3f}.",
        ),
        "calibration",
    )


def _length(found: Findings) -> Section:
    length = found.length
    sentences = []
    if length.slope:
        sentences.append(
            f"A response twice as long gets {length.slope.value:+.2f} nats [{length.slope.low:+.2f}, "
            f"{length.slope.high:+.2f}] at equal quality (the label held fixed)."
        )
    if length.chosen_longer and length.chosen_shorter:
        sentences.append(
            f"Where the better response is the longer one it is right in {_percent(length.chosen_longer.value)}, "
            f"where it is the shorter one in {_percent(length.chosen_shorter.value)}."
        )
    rows = tuple(
        (f"{one.doublings:+.2f}", f"{one.pairs:,}", _percent(one.accuracy.value), _range(one.accuracy))
        for one in length.bins
    )
    return Section(
        "Does it like long answers?",
        tuple(sentences),
        "length",
        ("doublings", "pairs", "accuracy", "95 % interval"),
        rows,
    )


def _position(found: Findings) -> Section:
    bias, picks = found.position.bias, found.position.picks_first
    lean = (
        "no clear lean"
        if bias.low <= 0 <= bias.high
        else "towards the first"
        if bias.value > 0
        else "towards the second"
    )
    return Section(
        "Does it like the first answer?",
        (
            f"Whichever response stands first gets {bias.value:+.2f} nats [{bias.low:+.2f}, {bias.high:+.2f}]: {lean}.",
            f"Single orders prefer the response shown first in {_percent(picks.value)} ({_range(picks)}). Averaging "
            "both orders takes this bias out of the score.",
        ),
        "position",
    )


def _mass(found: Findings) -> Section:
    mass = sorted(found.label_mass)
    if not mass:
        return Section("Does it answer at all?", ("This judge reads no label, so there is no label mass.",))
    low, middle = mass[int(0.05 * (len(mass) - 1))], mass[len(mass) // 2]
    poor = sum(value < 0.5 for value in mass) / len(mass)
    return Section(
        "Does it answer at all?",
        (
            f"The two labels hold {middle:.3f} of the probability (median; 5 % of the pairs lie below {low:.3f}, the "
            f"least is {mass[0]:.3f}). In {_percent(poor)} of the pairs the model would rather have said something "
            "else.",
        ),
        "label_mass",
    )


def _throughput(spent: Spent, subject: Subject) -> Section:
    title = "What does it cost?"
    if not spent.pairs:
        return Section(title, ("Nothing was judged in this run, and no earlier run left its times.",))
    each = (spent.prompt_tokens + spent.completion_tokens) / spent.pairs
    sentences = [
        f"{_number(spent.pairs_per_second)} pairs a second, each in both orders, over {spent.pairs:,} pairs in "
        f"{spent.seconds:,.1f} s with {subject.concurrency} requests at a time, as seen from here.",
        f"At ${subject.hardware_price:g} an hour of the hardware, 1,000 comparisons cost "
        f"{_dollars(spent, subject.hardware_price)}.",
    ]
    if each:
        cached = spent.cached_tokens / spent.prompt_tokens if spent.prompt_tokens else 0.0
        sentences.append(
            f"{_number(spent.tokens_per_second)} tokens a second; {each:,.0f} tokens a pair, {_percent(cached)} of the "
            "prompts' tokens read from the prefix cache."
        )
    return Section(title, tuple(sentences))


def examples(wrong: Sequence[Wrong]) -> list[Example]:
    return [
        Example(
            one.pair.id,
            one.pair.subset or one.pair.source,
            f"{one.confidence:.3f}",
            shortened("\n\n".join(f"{m.role}: {m.content}" for m in one.pair.prompt.messages))
            if not one.pair.prompt.is_single_turn
            else shortened(one.pair.prompt.messages[0].content),
            shortened(one.pair.chosen),
            shortened(one.pair.rejected),
        )
        for one in wrong
    ]


def shortened(text: str, most: int = SHOWN_CHARS) -> str:
    """The beginning and the end, where a text is too long to show."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}\n[... {len(text) - most:,} characters ...]\n{text[-(most // 3) :]}"


def _percent(share: float) -> str:
    return "-" if share != share else f"{share:.1%}"


def _range(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _dollars(spent: Spent, price: float) -> str:
    cost = spent.cost_per_thousand(price)
    return f"${cost:.2f}" if cost >= 0.1 else f"${cost:.2g}"
