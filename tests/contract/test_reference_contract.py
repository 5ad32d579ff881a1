"""What `service.stores.references_base` promises, on every store of references."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded, StartupError, StoreUnavailable
from service.stores.references_base import OVERHEAD_BYTES, ReferenceLimits, ReferenceStore, key_of
from service.stores.references_memory import MemoryReferences
from service.stores.references_redis import RedisReferences
from service.stores.references_sqlite import SqliteReferences
from service.types import Message, Prompt
from tests.support.properties import bar
from tests.support.redis_server import shared_server
from tests.support.stores import PATIENT, prefix_for

T = TypeVar("T")
Make = Callable[[Path, ReferenceLimits], ReferenceStore]

MAKERS: dict[str, Make] = {
    "memory": lambda folder, limits: MemoryReferences(limits),
    "sqlite": lambda folder, limits: SqliteReferences(folder / "references.sqlite", limits),
    "redis": lambda folder, limits: RedisReferences(shared_server().url, limits, prefix_for(folder), PATIENT),
}


@dataclass
class Bench:
    """An open store and the loop it lives on."""

    make: Make
    folder: Path
    runner: asyncio.Runner
    store: ReferenceStore

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def put(self, **references: str) -> int:
        return self.run(self.store.put(references))

    def get(self, *keys: str) -> list[str | None]:
        return self.run(self.store.get(keys))

    def again(self, limits: ReferenceLimits | None = None) -> ReferenceStore:
        """The same store, opened by another replica or after a restart."""
        store = self.make(self.folder, limits or ReferenceLimits())
        self.run(store.start())
        return store


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from opened(MAKERS[request.param], tmp_path, ReferenceLimits())


@pytest.fixture(params=MAKERS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from opened(MAKERS[request.param], tmp_path, ReferenceLimits(3, 3 * OVERHEAD_BYTES + 10))


def opened(make: Make, folder: Path, limits: ReferenceLimits) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        store = make(folder, limits)
        runner.run(store.start())
        yield Bench(make, folder, runner, store)
        runner.run(store.close())


def test_what_was_put_is_found_in_the_order_asked(bench: Bench) -> None:
    assert bench.put(a="1", b="\u4f60\U0001f600\0\n") == 2
    assert bench.get("b", "nobody", "a", "b") == ["\u4f60\U0001f600\0\n", None, "1", "\u4f60\U0001f600\0\n"]
    assert bench.get() == []


def test_a_new_reference_takes_the_place_of_the_old_one(bench: Bench) -> None:
    bench.put(a="1", b="2")
    assert bench.put(b="longer", c="3") == 3
    assert bench.get("a", "b", "c") == ["1", "longer", "3"]


def test_many_are_put_and_found_at_once(bench: Bench) -> None:
    many = {f"k{i}": f"text {i}" for i in range(2_000)}
    assert bench.run(bench.store.put(many)) == 2_000
    assert bench.get(*reversed(many)) == list(reversed(many.values()))


def test_at_a_limit_nothing_of_a_call_is_kept(small: Bench) -> None:
    small.put(a="1", b="2")
    for more in ({"c": "3", "d": "4"}, {"a": "changed", "c": "x" * 20}):
        with pytest.raises(Overloaded, match="full of references"):
            small.put(**more)
        assert small.get("a", "b", "c", "d") == ["1", "2", None, None]
    assert small.put(a="x" * 9) == 2  # replacing counts the difference only
    assert small.put(a="1", c="3") == 3


def test_what_is_kept_survives_and_is_shared(bench: Bench) -> None:
    if isinstance(bench.store, MemoryReferences):
        return  # a restart forgets memory: its file brings references back
    bench.put(a="1")
    other = bench.again()
    assert bench.run(other.get(["a"])) == ["1"]
    bench.run(other.put({"a": "2", "b": "3"}))
    assert bench.get("a", "b") == ["2", "3"]
    bench.run(other.close())


def test_a_closed_store_says_so(bench: Bench) -> None:
    other = bench.again()
    for _ in range(2):
        bench.run(other.close())
    with pytest.raises(StoreUnavailable):
        bench.run(other.get(["a"]))
    with pytest.raises(StoreUnavailable):
        bench.run(other.put({"a": "1"}))


def test_any_history_is_a_dictionary(bench: Bench) -> None:
    numbers = itertools.count()
    texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
    batches = st.lists(st.dictionaries(st.sampled_from("abcd"), texts, max_size=4), max_size=6)

    @bar(1_000)
    @given(batches)
    def check(batches: list[dict[str, str]]) -> None:
        number, model = next(numbers), dict[str, str]()
        for batch in batches:
            named = {f"{number}-{key}": text for key, text in batch.items()}
            bench.run(bench.store.put(named))
            model |= named
        keys = [f"{number}-{key}" for key in "abcd"]
        assert bench.get(*keys) == [model.get(key) for key in keys]

    check()


def test_a_text_and_its_single_user_turn_are_one_prompt() -> None:
    assert key_of(Prompt.from_text("x")) == key_of(Prompt((Message("user", "x"),)))
    prompts = [
        Prompt.from_text("x"),
        Prompt((Message("system", "x"),)),
        Prompt((Message("user", "x"), Message("user", ""))),
        Prompt((Message("user", "x\0user\0"),)),
        Prompt((Message("user", "\ud800"),)),
    ]
    assert len({key_of(prompt) for prompt in prompts}) == len(prompts)


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "references.sqlite").write_bytes(b"no database" * 100)
    with asyncio.Runner() as runner, pytest.raises(StartupError, match=r"store\.path"):
        runner.run(SqliteReferences(tmp_path / "references.sqlite").start())
    with asyncio.Runner() as runner, pytest.raises(StartupError, match="does not start"):
        runner.run(RedisReferences("redis://127.0.0.1:1/0").start())
