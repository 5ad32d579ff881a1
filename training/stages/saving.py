"""Directories that are whole or absent: written beside their place, flushed to the disk, renamed into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.data.pairs import DataError


class SaveError(Exception):
    """A checkpoint could not be written; nothing of it was left behind, and what was there before is untouched."""


def part_of(directory: Path) -> Path:
    """Where a directory is written before it is one."""
    return directory.with_name(f".{directory.name}.part")


def remove_parts(home: Path) -> None:
    """What a kill left of directories that were being written, or had just been put in their place."""
    for part in home.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """Yields an empty directory to write into; on leaving it becomes ``directory``, in place of what was there.

    Notes (``*.md``) of the directory it replaces are kept. Raises `SaveError` when anything fails while writing (a full
    disk shows as `OSError`, as safetensors' own error or as torch's RuntimeError) and removes what was written.
    """
    part = part_of(directory)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for note in directory.glob("*.md"):
            if not (part / note.name).exists():
                shutil.copy2(note, part)
        share(part)
        flush(part)
        put_in_place(part, directory)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        raise failure(directory, error) from error


def failure(directory: Path, error: Exception) -> SaveError:
    """One sentence for the many ways libraries report that a file could not be written."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    full = any(word in reason for word in ("No space", "too large", "quota"))
    remedy = "free space on its disk" if full else "check the path and its rights"
    return SaveError(f"{directory} could not be written ({reason}); {remedy}, then go on with --resume.")


def check_replaceable(directory: Path) -> None:
    """Found out before hours of training: a directory that cannot be made, or that holds what nobody wants to lose.

    Raises `DataError`.
    """
    try:
        directory.resolve().parent.mkdir(parents=True, exist_ok=True)
        held = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    except OSError as error:
        raise DataError(f"output.directory = {directory}: cannot be made ({error.strerror}); name another.") from error
    if not os.access(directory.resolve().parent, os.W_OK):
        raise DataError(f"output.directory = {directory}: its folder is not yours to write to; name another.")
    if held and "config.json" not in held:
        raise DataError(
            f"output.directory = {directory} would be replaced, and holds {held[0]} and no checkpoint; name another."
        )


def flush(directory: Path) -> None:
    """Force every file of a directory to the disk: a rename must not come before the contents."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def share(directory: Path) -> None:
    """Give files the rights the directory was made with: safetensors writes for its owner alone, and the service may be
    another user."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(directory.stat().st_mode & 0o666)


def put_in_place(part: Path, directory: Path) -> None:
    """Rename ``part`` to ``directory``; what was there moves aside first and is removed last."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    part.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
