"""Who calls, and what they may do: keys that are stored as hashes, each with scopes.

A key comes as a bearer token or, from trainers that can set a URL and no header (``http://:KEY@host/path``), as the
password of HTTP Basic. One that has expired is as unknown as one that never was.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from service.errors import Forbidden, Unauthenticated
from service.types import Scope

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as we know it: its name, the SHA-256 of its secret in hex, what it opens, and until when (None: always)."""

    id: str
    sha256: str
    scopes: Collection[Scope]
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request. ``cache_salt`` separates callers' prefix caches, whose timing would tell one caller
    what another one asked; None where everybody is the same caller."""

    key_id: str
    scopes: Collection[Scope]
    cache_salt: str | None

    def require(self, scope: Scope | None) -> None:
        """Raises `Forbidden` without the scope. None: any known caller will do."""
        if scope is not None and scope not in self.scopes:
            raise Forbidden(f"This key lacks the scope {scope!r}; use a key that has it.")


ANYBODY = Principal("-", ALL_SCOPES, None)
"""The caller where no keys are configured."""


class Authenticator:
    """Checks the Authorization header. `secret` makes the cache salts unguessable; absent, one is drawn per process."""

    def __init__(
        self, keys: Sequence[ApiKey], secret: str | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        salt_key = (secret or secrets.token_hex(32)).encode()
        self._now = now
        self._keys = [
            (key, key.sha256.encode(), Principal(key.id, frozenset(key.scopes), _salt(salt_key, key.id)))
            for key in keys
        ]

    def authenticate(self, authorization: str | None) -> Principal:
        """The caller. Raises `Unauthenticated` for a missing, malformed, unknown or expired key, in the same words and
        time."""
        if not self._keys:
            return ANYBODY
        presented, now = hash_key(_key_in(authorization or "")).encode(), self._now()
        found: Principal | None = None
        for key, digest, principal in self._keys:  # every key is compared, so that time tells nothing
            lives = key.expires is None or now < key.expires
            if hmac.compare_digest(digest, presented) and lives:
                found = principal
        if found is None:
            raise Unauthenticated("Send a known key as 'Authorization: Bearer <key>'.")
        return found


def hash_key(key: str) -> str:
    """What the configuration stores of a key. Keys are long and random, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _key_in(authorization: str) -> str:
    """The key that a header presents, "" for one that presents none (no key is empty)."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _salt(secret: bytes, key_id: str) -> str:
    return hmac.new(secret, key_id.encode(), hashlib.sha256).hexdigest()
