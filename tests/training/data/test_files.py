"""Files as they are published: every kind and compression, and one clear error for each way to be broken."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

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


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.json", b"  \n", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "row 2: not JSON"),
        ("a.jsonl", b"[1]\n", "row 1: not an object"),
        ("a.json", b"[{]", "not JSON"),
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
