"""One comparison, judged: what to ask the engine, and how its completions become a verdict.

A judgment is a generator: it yields batches of engine requests and is sent their completions, so the same logic runs in
a request, in an offline batch and in a test without an engine. Both display orders are always asked, on the pair's
canonical order, which makes compare(a, b) and compare(b, a) exact complements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from service.aggregation import (
    Slot,
    VoteReading,
    canonical,
    combine,
    combine_votes,
    identical,
    mirror,
    mirror_rationales,
    vote_slots,
    votes_worth_asking,
)
from service.engines.base import EngineRequest, prompt_limit
from service.errors import InvalidInput, InvalidVerdict, LowLabelMass, RefusedText, TokenLimitExceeded
from service.judge import Judge
from service.judging.base import Letter, PairwiseFamily, ScalarFamily, read_labels, read_scalars
from service.judging.flags import pair_flags, text_flags
from service.tokenization import TokenMemo
from service.types import (
    Comparison,
    Completion,
    Flag,
    OnBudget,
    Order,
    OrderReading,
    Prompt,
    Rationale,
    Rendered,
    Response,
    Usage,
    Verdict,
    Where,
)

UNSURE_MASS = 0.5
"""Below this share of its probability on the verdict letters a judge mostly wanted to say something else: flagged."""

Asks = list[EngineRequest]
Judgment = Generator[Asks, Sequence[Completion], Verdict]


@dataclass(frozen=True, slots=True)
class TextMemo:
    """What is known of a batch's texts, so that a group's responses are inspected and tokenized once, not once a pair.

    For one judge: another has other delimiters and another tokenizer.
    """

    flags: dict[tuple[str, Where], tuple[Flag, ...]] = field(default_factory=dict)
    tokens: TokenMemo = field(default_factory=dict)
    affinities: dict[Prompt, bytes] = field(default_factory=dict)

    def affinity_of(self, prompt: Prompt) -> bytes:
        """`conversation_key`, computed once."""
        if prompt not in self.affinities:
            self.affinities[prompt] = conversation_key(prompt)
        return self.affinities[prompt]


def conversation_key(prompt: Prompt) -> bytes:
    """Names what the responses of a group answer, whoever judges it: a hash of 16 bytes, never the text itself."""
    digest = hashlib.blake2b(digest_size=16)
    for message in prompt.messages:
        for text in (message.role, message.content):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Ask:
    """How the caller wants a pair judged: ``votes`` per order, early stopping, and the caller's prefix-cache salt.

    ``max_rationale_tokens`` and ``on_budget`` limit a rationale more tightly, or otherwise, than the judge does itself.
    """

    votes: int = 1
    stop_when_decided: bool = False
    salt: str | None = None
    max_rationale_tokens: int | None = None
    on_budget: OnBudget | None = None

    def budget(self, judge: Judge) -> int:
        """Tokens that one rationale may have. Raises `InvalidInput` for more than the judge's own limit."""
        own = judge.max_rationale_tokens
        if self.max_rationale_tokens is not None and self.max_rationale_tokens > own:
            message = f"Judge {judge.name} writes at most {own} tokens; lower max_rationale_tokens."
            raise InvalidInput(message, limit=own)
        return self.max_rationale_tokens or own


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tokenized pair in canonical order. ``prompts``: the two display orders (scalar judges: one per response).

    ``affinity`` is equal for all pairs of one conversation.
    """

    comparison: Comparison
    swapped: bool
    prompts: tuple[tuple[int, ...], tuple[int, ...]]
    flags: tuple[Flag, ...]
    affinity: bytes

    @property
    def is_identical(self) -> bool:
        return self.comparison.first.text == self.comparison.second.text


def prepare(judge: Judge, comparison: Comparison, memo: TextMemo) -> Prepared:
    """Render and tokenize both orders. Raises `TokenLimitExceeded` (never truncates), `RefusedText`, `InvalidInput`."""
    flags = comparison_flags(judge, comparison, memo)
    refuse(judge, flags)
    pair, swapped = canonical(comparison)
    affinity = memo.affinity_of(comparison.prompt)
    if pair.first.text == pair.second.text:
        return Prepared(pair, swapped, ((), ()), flags, affinity)
    first, second = (judge.tokenizer.encode(rendered, memo.tokens) for rendered in _renderings(judge, pair))
    _check_length(judge, comparison, max(len(first), len(second)))
    return Prepared(pair, swapped, (first, second), flags, affinity)


def prepare_one(judge: Judge, prompt: Prompt, response: Response) -> tuple[tuple[int, ...], tuple[Flag, ...]]:
    """Tokenize one conversation for a scalar judge; its ids and flags. Raises as `prepare` does."""
    (flags,) = flags_of(judge, prompt, [response])
    refuse(judge, flags)
    ids = judge.tokenizer.encode(_scalar(judge).render_one(prompt, response))
    _check_length(judge, Comparison(prompt, response, Response("")), len(ids))
    return ids, flags


def refuse(judge: Judge, flags: Sequence[Flag]) -> None:
    """Raises `RefusedText` for a response with a flag that this judge's configuration does not let pass."""
    for flag in flags:
        if flag.code in judge.refuse_flags and flag.where in ("a", "b", "response"):
            field = f"response_{flag.where}" if flag.where != "response" else "response"
            message = f"Judge {judge.name} does not judge a response with the flag {flag.code}; send another text."
            raise RefusedText(message, flag=flag.code, field=field)


