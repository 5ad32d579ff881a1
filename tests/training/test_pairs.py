"""The pairs file: what is written is read back, what cannot be used is named by file, row and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tokenization import ROLES
from service.types import Message, Prompt
from tests.support.properties import bar
from training.data.pairs import KNOWN_ROLES, DataError, Pair, read_pairs, write_pairs

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROMPTS = st.one_of(
    TEXTS.map(Prompt.from_text),
    st.lists(st.builds(Message, st.sampled_from(KNOWN_ROLES), TEXTS), min_size=1, max_size=3).map(
        lambda turns: Prompt(tuple(turns))
    ),
)
PAIRS = st.builds(
    Pair,
    TEXTS,
    PROMPTS,
    TEXTS,
    TEXTS,
    st.sampled_from(["a", "b", None]),
    TEXTS,
    st.none() | st.floats(0, 10),
    TEXTS,
    TEXTS,
)
GOOD = {"prompt": "1 + 1?", "response_a": "2", "response_b": "3", "label": "a"}


@bar(2_000)
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    assert write_pairs(path, pairs) == len(pairs)
    assert list(read_pairs(path)) == pairs
    assert [p.name for p in path.parent.iterdir()] == ["pairs.jsonl"]


@bar(2_000)
@given(PAIRS)
def test_swapping_sides_changes_no_judgment(pair: Pair) -> None:
    other = pair.swapped
    assert other.swapped == pair
    assert (other.response_a, other.response_b) == (pair.response_b, pair.response_a)
    if pair.label is not None:
        assert (other.chosen, other.rejected) == (pair.chosen, pair.rejected)


def test_a_row_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    [pair] = read_pairs(path)
    assert (pair.id, pair.chosen, pair.rejected) == ("mine/1", "2", "3")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({**GOOD, "label": "A"}, "field label"),
        ({**GOOD, "label": 1}, "field label"),
        ({**GOOD, "better": "a"}, "field better: unknown"),
        ({**GOOD, "prompt": []}, "field prompt"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "field prompt"),
        ({**GOOD, "response_b": None}, "field response_b: must be a text"),
        ({k: v for k, v in GOOD.items() if k != "response_a"}, "field response_a: missing"),
        ({**GOOD, "margin": True}, "field margin"),
        ({**GOOD, "margin": float("nan")}, "field margin: must be a finite number"),
        ({**GOOD, "prompt": [{"role": "wizard", "content": "x"}]}, "field prompt: a turn's role must be one of system"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: object, complaint: str) -> None:
    path = tmp_path / "pairs.jsonl"
    line = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl, row 2") as error:
        list(read_pairs(path))
    assert complaint in str(error.value)


def test_roles_are_those_the_service_knows() -> None:
    assert set(KNOWN_ROLES) == ROLES


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert [pair.response_a for pair in read_pairs(path)] == ["2"]


def test_files_that_are_not_there_or_empty_or_no_text(tmp_path: Path) -> None:
    empty, bad = tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.touch()
    bad.write_bytes(b"\xff\xfe")
    for path, complaint in ((empty, "is empty"), (bad, "not UTF-8"), (tmp_path / "none.jsonl", "does not exist")):
        with pytest.raises(DataError, match=complaint):
            list(read_pairs(path))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = Pair("1", Prompt.from_text("q"), "x", "y")
    write_pairs(path, [pair])

    def failing() -> object:
        yield pair
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_pairs(path, failing())  # type: ignore[arg-type]
    assert list(read_pairs(path)) == [pair]
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]
