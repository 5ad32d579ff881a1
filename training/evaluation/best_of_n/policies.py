"""Where the samples come from: a checkpoint in this process, or any server with OpenAI's chat endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from service.types import Prompt
from training.evaluation.judges.base import EvaluationError

ATTEMPTS = 5
ROWS = 64
"""Sequences generated at a time in this process."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn. GRAM's best-of-n uses top-p 0.95 at temperature 0.75 (arXiv 2506.14175)."""

    n: int = 64
    top_p: float = 0.95
    temperature: float = 0.75
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Drawn:
    """``reference`` is the greedy response, which scores are measured against; ``responses`` are the n samples."""

    reference: str
    responses: tuple[str, ...]


class Policy(Protocol):
    """Answers prompts. ``name`` says which model, for the report."""

    @property
    def name(self) -> str: ...

    async def draw(self, prompt: Prompt, sampling: Sampling, seed: int) -> Drawn:
        """Samples of one prompt. Raises `EvaluationError` where no more can be had."""
        ...


class CheckpointPolicy:
    """Any causal language model that transformers loads, with its own chat template."""

    def __init__(self, path: str, threads: int | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if threads:
            torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path)
            dtype = "auto" if device == "cuda" else torch.float32
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"The policy {path} cannot be loaded: {error}") from error
        self._model = model.to(device).eval()
        self.name = path

    async def draw(self, prompt: Prompt, sampling: Sampling, seed: int) -> Drawn:
        return await asyncio.to_thread(self._draw, prompt, sampling, seed)

    def _draw(self, prompt: Prompt, sampling: Sampling, seed: int) -> Drawn:
        import torch

        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        reference = self._generate(ids, 1, sampling, do_sample=False)
        torch.manual_seed(seed)
        texts: list[str] = []
        while len(texts) < sampling.n:
            rows = min(ROWS, sampling.n - len(texts))
            texts += self._generate(
                ids, rows, sampling, do_sample=True, top_p=sampling.top_p, temperature=sampling.temperature, top_k=0
            )
        return Drawn(reference[0], tuple(texts))

    def _generate(self, ids: Any, rows: int, sampling: Sampling, **how: Any) -> list[str]:
        import torch

        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        with torch.inference_mode():
            out = self._model.generate(
                **ids, num_return_sequences=rows, max_new_tokens=sampling.max_tokens, pad_token_id=pad, **how
            )
        texts: list[str] = self._tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts


class EndpointPolicy:
    """A server with ``/v1/chat/completions`` that takes ``n``, such as vLLM's. Made by `connect`."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self._client = client
        self.name = model

    @classmethod
    async def connect(cls, client: httpx.AsyncClient, model: str | None = None) -> EndpointPolicy:
        """The server's model of that name, or its only one. Raises `EvaluationError`."""
        try:
            reply = await client.get("/v1/models")
            reply.raise_for_status()
            served = [str(one["id"]) for one in reply.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"No model answers at {client.base_url}v1/models ({error}); correct the URL."
            ) from error
        if model is None and len(served) != 1:
            raise EvaluationError(f"The server offers {', '.join(served) or 'no model'}; choose with --policy-model.")
        if model is not None and model not in served:
            raise EvaluationError(f"The server has no model {model}; it has {', '.join(served)}.")
        return cls(client, model or served[0])

    async def draw(self, prompt: Prompt, sampling: Sampling, seed: int) -> Drawn:
        (reference,) = await self._ask(prompt, sampling, {"temperature": 0.0})
        how = {"n": sampling.n, "top_p": sampling.top_p, "temperature": sampling.temperature, "seed": seed}
        texts = await self._ask(prompt, sampling, how)
        if len(texts) != sampling.n:
            raise EvaluationError(f"The server sent {len(texts)} of {sampling.n} samples; it must understand n.")
        return Drawn(reference, tuple(texts))

    async def _ask(self, prompt: Prompt, sampling: Sampling, how: dict[str, Any]) -> list[str]:
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        body = {"model": self.name, "messages": messages, "max_tokens": sampling.max_tokens, **how}
        said = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.5 * 2**attempt)
            try:
                reply = await self._client.post("/v1/chat/completions", json=body)
            except httpx.TransportError as error:
                said = f"{type(error).__name__} {error}".strip()
                continue
            if reply.status_code == 200:
                return _texts(reply)
            said = f"{reply.status_code} {reply.text[:200]}"
            if reply.status_code < 500 and reply.status_code != 429:
                break
        raise EvaluationError(f"The policy at {self._client.base_url} gave no samples ({said}); start again to go on.")


def _texts(reply: httpx.Response) -> list[str]:
    try:
        choices: Sequence[dict[str, Any]] = reply.json()["choices"]
        return [str(choice["message"]["content"]) for choice in choices]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError("The policy's reply is not a chat completion; correct the URL.") from error