def judgment(judge: Judge, prepared: Prepared, ask: Ask) -> Judgment:
    """Judge one prepared pair; the returned verdict is in the caller's order, with flags and usage.

    Raises what reading raises: `NonFiniteScore`, `LowLabelMass`, `InvalidVerdict`; and `InvalidInput` for a budget that
    the judge does not have.
    """
    if prepared.is_identical:
        verdict = identical()
    elif judge.family.reads == "rationale":
        verdict = yield from _written(judge, prepared, ask)
    elif judge.family.reads == "label":
        verdict = yield from _labelled(judge, prepared, ask)
    else:
        verdict = yield from _scored(judge, prepared, ask)
    verdict = mirror(verdict) if prepared.swapped else verdict
    flags = prepared.flags + verdict.flags + _doubts(verdict)
    return replace(verdict, flags=flags, usage=verdict.usage + Usage(comparisons=1))


def label_request(judge: Judge, prompt_ids: tuple[int, ...], salt: str | None, affinity: bytes) -> EngineRequest:
    return EngineRequest(
        prompt_ids, "label", label_ids=judge.label_ids, adapter=judge.adapter, cache_salt=salt, affinity=affinity
    )


def scalar_request(judge: Judge, prompt_ids: tuple[int, ...], salt: str | None, affinity: bytes) -> EngineRequest:
    return EngineRequest(prompt_ids, "scalar", adapter=judge.adapter, cache_salt=salt, affinity=affinity)


def rationale_request(judge: Judge, prompt_ids: tuple[int, ...], ask: Ask, affinity: bytes) -> EngineRequest:
    """One vote: greedy when it is the only one of its order, sampled (unseeded) otherwise."""
    temperature = pairwise(judge).vote_temperature if ask.votes > 1 else 0.0
    return EngineRequest(
        prompt_ids,
        "generate",
        max_tokens=ask.budget(judge),
        temperature=temperature,
        repetition=judge.repetition,
        adapter=judge.adapter,
        cache_salt=ask.salt,
        affinity=affinity,
    )


def pairwise(judge: Judge) -> PairwiseFamily:
    """The judge's family as a pairwise one. Raises `InvalidInput` for scalar judges."""
    if judge.family.reads == "scalar":
        raise InvalidInput(f"Judge {judge.name} scores single responses; name a pairwise judge.")
    return judge.family


def _scalar(judge: Judge) -> ScalarFamily:
    if judge.family.reads != "scalar":
        raise InvalidInput(f"Judge {judge.name} compares two responses; give a reference, or name a scalar judge.")
    return judge.family


def _renderings(judge: Judge, pair: Comparison) -> tuple[Rendered, Rendered]:
    if judge.family.reads == "scalar":
        family = _scalar(judge)
        return family.render_one(pair.prompt, pair.first), family.render_one(pair.prompt, pair.second)
    return pairwise(judge).render(pair), pairwise(judge).render(pair.swap())


def _labelled(judge: Judge, prepared: Prepared, ask: Ask) -> Judgment:
    completions = yield [label_request(judge, ids, ask.salt, prepared.affinity) for ids in prepared.prompts]
    readings = [_read_label(judge, completion) for completion in completions]
    return replace(combine(readings[0], readings[1]), usage=total_usage(completions))


