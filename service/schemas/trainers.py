"""Requests and replies in the wire formats of trainers and of reranking clients, which are not ours to change.

What they send beside is ignored, and text is mended rather than refused: most of these callers end a training run at
the first 4xx. Replies hold finite numbers only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from service.errors import InvalidInput
from service.schemas.requests import MAX_GROUP, MAX_MESSAGES, Text
from service.types import Message, Prompt

MAX_ROLLOUTS = 65_536
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


def _mended(value: Any) -> Any:
    """Half characters become U+FFFD, as tokenizers write them."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


LooseText = Annotated[str, BeforeValidator(_mended)]
Label = Annotated[Any, BeforeValidator(_mended)]
"""Whatever the data set has."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def checked_text(text: str, what: str) -> str:
    """The text, if a judge can be asked about it. Raises `InvalidInput`."""
    try:
        return _TEXT.validate_python(text)
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"The {what} cannot be judged: {reason}.", field=what) from None


class PartIn(_Request):
    """A piece of a message's content; only text can be judged."""

    type: str = "text"
    text: LooseText | None = None


class TurnIn(_Request):
    """A chat message as trainers have them: content may be missing, or come in pieces."""

    role: str
    content: LooseText | list[PartIn] | None = None

    @property
    def words(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


Turns = Annotated[list[TurnIn], Field(min_length=1, max_length=MAX_MESSAGES)]


class RewardRequest(_Request):
    """OpenRLHF: ``query`` is prompt and response as one text, decoded with the special tokens.

    ``prompts`` (since 0.5.8) has the prompts alone, ``labels`` any value of the data set; each is as long as ``query``
    or empty. All may be empty.
    """

    query: list[LooseText] = Field(max_length=MAX_ROLLOUTS)
    prompts: list[LooseText] = Field([], max_length=MAX_ROLLOUTS)
    labels: list[Label] = Field([], max_length=MAX_ROLLOUTS)

    @model_validator(mode="after")
    def _aligned(self) -> RewardRequest:
        if any(len(other) not in (0, len(self.query)) for other in (self.prompts, self.labels)):
            raise ValueError("prompts and labels have one entry for each query, or none at all")
        return self


class ExtraLogs(_Reply):
    """Numbers for the trainer's log, the same keys always. ``ok``: 1.0 for a judgment, 0.0 where it failed and all else
    of the row is neutral; ``consistent``: both display orders agree; ``flagged``: the response has a flag;
    ``normalized``: rewards are those of a full enough queue; ``margin`` in nats."""

    ok: list[float]
    consistent: list[float]
    flagged: list[float]
    normalized: list[float]
    margin: list[float]


class RewardReply(_Reply):
    """OpenRLHF: ``scores`` lie in [0, 1]; ``rewards`` are the scores, or normalized by ``compat.queue``."""

    rewards: list[float]
    scores: list[float]
    extra_logs: ExtraLogs


class RemoteRequest(_Request):
    """slime: one rollout. ``prompt`` is a templated text or a chat."""

    prompt: LooseText | Turns
    response: LooseText
    label: Label = None


class RemoteReply(_Reply):
    """With ``reply=object``: the reward by name, for ``--reward-key reward``, with what is known of it."""

    reward: float
    score: float
    ok: float
    consistent: float
    flagged: float
    normalized: float
    margin: float


class ClassifyRequest(_Request):
    """vLLM's /classify as verl calls it: whole conversations that end with the response, templated.

    ``use_activation`` (once ``activation``) false asks for the reward, else for the score in [0, 1].
    """

    model: str = ""
    input: LooseText | Annotated[list[LooseText], Field(max_length=MAX_ROLLOUTS)] | None = None
    messages: Turns | None = None
    use_activation: bool | None = Field(None, validation_alias=AliasChoices("use_activation", "activation"))

    @model_validator(mode="after")
    def _one_of_both(self) -> ClassifyRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("send either input or messages")
        return self


class ClassOut(_Reply):
    """``label``: "ok", or "failed" where the number is a neutral one."""

    index: int
    label: Literal["ok", "failed"]
    probs: list[float]
    num_classes: int = 1


class TokensOut(_Reply):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = 0
    prompt_tokens_details: None = None


class ClassifyReply(_Reply):
    """``model`` is the judge that answered."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ClassOut]
    usage: TokensOut


class DocumentIn(_Request):
    text: LooseText


class RerankRequest(_Request):
    """Jina and Cohere: ``query`` is the prompt, ``documents`` the responses to it."""

    model: str = ""
    query: LooseText
    documents: list[LooseText | DocumentIn] = Field(min_length=1, max_length=MAX_GROUP)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = True


class DocumentOut(_Reply):
    text: str


class RankedDocument(_Reply):
    """``relevance_score``: the mean probability of being better than the others, in [0, 1]."""

    index: int
    relevance_score: float
    document: DocumentOut | None = None


class RerankReply(_Reply):
    """Best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: TokensOut


def chat(turns: list[TurnIn], roles: dict[str, str]) -> Prompt:
    """Messages as a prompt; ``roles`` maps their words to ours. Raises `InvalidInput` for a role nobody knows."""
    unknown = [turn for turn in turns if turn.role.lower() not in roles]
    if unknown:
        raise InvalidInput("The chat has a role that is not known; send system, user, assistant or tool.", field="role")
    return Prompt(tuple(Message(roles[turn.role.lower()], turn.words) for turn in turns))
