"""What comes in. Requests are strict (a number is never read from a string), closed (an unknown field is an error) and
finite. Text may hold any valid Unicode, NUL included; nothing is trimmed or normalised.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from service.types import Comparison, Message, OnBudget, Prompt, Response

MAX_TEXT_CHARS = 256 * 1024
MAX_ITEMS = 4096
MAX_GROUPS = 1024
MAX_GROUP = 64
MAX_VOTES = 64
MAX_MESSAGES = 512
MAX_RATIONALE_TOKENS = 1_000_000


def _valid_unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("the text holds a lone surrogate; send valid Unicode") from None
    return text


def _visible(text: str) -> str:
    """Valid Unicode, of which zero-width and other format characters alone are as empty as spaces."""
    if text.isascii():
        is_visible = not text.isspace()
    else:
        is_visible = any(not char.isspace() and unicodedata.category(char) != "Cf" for char in _valid_unicode(text))
    if not is_visible:
        raise ValueError("the text is empty or white space only")
    return text


AnyText = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_valid_unicode)]
Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT_CHARS, json_schema_extra={"pattern": r"\S"}),
    AfterValidator(_visible),
]
ItemId = Annotated[str, Field(max_length=256), AfterValidator(_valid_unicode)]
JudgeName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_valid_unicode)]
QUEUE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"
QueueName = Annotated[str, Field(pattern=QUEUE_NAME)]
VoteCount = Annotated[int, Field(ge=1, le=MAX_VOTES)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class MessageIn(_Request):
    role: Literal["system", "user", "assistant", "tool"]
    content: AnyText


def _prompt_shape(value: Any) -> str:
    return "a chat" if isinstance(value, list) else "a text"


PromptIn = Annotated[
    Annotated[Text, Tag("a text")]
    | Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES), Tag("a chat")],
    Discriminator(_prompt_shape),
]


def to_prompt(prompt: str | Sequence[MessageIn]) -> Prompt:
    if isinstance(prompt, str):
        return Prompt.from_text(prompt)
    return Prompt(tuple(Message(message.role, message.content) for message in prompt))


class _Pair(_Request):
    prompt: PromptIn
    response_a: Text
    response_b: Text

    def comparison(self) -> Comparison:
        return Comparison(to_prompt(self.prompt), Response(self.response_a), Response(self.response_b))


class PairItem(_Pair):
    id: ItemId | None = None


class CompareOne(_Pair):
    """One pair."""

    judge: JudgeName | None = None
    votes: VoteCount = 1


class CompareBatch(_Request):
    """Many pairs, answered in order; a pair that fails is marked and spoils no other."""

    judge: JudgeName | None = None
    votes: VoteCount = 1
    items: list[PairItem] = Field(min_length=1, max_length=MAX_ITEMS)


def _compare_shape(value: Any) -> str:
    return "a batch" if isinstance(value, dict) and "items" in value else "one pair"


CompareRequest = Annotated[
    Annotated[CompareOne, Tag("one pair")] | Annotated[CompareBatch, Tag("a batch")], Discriminator(_compare_shape)
]


class RankRequest(_Request):
    """``max_comparisons`` counts unordered pairs; each is two engine prompts. ``confidence`` is for ``adaptive``."""

    judge: JudgeName | None = None
    prompt: PromptIn
    responses: list[Text] = Field(min_length=1, max_length=MAX_GROUP)
    method: Literal["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"] = "auto"
    goal: Literal["order", "best", "top_k"] = "order"
    top_k: int | None = Field(None, ge=1, le=MAX_GROUP)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    max_comparisons: int | None = Field(None, ge=1)


class RationaleRequest(_Pair):
    """``stop_when_decided`` leaves out votes that cannot change the preferred response any more.

    ``max_rationale_tokens`` is the budget of each rationale, at most the judge's own. One that reaches it has no
    verdict (``on_budget: "invalid"``), or is ended for the judge, who then names its letter (``"answer"``); absent: as
    the judge is configured.
    """

    judge: JudgeName | None = None
    votes: VoteCount = 1
    stop_when_decided: bool = False
    max_rationale_tokens: int | None = Field(None, ge=1, le=MAX_RATIONALE_TOKENS)
    on_budget: OnBudget | None = None
    stream: bool = False


class CohortIn(_Request):
    """The group that a rollout belongs to, when each is posted by itself. The group waits for its members until the
    earliest of their deadlines; a new ``attempt`` begins anew under the same id."""

    group_id: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_valid_unicode)]
    size: int = Field(ge=2, le=MAX_GROUP)
    index: int = Field(ge=0, lt=MAX_GROUP)
    attempt: int = Field(0, ge=0, lt=2**31)
    deadline_ms: int | None = Field(None, ge=1, le=600_000)

    @model_validator(mode="after")
    def _inside(self) -> CohortIn:
        if self.index >= self.size:
            raise ValueError("the index lies outside the group; count its members from 0")
        return self


class ScoreItem(_Request):
    """With ``reference``: P(response better than reference). With ``cohort``: the mean win probability over the others
    of its group. With neither: a scalar judge's score, or against the reference that is stored for the prompt."""

    id: ItemId | None = None
    prompt: PromptIn
    response: Text
    reference: Text | None = None
    cohort: CohortIn | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> ScoreItem:
        if self.reference is not None and self.cohort is not None:
            raise ValueError("an item has a reference or a cohort, not both")
        return self


