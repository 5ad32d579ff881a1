"""``python -m benchmarks [NAME]``: run one measurement, or throughput."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from types import FrameType, ModuleType

from benchmarks import (
    adaptive,
    client,
    commit,
    deadlines,
    defects,
    disconnects,
    drain,
    endurance,
    faults,
    generation,
    health,
    heldout,
    hostile,
    kill,
    load,
    openrlhf,
    padding,
    prefix,
    repeatability,
    saturation,
    soak,
    startup,
    throughput,
    train,
    votes,
)
from benchmarks.figures import DOCS, INTRODUCTION

SERVICE = (
    throughput,
    prefix,
    heldout,
    votes,
    repeatability,
    startup,
    kill,
    faults,
    endurance,
    commit,
    client,
    health,
    openrlhf,
    soak,
    hostile,
    defects,
    adaptive,
)
OVERLOAD = (load, saturation, deadlines, disconnects, drain)
ALL = (*SERVICE, *OVERLOAD, generation, train, padding)
MEASUREMENTS: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in ALL}
WITH_URL = (prefix, heldout, votes)
SOAKS = (soak, hostile, defects)
WITHOUT_MODEL = (endurance, startup, commit, client, health, train, padding, generation, openrlhf, *SOAKS, *OVERLOAD)


def parse(command_line: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, module in MEASUREMENTS.items():
        one = names.add_parser(name, help=(module.__doc__ or "").strip(), description=module.__doc__)
        one.add_argument("--write-docs", action="store_true", help=f"add the result to {DOCS.parent.name}/{DOCS.name}")
        one.add_argument("--strict", action="store_true", help="exit with 1 when a promised figure is missed")
        if module not in WITHOUT_MODEL:
            one.add_argument("--model", help="checkpoint directory (default: the demo judge)")
        if module in WITH_URL:
            one.add_argument("--url", help="a running service (default: one is started)")
        module.add_arguments(one)
    known = [*MEASUREMENTS, "-h", "--help"]
    wanted = list(command_line)
    return parser.parse_args(wanted if wanted and wanted[0] in known else ["throughput", *wanted])


def main() -> int:
    arguments = parse(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = MEASUREMENTS[arguments.name].run(arguments)
    report.show()
    if arguments.write_docs:
        page = getattr(MEASUREMENTS[arguments.name], "DOCS", DOCS)
        introduction = getattr(MEASUREMENTS[arguments.name], "INTRODUCTION", INTRODUCTION)
        report.append_to(page, introduction)
    return int(arguments.strict and not report.holds)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM end the programs under measurement first; a second signal must not cut that short."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
