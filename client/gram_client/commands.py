"""What the commands that write a file share: their options, how they begin, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from gram_client.errors import ScoringError
from gram_client.files import Done, FileProblem
from gram_client.transport import DEFAULT_URL


def add_run_options(parser: argparse.ArgumentParser, unit: str) -> None:
    """Where the service is and how the run goes; `unit` is what --at-once counts."""
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    parser.add_argument("--judge", help="name of the judge (default: the service's)")
    parser.add_argument("--at-once", type=int, default=8, help=f"{unit} at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds of a request with its retries (600)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew although the output exists")
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Raises `FileProblem` naming the options unless each is at least 1."""
    if min(getattr(options, name) for name in names) < 1:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise FileProblem(f"{listed}: at least 1.")


def carried_out(work: Callable[[], Done], output: Path, overwrite: bool) -> Done | int:
    """What `work` wrote to `output`; or, with the reason on stderr, the exit status of a command that did not end well:
    1 where a server ended it, 2 for a file or an option that cannot be used, 130 where a person did."""
    go_on = f"What was done is in {output}; run the command again to go on."
    try:
        if overwrite:
            output.unlink(missing_ok=True)
        return work()
    except (FileProblem, ValueError, OSError) as problem:
        print(problem, file=sys.stderr)
        return 2
    except ScoringError as error:
        print(f"{error}\n{go_on}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped. {go_on}", file=sys.stderr)
        return 130