def _read_label(judge: Judge, completion: Completion) -> OrderReading:
    reading = read_labels(completion.label_logprobs)
    if reading.label_mass is not None and reading.label_mass < judge.min_label_mass:
        raise LowLabelMass(
            f"Judge {judge.name} puts only {reading.label_mass:.3f} of its probability on the verdict letters; "
            "check that the family and chat template fit the checkpoint."
        )
    return reading


def _scored(judge: Judge, prepared: Prepared, ask: Ask) -> Judgment:
    completions = yield [scalar_request(judge, ids, ask.salt, prepared.affinity) for ids in prepared.prompts]
    first, second = (completion.score for completion in completions)
    return replace(combine(read_scalars(first, second), read_scalars(second, first)), usage=total_usage(completions))


def _written(judge: Judge, prepared: Prepared, ask: Ask) -> Judgment:
    """Votes in the order of `vote_slots`: all at once, or as many as could decide when the caller lets voting stop."""
    readings: list[VoteReading] = []
    usage = Usage()
    slots = vote_slots(ask.votes)
    while number := votes_worth_asking(readings, ask.votes) if ask.stop_when_decided else 2 * ask.votes - len(readings):
        mine = list(islice(slots, number))
        requests = [rationale_request(judge, prompt_of(prepared, order), ask, prepared.affinity) for order, _ in mine]
        texts = yield requests
        votes_read, read_usage = yield from read_votes(judge, prepared, mine, texts, ask)
        readings += votes_read
        usage += total_usage(texts) + read_usage
    try:
        return replace(combine_votes(readings, ask.votes), usage=usage)
    except InvalidVerdict as error:
        shown = mirror_rationales(error.rationales) if prepared.swapped else error.rationales
        raise InvalidVerdict(error.message, shown) from None


def read_votes(
    judge: Judge,
    prepared: Prepared,
    slots: Sequence[Slot],
    texts: Sequence[Completion],
    ask: Ask,
) -> Generator[Asks, Sequence[Completion], tuple[list[VoteReading], Usage]]:
    """Read each written vote twice: its text, and the letter's probability where the text put it (a cached prefix), or
    where the judge is made to put it at the end of its budget."""
    written = [_parse(judge, completion, ask) for completion in texts]
    wanted = [i for i, vote in enumerate(written) if vote.ask_at is not None]
    prompts = [_up_to_letter(judge, prompt_of(prepared, slots[i][0]), texts[i], written[i]) for i in wanted]
    requests = [label_request(judge, ids, ask.salt, prepared.affinity) for ids in prompts]
    completions = (yield requests) if requests else []
    reads = dict(zip(wanted, (read_labels(c.label_logprobs) for c in completions), strict=True))
    votes = [
        _vote(judge, slot, text, vote, reads.get(i))
        for i, (slot, text, vote) in enumerate(zip(slots, texts, written, strict=True))
    ]
    return votes, total_usage(completions)


@dataclass(frozen=True, slots=True)
class _Written:
    """``ask_at``: how many characters of the text precede the letter, None without one; ``ending``: what is put between
    them when the judge did not come so far."""

    text: str
    letter: Letter
    ask_at: int | None
    conflicting: int
    sections: dict[str, str]
    ending: str = ""


def _parse(judge: Judge, completion: Completion, ask: Ask) -> _Written:
    """Text of the generated tokens and its verdict; a judgment that was cut off has none, whatever it says."""
    text = judge.tokenizer.decode(completion.token_ids)
    parsed = pairwise(judge).parse(text)
    sections = dict(parsed.sections)
    if completion.finish_reason == "stop":
        return _Written(text, parsed.verdict, parsed.label_at, parsed.conflicting, sections)
    if completion.finish_reason == "length" and (ask.on_budget or judge.on_budget) == "answer":
        kept, ending = pairwise(judge).ending(text)
        return _Written(text, "invalid", kept, parsed.conflicting, sections, ending)
    return _Written(text, "invalid", None, parsed.conflicting, sections)