class ScoreGroup(_Request):
    """Responses to one prompt, each scored by its mean win probability over the others."""

    id: ItemId | None = None
    prompt: PromptIn
    responses: list[Text] = Field(min_length=2, max_length=MAX_GROUP)


class Normalize(_Request):
    """``reward = scale * clip((score - mean) / std, +-clip)`` with the statistics of the queue's window."""

    queue: QueueName
    window: int = Field(1000, ge=1, le=100_000)
    scale: float = Field(1.0, gt=0, le=1e6)
    update: bool = True
    min_count: int = Field(16, ge=1, le=100_000)
    clip: float = Field(10.0, gt=0, le=1e6)


class ScoreItems(_Request):
    """Reference mode (every item has a reference), cohort mode (every item has a cohort) or single mode (neither)."""

    judge: JudgeName | None = None
    items: list[ScoreItem] = Field(min_length=1, max_length=MAX_ITEMS)
    normalize: Normalize | None = None

    @model_validator(mode="after")
    def _one_mode(self) -> ScoreItems:
        if 0 < sum(item.reference is None for item in self.items) < len(self.items):
            raise ValueError("either every item has a reference or none has one")
        if 0 < sum(item.cohort is None for item in self.items) < len(self.items):
            raise ValueError("either every item has a cohort or none has one")
        return self


class ScoreGroups(_Request):
    """Group mode. ``method`` pivot compares every response with the group's first one only: n - 1 pairs, not all;
    swiss pairs responses of equal standing in about log2(n) + 1 rounds."""

    judge: JudgeName | None = None
    groups: list[ScoreGroup] = Field(min_length=1, max_length=MAX_GROUPS)
    method: Literal["all_pairs", "pivot", "swiss"] = "all_pairs"
    normalize: Normalize | None = None


class ReferenceItem(_Request):
    """The response that others to this prompt are compared with."""

    prompt: PromptIn
    reference: Text


class ReferencesRequest(_Request):
    """All are stored or none; of two for one prompt the last one stays."""

    items: list[ReferenceItem] = Field(min_length=1, max_length=MAX_ITEMS)


def _score_shape(value: Any) -> str:
    return "scored groups" if isinstance(value, dict) and "groups" in value else "scored items"


ScoreRequest = Annotated[
    Annotated[ScoreItems, Tag("scored items")] | Annotated[ScoreGroups, Tag("scored groups")],
    Discriminator(_score_shape),
]

SHAPE_TAGS = frozenset({"a text", "a chat", "one pair", "a batch", "scored items", "scored groups"})
"""Steps of a validation error's location that are no field names."""
