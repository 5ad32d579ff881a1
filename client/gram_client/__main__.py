"""``python -m gram_client``: commands for files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gram_client import best_of_n_file, score_file

COMMANDS = {"score-file": score_file, "best-of-n": best_of_n_file}
"""A module each, with `add_arguments` and `run`."""


def main(command_line: Sequence[str] | None = None) -> int:
    """The process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m gram_client", description="Client of the reward scoring service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").partition(": ")[2].strip()
        command = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(command_line)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