def _up_to_letter(judge: Judge, prompt_ids: tuple[int, ...], completion: Completion, vote: _Written) -> tuple[int, ...]:
    """The prompt and the generated tokens before the verdict letter; re-encoded if the cut falls inside a token.

    An ending must fit into the context: at the very limit the last tokens of the thought give way to it.
    """
    at = vote.ask_at or 0
    prefix = judge.tokenizer.prefix_to(completion.token_ids, at)
    written = prefix if prefix is not None else judge.tokenizer.encode_text(vote.text[:at])
    if not vote.ending:
        return prompt_ids + written
    ending = judge.tokenizer.encode_own(vote.ending)
    room = prompt_limit("label", judge.engine.info.max_model_len) - len(prompt_ids) - len(ending)
    return prompt_ids + written[: max(room, 0)] + ending


def _vote(judge: Judge, slot: Slot, completion: Completion, vote: _Written, read: OrderReading | None) -> VoteReading:
    order, number = slot
    letter = vote.letter
    if vote.ending and read is not None:
        letter = _forced_letter(judge, read)
        read = None if letter == "invalid" else read
    first, second = ("a", "b") if order == "ab" else ("b", "a")
    rationale = Rationale(
        order,
        number,
        vote.text,
        vote.sections,
        verdict="invalid" if letter == "invalid" else (first if letter == "A" else second),  # type: ignore[arg-type]
        probability=None,  # `combine_votes` puts it in
        finish_reason=completion.finish_reason,
        tokens=len(completion.token_ids),
        forced=bool(vote.ending),
    )
    return VoteReading(rationale, read, vote.conflicting)


def _forced_letter(judge: Judge, read: OrderReading) -> Letter:
    """The likelier one; invalid when the model wants to write something else, or leans to neither side."""
    mass = 1.0 if read.label_mass is None else read.label_mass
    if mass < judge.min_label_mass or read.p_shown_first == 0.5:
        return "invalid"
    return "A" if read.p_shown_first > 0.5 else "B"


def prompt_of(prepared: Prepared, order: Order) -> tuple[int, ...]:
    return prepared.prompts[0 if order == "ab" else 1]


def total_usage(completions: Sequence[Completion]) -> Usage:
    return Usage.total(completion.usage for completion in completions)


def comparison_flags(judge: Judge, comparison: Comparison, memo: TextMemo) -> tuple[Flag, ...]:
    """Deterministic findings on the three untrusted texts, in the caller's order."""
    texts: list[tuple[str, Where]] = [(m.content, "prompt") for m in comparison.prompt.messages]
    texts += [(comparison.first.text, "a"), (comparison.second.text, "b")]
    for text, where in texts:
        if (text, where) not in memo.flags:
            memo.flags[text, where] = response_flags(judge, text, where)
    found = [flag for key in texts for flag in memo.flags[key]]
    return (*found, *pair_flags(comparison.first.text, comparison.second.text))


def flags_of(judge: Judge, prompt: Prompt, responses: Sequence[Response]) -> list[tuple[Flag, ...]]:
    """Findings on each of a group's responses, each with those on the prompt, as a reply's rows have them."""
    shared = tuple(flag for m in prompt.messages for flag in response_flags(judge, m.content, "prompt"))
    return [shared + response_flags(judge, response.text, "response") for response in responses]


def _doubts(verdict: Verdict) -> tuple[Flag, ...]:
    unsure = verdict.label_mass is not None and verdict.label_mass < UNSURE_MASS
    return (Flag("low_label_mass", 1, "verdict"),) if unsure else ()


def response_flags(judge: Judge, text: str, where: Where) -> tuple[Flag, ...]:
    return text_flags(text, where, judge.family.delimiters, judge.tokenizer.control_text_count(text))


def _check_length(judge: Judge, comparison: Comparison, tokens: int) -> None:
    if tokens <= judge.max_prompt_tokens:
        return
    chars = {
        "prompt": sum(len(m.content) for m in comparison.prompt.messages),
        "response_a": len(comparison.first.text),
        "response_b": len(comparison.second.text),
    }
    raise TokenLimitExceeded(
        f"The judge's prompt has {tokens} tokens and judge {judge.name} takes {judge.max_prompt_tokens}; "
        "shorten the longest field (nothing is truncated).",
        tokens=tokens,
        limit=judge.max_prompt_tokens,
        field=max(chars, key=lambda name: chars[name]),
    )
