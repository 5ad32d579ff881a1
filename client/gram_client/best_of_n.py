"""Best of n: sample a policy, rank the samples through the service, keep the best and a preference pair.

A policy is any endpoint that speaks OpenAI's chat completions, or any function that returns texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_client import calls
from gram_client.adapters.texts import is_visible
from gram_client.async_client import AsyncClient
from gram_client.async_link import AsyncLink
from gram_client.client import Client
from gram_client.errors import InvalidRequest, MalformedReply
from gram_client.exchange import Reply
from gram_client.items import Method, Prompt, wire_prompt
from gram_client.request import Request
from gram_client.results import Ranking
from gram_client.retries import Retries
from gram_client.transport import Settings

MAX_RESPONSES = 64


@dataclass(frozen=True)
class Choice:
    """``responses`` as they were judged, ``scores`` in their order, ``order`` their indices, best first.

    Responses without any text are not among them, and equal ones are one.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    order: tuple[int, ...]

    @property
    def best(self) -> str:
        return self.responses[self.order[0]]

    @property
    def worst(self) -> str:
        return self.responses[self.order[-1]]

    def preference(self) -> dict[str, Any] | None:
        """Best and worst as a row for preference training (columns of TRL's reward and DPO trainers); None where the
        judge saw no difference."""
        high, low = self.scores[self.order[0]], self.scores[self.order[-1]]
        if not high > low:
            return None
        chosen, rejected = _answer(self.prompt, self.best), _answer(self.prompt, self.worst)
        scores = {"score_chosen": high, "score_rejected": low}
        return {"prompt": wire_prompt(self.prompt), "chosen": chosen, "rejected": rejected, **scores}


def _answer(prompt: Prompt, response: str) -> str | list[dict[str, str]]:
    """Rows are texts or chats as a whole: an answer to a chat is a message."""
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]


@dataclass(frozen=True)
class Sampling:
    """How a policy is asked. None leaves the choice to its server."""

    n: int = 8
    temperature: float = 1.0
    top_p: float | None = None
    max_tokens: int | None = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_RESPONSES:
            raise ValueError(f"n lies between 1 and {MAX_RESPONSES}.")


class Policy:
    """A model behind OpenAI's chat completions. `base_url` ends with the version, as in ``http://127.0.0.1:8001/v1``.

    Requests are tried again as those of `AsyncClient` are.
    """

    def __init__(self, base_url: str, model: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        self.model = model
        settings = Settings(base_url, api_key, None, timeout_s, Retries(), max_chunk=1, concurrency=1)
        self._link = AsyncLink(settings)

    async def close(self) -> None:
        await self._link.close()

    async def sample(self, prompt: Prompt, sampling: Sampling) -> list[str]:
        """n responses; a server that writes fewer at once is asked again. Raises `ScoringError`."""
        found: list[str] = []
        while len(found) < sampling.n:
            request = self._request(prompt, sampling, sampling.n - len(found))
            found += await self._link.run(calls.one(request, _texts), None)
        return found[: sampling.n]

    def _request(self, prompt: Prompt, sampling: Sampling, n: int) -> Request:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else wire_prompt(prompt)
        asked: dict[str, Any] = {"model": self.model, "messages": messages, "n": n}
        asked["temperature"] = sampling.temperature
        asked |= {k: v for k, v in (("top_p", sampling.top_p), ("max_tokens", sampling.max_tokens)) if v is not None}
        return Request("POST", "/chat/completions", asked, timed=False)


def _texts(reply: Reply) -> list[str]:
    """Raises `MalformedReply`."""
    try:
        texts = [choice["message"]["content"] or "" for choice in reply.json()["choices"]]
    except (KeyError, TypeError, IndexError) as error:
        raise MalformedReply("The policy's answer is not that of chat completions.") from error
    if not texts:
        raise MalformedReply("The policy wrote nothing at all.")
    return texts


def worth_judging(responses: Sequence[str]) -> tuple[str, ...]:
    """Each text once, without the empty ones. Raises `InvalidRequest` where none is left."""
    found = tuple(dict.fromkeys(text for text in responses if is_visible(text)))
    if not found:
        raise InvalidRequest("None of the responses holds any text.")
    return found


def _choice(prompt: Prompt, responses: tuple[str, ...], ranking: Ranking) -> Choice:
    return Choice(prompt, responses, tuple(ranking.scores), ranking.order)


def best_of(client: Client, prompt: Prompt, responses: Sequence[str], *, method: Method = "auto") -> Choice:
    """Rank what some sampler wrote. Raises `ScoringError`."""
    texts = worth_judging(responses)
    return _choice(prompt, texts, client.rank(prompt, texts, method=method))


async def best_of_async(
    client: AsyncClient, prompt: Prompt, responses: Sequence[str], *, method: Method = "auto"
) -> Choice:
    texts = worth_judging(responses)
    return _choice(prompt, texts, await client.rank(prompt, texts, method=method))


class BestOfNSampler:
    """Draw n, keep the best: `sample` is anything that writes `n` responses to a prompt::

    sampler = BestOfNSampler(Client(url), lambda prompt, n: my_model.generate(prompt, n), n=16)
    print(sampler("Name a prime above 100.").best)
    """

    def __init__(
        self, client: Client, sample: Callable[[Prompt, int], Sequence[str]], n: int = 8, method: Method = "auto"
    ) -> None:
        self.client, self.sample, self.n, self.method = client, sample, n, method

    def __call__(self, prompt: str | Sequence[Mapping[str, Any]]) -> Choice:
        """Raises `ScoringError`, and what `sample` raises."""
        return best_of(self.client, prompt, self.sample(prompt, self.n), method=self.method)
