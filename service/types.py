"""The nouns of the service: frozen values, standard library only.

Probabilities are in [0, 1]; margins are log-odds in nats; lengths are tokens unless a name says ``_chars``.
A *comparison* is one question with two responses in a display order; a *verdict* is what both its orders say together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Label = Literal["a", "b", "invalid"]
Order = Literal["ab", "ba"]
Preferred = Literal["a", "b", "tie"]
Where = Literal["prompt", "a", "b", "response", "rationale", "verdict"]
"""Where a flag was found: in the caller's texts, in what the judge wrote, or in how sure it was of its letters."""
TextFlag = Literal[
    "bidi",
    "combining_marks",
    "control_chars",
    "control_token_text",
    "degenerate_response",
    "delimiter_spoof",
    "invisible_chars",
    "near_identical",
    "repeated_text",
    "tag_chars",
    "verdict_injection",
]
"""What `service.judging.flags` finds in the caller's texts."""
FinishReason = Literal["stop", "length", "repetition"]
"""Why a text ended: by itself, at its token limit, or because it went round in circles."""
OnBudget = Literal["invalid", "answer"]
"""What becomes of a judgment at its token limit: no verdict, or the letter that the judge would write now."""
Scope = Literal["score", "queue", "admin", "metrics"]
"""What a key may be used for."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn. ``role`` is the trainer's word (system, user, assistant, tool), never trusted as template text.

    ``parts``, where a judge's prompt file was filled in: the file's words and the texts put between them, alternating,
    the file's first and last. Joined they are ``content``.
    """

    role: str
    content: str
    parts: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of_parts(cls, role: str, parts: tuple[str, ...]) -> Message:
        """A turn that was filled in."""
        return cls(role, "".join(parts), parts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the responses answer: one user question, or a conversation that ends with the turn to be answered."""

    messages: tuple[Message, ...]

    @classmethod
    def from_text(cls, text: str) -> Prompt:
        """A single user turn."""
        return cls((Message("user", text),))

    @property
    def is_single_turn(self) -> bool:
        return len(self.messages) == 1 and self.messages[0].role == "user"


@dataclass(frozen=True, slots=True)
class Response:
    """One candidate answer, exactly as the policy wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question and two responses in the order they are shown to the judge."""

    prompt: Prompt
    first: Response
    second: Response

    def swap(self) -> Comparison:
        """The same comparison with the responses shown the other way round."""
        return Comparison(self.prompt, self.second, self.first)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat ready for tokenization. ``enable_thinking`` goes to the chat template only when it is not None (Qwen3)."""

    messages: tuple[Message, ...]
    generation_prompt: bool = True
    enable_thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class OrderReading:
    """One display order, read. Log-odds are in nats and, like the probability, of the response shown first."""

    p_shown_first: float
    log_odds: float
    label_mass: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the engine saw. ``cached_tokens`` is the part of ``prompt_tokens`` read from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    comparisons: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage.total((self, other))

    @classmethod
    def total(cls, parts: Iterable[Usage]) -> Usage:
        """Of all of them together."""
        prompt = cached = completion = comparisons = 0
        for part in parts:
            prompt += part.prompt_tokens
            cached += part.cached_tokens
            completion += part.completion_tokens
            comparisons += part.comparisons
        return cls(prompt, cached, completion, comparisons)


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for one prompt.

    ``label_logprobs`` are natural-log probabilities over the whole vocabulary at the first generated position, one for
    each requested label id, in request order (label reads only). ``score`` is a scalar head's raw output (scalar reads
    only). ``log_likelihood`` is the natural log of the probability of the prompt's ``scored_tokens`` last tokens, given
    those before (likelihoods only). ``text`` and ``token_ids`` hold generated tokens only, never the prompt.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    text: str = ""
    label_logprobs: tuple[float, ...] = ()
    score: float | None = None
    log_likelihood: float | None = None
    scored_tokens: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.cached_tokens, len(self.token_ids))


@dataclass(frozen=True, slots=True)
class Flag:
    """Something a reader should know about a text, found deterministically: what, how often, where."""

    code: str
    count: int
    where: Where


@dataclass(frozen=True, slots=True)
class Votes:
    """How the sampled judgments of both orders fell. The four counts sum to 2k."""

    a: int = 0
    b: int = 0
    invalid: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Rationale:
    """One written judgment, of ``tokens`` generated tokens.

    ``probability`` is P(the pair's response a better), read at the verdict; None if unread. ``forced``: the text was
    cut at its token limit, and the judge was asked for its letter behind an ending that is not its own.
    """

    order: Order
    vote: int
    text: str
    sections: dict[str, str]
    verdict: Label
    probability: float | None
    finish_reason: FinishReason
    tokens: int = 0
    forced: bool = False

    @property
    def outcome(self) -> Literal["verdict", "forced", "no_verdict", "length", "repetition"]:
        """How it ended, for who counts: with a verdict of its own, with a forced one, or without and why."""
        if self.verdict != "invalid":
            return "forced" if self.forced else "verdict"
        return "no_verdict" if self.finish_reason == "stop" else self.finish_reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a pair after both orders (a is the caller's first response).

    ``p_ab`` is P(a better) with a shown first, ``p_ba`` is P(b better) with b shown first, ``p_first`` is P(a better)
    over both orders and ``margin`` the mean log-odds of a. ``label_mass`` is p(A) + p(B) over the whole vocabulary, the
    smaller of the orders; None where no label was read (scalar judges, identical responses).
    """

    p_first: float
    margin: float
    p_ab: float
    p_ba: float
    consistent: bool
    label_mass: float | None
    votes: Votes | None = None
    flags: tuple[Flag, ...] = ()
    usage: Usage = field(default_factory=Usage)
    rationales: tuple[Rationale, ...] = ()

    @property
    def preferred(self) -> Preferred:
        if self.p_first == 0.5:
            return "tie"
        return "a" if self.p_first > 0.5 else "b"


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """One response's place: ``rank`` 0 is best; ``strength`` is a Bradley-Terry log-strength with its ``stderr``."""

    index: int
    rank: int
    score: float
    strength: float | None = None
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The outcome of a ranking plan. ``results`` are in input order; ``win_matrix[i][j]`` is P(i better than j)."""

    results: tuple[RankedResponse, ...]
    comparisons: int
    stopped: Literal["decided", "budget", "complete"]
    consistency: float | None
    win_matrix: tuple[tuple[float | None, ...], ...] | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Response indices, best first."""
        return tuple(r.index for r in sorted(self.results, key=lambda r: r.rank))


@dataclass(frozen=True, slots=True)
class JudgeVersion:
    """What exactly judged: any change of these makes scores incomparable (and starts a new reward window)."""

    judge: str
    weight_version: str
    template_hash: str
