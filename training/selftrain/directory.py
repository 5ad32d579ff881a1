"""A run is a directory with a manifest: which steps are done, what files they left, what came out.

    {"format": 1, "made_from": {"recipe": "9f2c...", "data": {"pairs.jsonl": "41aa..."}},
     "steps": {"rounds/01/votes": {"files": {"rounds/01/votes.jsonl": "77b0..."}, "figures": {"kept": 412}}}}

A step's files are whole or absent, and it is done once the manifest says so; what was interrupted before that is done
again and leaves the same bytes. There is no time in the manifest: a run that was interrupted and one that was not are
equal. One process works in a directory at a time, the training processes it started included.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from service.engines.base import fingerprint_weights
from training.data.pairs import DataError
from training.stages.saving import failure

FORMAT = 1
Figures = Mapping[str, Any]


class RunDirectory:
    """See the module. Made by `opened`."""

    def __init__(self, path: Path, made_from: Mapping[str, Any], lock: IO[str]) -> None:
        self.path = path
        self.lock = lock
        """Passed on to training processes: while one lives, nobody else may work here."""
        self._made_from = dict(made_from)
        self._steps: dict[str, dict[str, Any]] = {}

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    def is_done(self, name: str) -> bool:
        return name in self._steps

    def figures(self, name: str) -> Figures:
        """What a finished step reported."""
        return dict(self._steps[name]["figures"])

    def done(self) -> dict[str, Figures]:
        """What every finished step reported, in the order they were done."""
        return {name: self.figures(name) for name in self._steps}

    def step(self, name: str, files: Sequence[Path], work: Callable[[], Figures]) -> Figures:
        """Do a step unless it is done; its ``files`` (or checkpoint directories) lie in the run's directory.

        Raises `DataError` where the files of a done step were changed since, and `SaveError` where the disk is full.
        """
        if self.is_done(name):
            self._check(name)
            return self.figures(name)
        try:
            figures = work()
            prints = {path.relative_to(self.path).as_posix(): fingerprint(path) for path in files}
            self._steps[name] = {"files": prints, "figures": json.loads(json.dumps(figures))}
            self._write()
        except OSError as error:
            self._steps.pop(name, None)
            raise failure(self.path / name, error) from error
        return self.figures(name)

    def _check(self, name: str) -> None:
        """A file that is gone is missed when it is needed: old checkpoints may be deleted to make room."""
        for file, known in self._steps[name]["files"].items():
            path = self.path / file
            if path.exists() and fingerprint(path) != known:
                raise DataError(f"{path} was changed since {name} made it; restore it, or start another directory.")

    def _read(self) -> None:
        found = read_manifest(self.path)
        if different := _difference(found["made_from"], json.loads(json.dumps(self._made_from))):
            raise DataError(
                f"{self.path} was begun with another {', '.join(different)}; restore it, or name another directory."
            )
        self._steps = found["steps"]

    def _write(self) -> None:
        text = json.dumps({"format": FORMAT, "made_from": self._made_from, "steps": self._steps}, indent=1)
        part = self.manifest.with_suffix(".part")
        try:
            with part.open("w", encoding="utf-8") as out:
                out.write(text + "\n")
                out.flush()
                os.fsync(out.fileno())
            part.replace(self.manifest)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def opened(path: Path, made_from: Mapping[str, Any], *, resume: bool) -> Iterator[RunDirectory]:
    """The run's directory, with all that was done in it. ``made_from`` names recipe and inputs by their contents.

    Raises `DataError`: for a run that is there without ``resume``, one begun from something else, and one that another
    process works on.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"Another process works in {path}; wait for it, or name another directory.") from error
        run = RunDirectory(path, made_from, lock)
        if run.manifest.exists() and not resume:
            raise DataError(f"{path} holds a run already; go on with --resume, or name another directory.")
        if run.manifest.exists():
            run._read()
        else:
            run._write()
        yield run


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run's directory. Raises `DataError`."""
    file = path / "manifest.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} holds no run; check the path.") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); restore it.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{file} is no manifest of a run; check the path.")
    return found


def fingerprint(path: Path) -> str:
    """A file's SHA-256, or what names a checkpoint's weights without reading all of them. Raises `OSError`."""
    if path.is_dir():
        return fingerprint_weights(str(path))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
