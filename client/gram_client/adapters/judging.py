"""How an adapter asks: where the service is, by what a response is measured, and what a failure is for that trainer."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from gram_client.async_client import AsyncClient
from gram_client.client import Client
from gram_client.items import GroupMethod, Normalize
from gram_client.transport import DEFAULT_URL, KEY_VARIABLE

Mode = Literal["groups", "references", "singles"]
URL_VARIABLE = "GRAM_CLIENT_URL"
JUDGE_VARIABLE = "GRAM_CLIENT_JUDGE"


@dataclass(frozen=True)
class Judging:
    """Frozen, hashable and picklable, so that it reaches worker processes.

    ``base_url``, ``api_key`` and ``judge`` default to the environment variables above. ``timeout_s`` bounds a whole
    call with all its retries. ``mode``: responses to one prompt against each other (groups), each against a reference,
    or each by itself (scalar judges, stored references).
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    judge: str | None = None
    timeout_s: float = 300.0
    mode: Mode = "groups"
    method: GroupMethod | None = None
    normalize: Normalize | None = None

    @property
    def neutral(self) -> float:
        """For trainers that need a number: the reward of a response that is as good as what it is compared with."""
        return 0.5 if self.normalize is None else 0.0

    def client(self) -> Client:
        """The same one for the same address in this process, so that connections are used again."""
        return _client(*self.address(), self.timeout_s)

    def async_client(self) -> AsyncClient:
        return _async_client(*self.address(), self.timeout_s)

    def address(self) -> tuple[str, str | None, str | None]:
        """URL, key and judge, from the environment where they are not given."""
        found = os.environ.get
        return (
            self.base_url or found(URL_VARIABLE) or DEFAULT_URL,
            self.api_key or found(KEY_VARIABLE),
            self.judge or found(JUDGE_VARIABLE),
        )


@cache
def _client(url: str, key: str | None, judge: str | None, timeout_s: float) -> Client:
    client = Client(url, api_key=key, judge=judge, timeout_s=timeout_s)
    atexit.register(client.close)
    return client


@cache
def _async_client(url: str, key: str | None, judge: str | None, timeout_s: float) -> AsyncClient:
    return AsyncClient(url, api_key=key, judge=judge, timeout_s=timeout_s)
