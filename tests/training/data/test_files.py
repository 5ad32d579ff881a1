"""Files as they are published: every kind and compression, and one clear error for each way to be broken."""

from __future__ import annotations

import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.support.properties import bar
from training.data import files
from training.data.files import data_files, kind_of, records, stem_of
from training.data.pairs import DataError

ROWS = [{"prompt": "a\u2028b", "n": 1}, {"prompt": "\u4f60\u597d\x85", "n": 2}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def rows_of(path: Path) -> list[object]:
    return [dict(row) for _, row in records(path)]


def test_every_kind_holds_the_same_rows(tmp_path: Path) -> None:
    data = LINES.encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(data))
    (tmp_path / "lines.json").write_bytes(data)
    (tmp_path / "list.json").write_text(json.dumps(ROWS), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    book = openpyxl.Workbook()
    for cells in (["prompt", "n"], [None, None], *([row["prompt"], row["n"]] for row in ROWS)):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    found = data_files(tmp_path)
    assert len(found) == 7
    for path in found:
        assert rows_of(path) == ROWS, path.name
    assert [number for number, _ in records(tmp_path / "a.xlsx")] == [3, 4], "as the spreadsheet shows them"


def test_lines_end_at_line_feeds_only_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES.replace("\n", "\n\n"), encoding="utf-8")
    assert [number for number, _ in records(path)] == [1, 3]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@bar(5_000)
@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), min_size=1, max_size=6), st.data())
def test_a_list_is_read_element_by_element_wherever_a_chunk_ends(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    indent, escaped = data.draw(st.sampled_from([None, 2])), data.draw(st.booleans())
    path.write_text("\n " + json.dumps(rows, indent=indent, ensure_ascii=escaped) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK", data.draw(st.integers(3, 40)))
        assert rows_of(path) == rows


def test_a_long_list_does_not_stand_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(json.dumps({"text": "x" * 1000}) for _ in range(20_000)) + "]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in records(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20, "of 20 MB"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.json", b"  \n", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "row 2: not JSON"),
        ("a.jsonl", b"[1]\n", "row 1: not an object"),
        ("a.json", b"[{]", "row 1: not JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "row 2: not JSON"),
        ("a.json", b'[{"a": 1}, {"a": 2}', "row 3: not JSON"),
        ("a.json", b'[{"a": 1},', "row 2: not JSON"),
        ("a.json", b'[{"a": 1},]', "row 2: not JSON"),
        ("a.json", b"nonsense", "not JSON"),
        ("a.json", b'[{"a": 1}, 2]', "row 2: not an object"),
        ("a.jsonl", b'{"a": 1}\n\xff\xfe\n', "not UTF-8"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 99)[:-20], "broken or cut short"),
        ("a.jsonl.gz", b"no gzip", "broken or cut short"),
        ("a.jsonl.xz", b"no xz", "broken or cut short"),
        ("a.parquet", b"no parquet", "not a parquet file"),
        ("a.xlsx", b"no zip", "broken or cut short"),
        ("a.txt", b"text", "unknown kind of file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error_that_names_it(
    tmp_path: Path, name: str, data: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.\w+") as error:
        rows_of(path)
    assert complaint in str(error.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none does not exist"):
        data_files(tmp_path / "none")
    with pytest.raises(DataError, match="holds no data file"):
        data_files(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        rows_of(tmp_path / "none.jsonl")


def test_names_without_what_says_how_they_are_stored() -> None:
    assert (kind_of(Path("x/a.b.JSONL.gz")), stem_of(Path("x/a.b.jsonl.gz"))) == (".jsonl", "a.b")
