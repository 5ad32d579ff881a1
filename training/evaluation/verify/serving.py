"""The service, started as users start it, for as long as something is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from tqdm import tqdm

from training.evaluation.judges.base import EvaluationError
from training.evaluation.verify.published import Published

READY = re.compile(r"Ready at (http://[\d.:\[\]a-f]+)")
STOP_S = 60.0


@asynccontextmanager
async def served(
    model: str, engine: str, device: str, published: Published | None, family: str | None, start_s: float
) -> AsyncIterator[str]:
    """The address of a service on this checkpoint, once it has passed its self-test. It ends with the block.

    Raises `EvaluationError` with the service's own sentence where it does not start.
    """
    command = [sys.executable, "-m", "service", "serve", "--model", model, "--engine", engine]
    command += ["--device", device] if engine != "fake" else []
    command += ["--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = await asyncio.to_thread(_start, command, _environment(model, published, family), log)
        try:
            yield await asyncio.to_thread(_ready, process, log, start_s)
        finally:
            await asyncio.to_thread(_stop, process)


def _start(command: list[str], environment: dict[str, str], log: IO[str]) -> subprocess.Popen[bytes]:
    # A session of its own: an interrupt at the terminal is ours, and we stop it.
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603


def _environment(model: str, published: Published | None, family: str | None) -> dict[str, str]:
    """Without this shell's settings of another service; with the judge that the checkpoint does not describe itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    wanted, template = (
        (family, None) if family else (published.family, published.template) if published else (None, None)
    )
    if wanted is None or (Path(model) / "judge.json").is_file():
        return kept
    judge = {"name": wanted, "family": wanted} | ({"template": template} if template else {})
    return kept | {"GRAM_JUDGES": json.dumps([judge])}


def _ready(process: subprocess.Popen[bytes], log: IO[str], start_s: float) -> str:
    """Waits, and says for how long."""
    ends = time.monotonic() + start_s
    with tqdm(desc="starting the service", bar_format="{desc} ({elapsed})", disable=None) as bar:
        while time.monotonic() < ends:
            text = _read(log)
            if found := READY.search(text):
                return found[1]
            if process.poll() is not None:
                raise EvaluationError(f"The service did not start: {_reason(text)}")
            time.sleep(0.2)
            bar.refresh()
    raise EvaluationError(
        f"The service was not ready after {start_s:g} s; allow more with --start-s. {_reason(_read(log))}"
    )


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def _reason(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Cannot start: ")]
    return (told or lines or ["it said nothing."])[-1]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
        return
    process.kill()
    process.wait()
