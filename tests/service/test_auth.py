from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from service.auth import ALL_SCOPES, ANYBODY, ApiKey, Authenticator, hash_key
from service.errors import Forbidden, Unauthenticated


def keys() -> list[ApiKey]:
    return [
        ApiKey("one", hash_key("first-key"), ["score"]),
        ApiKey("two", hash_key("second-key"), ["queue", "metrics"]),
    ]


def test_a_key_opens_its_scopes_and_no_other() -> None:
    gate = Authenticator(keys())
    caller = gate.authenticate("Bearer second-key")
    assert caller.key_id == "two"
    for scope in ALL_SCOPES:
        if scope in ("queue", "metrics"):
            caller.require(scope)
        else:
            with pytest.raises(Forbidden):
                caller.require(scope)
    caller.require(None)


@pytest.mark.parametrize("header", ["bearer first-key", "BEARER first-key", "Bearer  first-key "])
def test_the_scheme_is_read_as_http_says(header: str) -> None:
    assert Authenticator(keys()).authenticate(header).key_id == "one"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("user", ["", "trainer", "first-key"])
def test_the_password_of_http_basic_is_a_key(user: str) -> None:
    for scheme in ("Basic", "basic"):
        assert Authenticator(keys()).authenticate(f"{scheme} {basic(f'{user}:first-key')}").key_id == "one"


@pytest.mark.parametrize(
    "token",
    ["", "first-key", "====", basic("first-key"), basic("first-key:"), basic("x:first-key:"), basic("x:y"), "/////w=="],
)
def test_anything_else_in_http_basic_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated, match="Send a known key"):
        Authenticator(keys()).authenticate(f"Basic {token}")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "first-key", "Basic first-key", "Bearer first-key2", "Bearer \udcff", "Bearer first"]
)
def test_everything_else_is_refused_in_the_same_words(header: str | None) -> None:
    with pytest.raises(Unauthenticated, match="Send a known key"):
        Authenticator(keys()).authenticate(header)


def test_an_expired_key_is_unknown_from_that_moment_on() -> None:
    end = datetime(2027, 1, 31, tzinfo=UTC)
    now = [end - timedelta(seconds=1)]
    gate = Authenticator([ApiKey("one", hash_key("first-key"), ["score"], end), *keys()[1:]], now=lambda: now[0])
    assert gate.authenticate("Bearer first-key").key_id == "one"
    now[0] = end
    with pytest.raises(Unauthenticated, match="Send a known key"):
        gate.authenticate("Bearer first-key")
    assert gate.authenticate("Bearer second-key").key_id == "two"


def test_the_hash_does_not_open() -> None:
    with pytest.raises(Unauthenticated):
        Authenticator(keys()).authenticate(f"Bearer {hash_key('first-key')}")


def test_without_keys_everybody_is_the_same_caller() -> None:
    assert Authenticator([]).authenticate(None) is ANYBODY
    assert ANYBODY.cache_salt is None
    assert ANYBODY.scopes == ALL_SCOPES


def test_salts_differ_by_key_and_agree_between_replicas_with_one_secret() -> None:
    def salts(secret: str | None) -> list[str | None]:
        gate = Authenticator(keys(), secret)
        return [gate.authenticate(f"Bearer {key}").cache_salt for key in ("first-key", "second-key")]

    one, two = salts("s" * 16)
    assert one != two
    assert salts("s" * 16) == [one, two]
    assert set(salts("t" * 16)).isdisjoint({one, two})
    assert set(salts(None)).isdisjoint(salts(None))
