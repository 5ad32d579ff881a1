"""Who may open what: every way to ask without the right key, and the mistakes that would let it through."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from service.auth import ALL_SCOPES, Authenticator, Principal, hash_key
from service.types import Scope
from tests.support.asgi import Headers

KEYS: dict[Scope, str] = {scope: f"Key-for-{scope}-{'x' * 20}" for scope in sorted(ALL_SCOPES)}
EXPIRED = "Key-that-has-expired-" + "x" * 20
AUTH: dict[str, Any] = {
    "auth": {
        "keys": [
            *({"id": scope, "sha256": hash_key(key), "scopes": [scope]} for scope, key in KEYS.items()),
            {
                "id": "expired",
                "sha256": hash_key(EXPIRED),
                "scopes": sorted(ALL_SCOPES),
                "expires": "2020-01-01T00:00:00Z",
            },
        ]
    }
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is sent instead of the right key. ``scope``: it is a good key, of this scope."""

    name: str
    headers: Headers = ()
    query: str = ""
    scope: Scope | None = None


def _basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def attempts() -> Iterator[Attempt]:
    """Keys that are none, and each scope's good one, which opens the routes of that scope only."""
    key = KEYS["score"]
    values = {
        "empty": "",
        "scheme alone": "Bearer",
        "scheme and space": "Bearer ",
        "no scheme": key,
        "unknown": "Bearer wrong",
        "one letter less": f"Bearer {key[:-1]}",
        "one letter more": f"Bearer {key}x",
        "lower case": f"Bearer {key.lower()}",
        "upper case": f"Bearer {key.upper()}",
        "its hash": f"Bearer {hash_key(key)}",
        "its name": "Bearer score",
        "expired": f"Bearer {EXPIRED}",
        "expired, basic": _basic(f"x:{EXPIRED}"),
        "another scheme": f"Token {key}",
        "basic, not encoded": f"Basic {key}",
        "basic, as the user": _basic(f"{key}:"),
        "basic, twice": _basic(f"x:{key}:x"),
        "two in one": f"Bearer wrong, Bearer {key}",
        "two words": f"Bearer wrong {key}",
        "quoted": f'Bearer "{key}"',
        "Latin-1": "Bearer \u00e9\u00e9",
        "NUL": f"Bearer {key}\x00",
        "wildcard": "Bearer *",
        "true": "Bearer true",
        "long": "Bearer " + "x" * 10_000,
    }
    yield Attempt("none")
    yield from (Attempt(name, (("Authorization", value),)) for name, value in values.items())
    for name in ("X-API-Key", "Api-Key", "Proxy-Authorization", "X-Forwarded-Authorization", "X-Original-URL"):
        yield Attempt(name, ((name, f"Bearer {key}" if "uthor" in name else key),))
    yield Attempt("cookie", (("Cookie", f"Authorization=Bearer {key}; token={key}"),))
    yield Attempt("a bad one first", (("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {key}")))
    yield Attempt("loopback", (("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1"), ("Host", "localhost")))
    yield from (Attempt(f"query {name}", query=f"{name}={key}") for name in ("key", "access_token", "Authorization"))
    yield from (Attempt(f"scope {s}", (("Authorization", f"Bearer {k}"),), scope=s) for s, k in KEYS.items())


def spellings(path: str) -> Iterator[str]:
    """The path, and what a careless reader would take for it."""
    name = path.lstrip("/")
    yield path
    yield from (
        f"/{path}",
        f"{path}/",
        f"{path}//",
        f"/.{path}",
        f"/x/..{path}",
        f"/%2e{path}",
        f".{path}",
        f"/{path}/.",
    )
    yield from (f"/%{ord(name[0]):02x}{name[1:]}", f"/%25{ord(name[0]):02x}{name[1:]}", path.upper(), f"/%2f{name}")
    yield from (
        f"{path}%2f",
        f"{path}%00",
        f"{path}%20",
        f"{path};x=1",
        f"{path}.json",
        f"{path}%0d%0aX: y",
        f"\\{name}",
    )
    yield from (f"/livez/..{path}", f"/livez;{path}", f"http://localhost{path}", f"{path}?x=/livez", f"{path}#/livez")


def product(routes: list[tuple[str, str]]) -> list[tuple[str, str, str, Attempt]]:
    """Every (method, path as declared, path as sent, attempt). ``{name}`` of a path is filled in."""
    asked = list(attempts())
    paths = sorted({path for _, path in routes})
    return [
        (method, path, sent, attempt)
        for path, method in itertools.product(paths, METHODS)
        for sent in spellings(path.replace("{name}", "q"))
        for attempt in asked
    ]


def scopes_unchecked() -> AbstractContextManager[object]:
    """Any known key opens everything."""
    return mock.patch.object(Principal, "require", lambda self, scope: None)  # noqa: PT008 - takes self


def expiry_ignored() -> AbstractContextManager[object]:
    """A key is good for ever."""
    first = Authenticator.__init__

    def forgetful(self: Authenticator, keys: Any, *more: Any) -> None:
        first(self, [type(key)(key.id, key.sha256, key.scopes) for key in keys], *more)

    return mock.patch.object(Authenticator, "__init__", forgetful)


def keys_by_prefix() -> AbstractContextManager[object]:
    """A key is compared without its end."""
    known = {hash_key(key[:-1]): hash_key(key) for key in KEYS.values()}

    def shortened(key: str) -> str:
        return known.get(hash_key(key), hash_key(key))

    return mock.patch("service.auth.hash_key", shortened)
