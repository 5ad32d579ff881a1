"""Rows out of benchmark files in the formats they are published in, and what makes sure that they are those files.

Each file's sha256 is that of its *uncompressed* content, so a copy that somebody gzipped is still the known file.
``checksums.sha256`` holds the known ones (in the format of the program sha256sum): a file with a known name and other
content is an error, because its score would carry the benchmark's name and not be comparable. A file of another name is
recorded and called unknown.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.data.files import records
from training.data.hub import hub_records
from training.data.pairs import DataError
from training.evaluation.benchmarks.base import Benchmark
from training.evaluation.benchmarks.rows import Row

CHECKSUMS = Path(__file__).with_name("checksums.sha256")
_PACKED = (".gz", ".xz")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that was read. ``known``: its content is the published one (None: nothing is known of this file)."""

    file: str
    sha256: str
    rows: int
    known: bool | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """All rows of a benchmark and the files they came from."""

    rows: list[Row]
    files: list[FileRecord]


def read_folder(benchmark: Benchmark, folder: Path, *, allow_changed: bool = False) -> Loaded:
    """The benchmark's files under ``folder`` (or ``folder`` itself, where it is one file).

    Raises `DataError` for a missing folder, no file, an unreadable or a changed one.
    """
    if not folder.exists():
        raise DataError(f"{folder} does not exist; name the folder of {benchmark.title} with --data, or use --hub.")
    paths = [folder] if folder.is_file() else _found(benchmark.files, folder)
    if not paths:
        raise DataError(f"{folder} holds none of {', '.join(benchmark.files)}; is it the folder of {benchmark.title}?")
    rows: list[Row] = []
    files: list[FileRecord] = []
    for path in paths:
        name = _bare(path.name if folder.is_file() else path.relative_to(folder).as_posix())
        mine = [Row(name, number, dict(data)) for number, data in records(path)]
        rows += mine
        files.append(_record(path, f"{benchmark.folder}/{name}", name, len(mine), allow_changed))
    return Loaded(rows, files)


def _record(path: Path, key: str, name: str, rows: int, allow_changed: bool) -> FileRecord:
    digest, known = content_sha256(path), known_checksums().get(key)
    if known is not None and known != digest and not allow_changed:
        raise DataError(
            f"{path}: not the published file (sha256 {digest[:12]}..., expected {known[:12]}...); get it again, or say "
            "--allow-changed, and the result will say so."
        )
    return FileRecord(name, digest, rows, None if known is None else known == digest)


def read_hub(benchmark: Benchmark) -> Loaded:
    """The benchmark from the Hugging Face hub by name. Its checksum is that of the rows as JSON, in order.

    Raises `DataError` where it has no name there or cannot be had.
    """
    if not benchmark.hub:
        raise DataError(f"{benchmark.title} is not on the hub; name a local folder with --data.")
    rows: list[Row] = []
    files: list[FileRecord] = []
    for part in benchmark.hub:
        found = hub_records(part.repo, split=part.split, config=part.config, revision=part.revision, folder=part.folder)
        mine = [Row(part.tag, number, data) for number, data in found]
        digest = hashlib.sha256()
        for row in mine:
            digest.update(json.dumps(row.data, sort_keys=True, default=str).encode() + b"\n")
        rows += mine
        files.append(FileRecord(f"{part.repo}:{part.tag}", digest.hexdigest(), len(mine), None))
    return Loaded(rows, files)


@cache
def known_checksums() -> dict[str, str]:
    """Published content: folder/name -> sha256."""
    lines = CHECKSUMS.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines if line)}


def _found(patterns: Sequence[str], folder: Path) -> list[Path]:
    """Files by the first pattern that finds any, packed ones too, in order of their names."""
    for pattern in patterns:
        found = {path for end in ("", *_PACKED) for path in folder.glob(pattern + end) if path.is_file()}
        if found:
            return sorted(found)
    return []


def _bare(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".xz")


def content_sha256(path: Path) -> str:
    """Of what a compressed file holds."""
    if path.suffix not in _PACKED:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with gzip.open(path) if path.suffix == ".gz" else lzma.open(path) as file:
        return hashlib.sha256(file.read()).hexdigest()
