"""``python -m training COMMAND``: one module of `training.commands` for each command.

A command module defines ``add_parser(commands)``, which imports nothing heavy, so that help is instant, and
``run(args)``, which imports what it needs.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from importlib import import_module

from service.errors import ServiceError
from training.data.pairs import DataError
from training.generation.outcomes import GenerationError
from training.stages.errors import TrainingDiverged
from training.stages.saving import SaveError

COMMANDS = (
    "data",
    "pretrain",
    "finetune",
    "adapt",
    "reward",
    "reason",
    "prove",
    "proofs",
    "traces",
    "distill",
    "grpo",
    "selftrain",
    "pipeline",
    "curves",
    "demo_data",
    "recipe",
    "estimate",
    "evaluate",
    "verify",
    "judge_report",
    "best_of_n",
    "rlhf",
    "study",
)
"""Names of modules of `training.commands`, in the order of the help text. A command may have sub-commands."""
EXPECTED = (DataError, SaveError, ServiceError, GenerationError, TrainingDiverged, OSError)
"""What is told in one sentence, without a traceback."""


def command_line() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train and measure judges.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"training.commands.{name}").add_parser(commands)
    return parser


def main() -> None:
    args = command_line().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every request
    try:
        import_module(f"training.commands.{args.command.replace('-', '_')}").run(args)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import_module("training.stages.run").leave_together()
    except (*EXPECTED, ExceptionGroup) as error:
        sys.exit(f"error: {sentence(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was saved is kept")


def sentence(error: Exception) -> str:
    """What a user is told. Raises an error again that nobody expected: its traceback says more."""
    while isinstance(error, ExceptionGroup):  # the first of several workers that met the same
        error = error.exceptions[0]
    if not isinstance(error, EXPECTED):
        raise error
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space, then start again; what was saved is kept" if full else "check the path and its rights"
    return f"{where}{error.strerror or error}; {remedy}."


if __name__ == "__main__":
    main()
