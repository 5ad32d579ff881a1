"""The command line: help is instant because no command's parser loads a model library."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from service.types import Prompt
from training.__main__ import COMMANDS, main
from training.commands import recipe
from training.data.pairs import DataError, Pair, write_pairs

HEAVY = ("torch", "transformers", "trl", "accelerate", "datasets", "matplotlib", "scipy")


def test_every_command_shows_its_help_without_a_heavy_library() -> None:
    code = (
        "import argparse, importlib, sys\n"
        "commands = argparse.ArgumentParser().add_subparsers()\n"
        f"for name in {COMMANDS!r}: importlib.import_module('training.commands.' + name).add_parser(commands)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_run(name: str) -> None:
    assert callable(import_module(f"training.commands.{name}").run)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_called_as_its_module_is_named(name: str) -> None:
    """With hyphens: the dispatcher finds the module by the word that was typed."""
    commands = argparse.ArgumentParser().add_subparsers()
    import_module(f"training.commands.{name}").add_parser(commands)
    assert list(commands.choices) == [name.replace("_", "-")]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, "error: No space left on device; free space, then start again; what was saved is kept."),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.json"),
            "error: a.json: Permission denied; check the path",
        ),
        (
            ExceptionGroup("workers", [ExceptionGroup("one", [FULL]), FULL]),
            "error: No space left on device; free space",
        ),
        (ExceptionGroup("workers", [DataError("row 3")]), "error: row 3"),
        (KeyboardInterrupt(), "interrupted; what was saved is kept"),
    ],
)
def test_what_can_happen_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    def run(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(sys, "argv", ["training", "recipe", "list"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value.code).startswith(told)


def test_what_nobody_expected_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> None:
        raise ExceptionGroup("workers", [ZeroDivisionError()])

    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(sys, "argv", ["training", "recipe", "list"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_an_output_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", [Pair("1", Prompt.from_text("q"), "x", "yy", "a")])
    words = ["evaluate", "pairs", "--data", str(tmp_path / "pairs.jsonl"), "--baseline", "length"]
    monkeypatch.setattr(sys, "argv", ["training", *words, "--output", "/dev/full/x"])
    with pytest.raises(SystemExit, match=r"error: /dev/full.*: Not a directory; check the path and its rights"):
        main()
