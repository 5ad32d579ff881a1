"""The documents' examples as requests: curl commands are read as a shell would read them and sent by httpx, so that the
tests need no curl; Python examples are run as programs."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.architecture.documents import code_blocks

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SERVICE = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Curl:
    """One curl command: what it would send."""

    method: str
    url: str
    headers: dict[str, str]
    body: str | None

    def send(self, service: str) -> httpx.Response:
        """To `service` in place of the address that the documents name."""
        url = self.url.replace(SERVICE, service)
        return httpx.request(self.method, url, headers=self.headers, content=self.body, timeout=60)

    @property
    def path(self) -> str:
        return httpx.URL(self.url).path


def parse_curl(command: str) -> Curl:
    """Only the options our documents use; an unknown one is an error."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-N", action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("-X")
    parser.add_argument("url")
    words = shlex.split(command)
    assert words[0] == "curl"
    options = parser.parse_args(words[1:])
    headers = dict(header.split(": ", 1) for header in options.H)
    return Curl(options.X or ("POST" if options.d else "GET"), options.url, headers, options.d)


def readme_curls() -> list[Curl]:
    commands = []
    for block in code_blocks(README, "sh"):
        for part in ("\n" + block).split("\ncurl ")[1:]:
            commands.append(parse_curl("curl " + part))
    return commands


def run_python_example(source: str, service: str) -> str:
    """What the example prints; it fails where the example fails."""
    return _run([sys.executable, "-c", source.replace(SERVICE, service)], ROOT)


def run_shell_example(source: str, service: str, folder: Path) -> str:
    """What the commands print, run in `folder` with this Python first; they fail where the example fails."""
    return _run(["bash", "-euo", "pipefail", "-c", source.replace(SERVICE, service)], folder)


def _run(command: list[str], folder: Path) -> str:
    """With the client importable, as `make install` makes it."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = os.pathsep.join((str(ROOT / "client"), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    environment = os.environ | {"PATH": path, "PYTHONPATH": found}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
