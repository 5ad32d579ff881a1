"""The command line: help is instant because no command's parser loads a model library."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

import pytest

from training.__main__ import COMMANDS

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
