"""Steps that are done once: a pipeline's directory says how far it came, and a start goes on from there.

``manifest.json`` holds the settings the directory was begun with and, for each finished step, what it left. It is
replaced as a whole after every step, so a kill between two writes loses one step's work at most - and a training step
goes on from its own last saved state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.data.pairs import DataError

MANIFEST = "manifest.json"


class Steps:
    """The steps of one directory."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        """Raises `DataError` for a directory that was begun with other settings."""
        self.directory = directory
        self._path = directory / MANIFEST
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._done: dict[str, Any] = {}
        if self._path.exists():
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["settings"] != self._settings:
                raise DataError(f"{directory} was begun with other settings; name another directory, or delete it.")
            self._done = found["done"]

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """What the step left: from the manifest, or from ``work``, which returns JSON values and may start anew."""
        if name in self._done:
            print(f"{name}: done before")
            return self._done[name]
        print(f"{name}: begins")
        started = time.perf_counter()
        self._done[name] = json.loads(json.dumps(work()))
        self._save()
        print(f"{name}: done in {time.perf_counter() - started:.0f} s")
        return self._done[name]

    def _save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"settings": self._settings, "done": self._done}, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)


def is_begun(run_directory: Path) -> bool:
    """Is there a saved state to go on from? What an earlier start left without one is removed."""
    if any(run_directory.glob("checkpoint-*")):
        return True
    shutil.rmtree(run_directory, ignore_errors=True)
    return False


def weights_hash(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
