"""Rows of files as they are published: JSON, JSON lines, parquet, spreadsheets, each also compressed; hub data sets.

JSON lines are split at line feeds only (`str.splitlines` would also split at U+2028, which texts contain). Everything
that can be wrong with a file is one `DataError` that names it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO
from zipfile import BadZipFile

from training.data.pairs import DataError

Record = Mapping[str, Any]
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, BadZipFile)
_SPACES = "\ufeff \t\r\n"
_SPACE = re.compile(f"[{_SPACES}]*")
_CHUNK = 1 << 20
KINDS = (".jsonl", ".json", ".parquet", ".xlsx")


def data_files(path: Path) -> list[Path]:
    """The file itself, or every data file under a folder, sorted. Raises `DataError` when there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; check the path.")
    found = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file) in KINDS)
    if not found:
        raise DataError(f"{path} holds no data file ({', '.join(KINDS)}, also with {', '.join(_OPENERS)}).")
    return found


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, compression left out."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _OPENERS else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The file's name without suffixes that say how it is stored."""
    name = path.name
    for suffix in (*_OPENERS, *KINDS):
        name = name.removesuffix(suffix)
    return name


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """Rows with their number (from 1). Raises `DataError` for a file that is empty, broken or of an unknown kind."""
    readers = {".jsonl": _lines, ".json": _json, ".parquet": _parquet, ".xlsx": _xlsx}
    kind = kind_of(path)
    if kind not in readers:
        raise DataError(f"{path}: unknown kind of file; readable are {', '.join(readers)}, also compressed.")
    number = 0
    try:
        for number, row in readers[kind](path):
            if not isinstance(row, Mapping):
                raise DataError(f"{path}, row {number}: not an object with columns but {type(row).__name__}.")
            yield number, row
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after row {number}: not UTF-8 ({error.reason}); convert the file.") from error
    except _BROKEN as error:
        raise DataError(f"{path}, after row {number}: broken or cut short ({error}); fetch the file again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the path and its rights.") from error
    if number == 0:
        raise DataError(f"{path} is empty; build it again, or name another file.")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> TextIOWrapper:
    return TextIOWrapper(_OPENERS.get(path.suffix.lower(), open)(path, "rb"), encoding="utf-8", newline="\n")


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parsed(path, number, line)


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """A list of rows, one row, or JSON lines under another name."""
    with _text(path) as file:
        start = file.read(_CHUNK).lstrip(_SPACES)
        if start.startswith("["):
            yield from enumerate(_elements(path, file, start), start=1)
            return
        text = start + file.read()
    try:
        yield from [(1, json.loads(text))] if text else []
    except ValueError as error:
        if not text.startswith("{"):
            raise DataError(f"{path}: not JSON ({error}); it must be a list of objects.") from error
        yield from _lines(path)


def _elements(path: Path, file: TextIO, text: str) -> Iterator[Any]:
    """Elements of the list that ``text`` begins, one at a time: a list of many gigabytes takes the memory of a row."""
    decode = json.JSONDecoder().raw_decode
    at, number = 1, 0

    def skip_spaces() -> str:
        """To the next character that says something; "" at the end of the file."""
        nonlocal text, at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches nothing as well
            if at < len(text):
                return text[at]
            text, at = file.read(_CHUNK), 0
            if not text:
                return ""

    while skip_spaces() != "]":
        number += 1
        if number > 1:
            if text[at : at + 1] != ",":
                raise DataError(f"{path}, row {number}: not JSON (a comma or the list's end is missing).")
            at += 1
            skip_spaces()
        while True:
            try:
                element, at = decode(text, at)
                break
            except ValueError as error:
                if not (more := file.read(_CHUNK)):
                    raise DataError(f"{path}, row {number}: not JSON ({error}).") from error
                text, at = text[at:] + more, 0
        yield element


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {number}: not UTF-8 ({error.reason}); convert the file.") from error
    except ValueError as error:
        raise DataError(f"{path}, row {number}: not JSON ({error}); every row must be one JSON object.") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file ({error}); fetch the file again.") from error


def _xlsx(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of the first sheet under its heading line, with the spreadsheet's own numbers; blank rows are skipped."""
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        names = [str(cell) for cell in next(rows, ())]
        for number, cells in enumerate(rows, start=2):
            if any(cell is not None for cell in cells):
                yield number, dict(zip(names, cells, strict=False))
    finally:
        book.close()
