"""A Dockerfile as data: its instructions in order, each with its line, and those that lead to one target.

Reads what this project's Dockerfile uses (continued lines, comments, stages built on stages); heredocs and build
arguments are refused rather than misread.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass


class DockerfileError(ValueError):
    """Something this reader does not know."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: ``keyword`` in capitals, ``value`` with continued lines joined, the ``line`` it begins on."""

    keyword: str
    value: str
    line: int

    @property
    def arguments(self) -> list[str]:
        """The JSON array of ENTRYPOINT, CMD, SHELL. Raises `DockerfileError` for the shell form."""
        try:
            found = json.loads(self.value)
        except ValueError as error:
            raise DockerfileError(f"line {self.line}: {self.keyword} needs its JSON form") from error
        return [str(item) for item in found]

    @property
    def variables(self) -> dict[str, str]:
        """What ENV or LABEL sets."""
        pairs = [word.partition("=") for word in shlex.split(self.value)]
        return {name: value for name, _, value in pairs}

    @property
    def commands(self) -> list[str]:
        """The shell commands of a RUN that are joined by ``&&``."""
        return [command.strip() for command in self.value.split("&&")]


@dataclass(frozen=True, slots=True)
class Stage:
    """A build stage: its own instructions, without FROM."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


def read_stages(text: str) -> dict[str, Stage]:
    """The stages by name. Raises `DockerfileError`."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(text):
        if instruction.keyword == "FROM":
            found = re.fullmatch(r"(\S+)\s+AS\s+(\S+)", instruction.value)
            if found is None:
                raise DockerfileError(f"line {instruction.line}: a stage needs a name (FROM image AS name)")
            base, name = found.groups()
            stages[name] = Stage(name, base, ())
        elif not stages:
            raise DockerfileError(f"line {instruction.line}: {instruction.keyword} before any FROM")
        else:
            stage = stages[name]
            stages[name] = Stage(name, stage.base, (*stage.instructions, instruction))
    return stages


def steps_to(stages: dict[str, Stage], target: str) -> tuple[str, list[Instruction]]:
    """The image that the target begins with, and every instruction from there to the target."""
    if target not in stages:
        raise DockerfileError(f"no stage is named {target}; there are {', '.join(stages)}")
    stage, steps = stages[target], list[Instruction]()
    while True:
        steps = [*stage.instructions, *steps]
        if stage.base not in stages:
            return stage.base, steps
        stage = stages[stage.base]


def _instructions(text: str) -> list[Instruction]:
    found, parts, first = list[Instruction](), list[str](), 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not parts and not line.strip()):
            continue
        first = first if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if line.rstrip().endswith("\\"):
            continue
        found.append(_instruction(" ".join(parts), first))
        parts = []
    if parts:
        raise DockerfileError(f"line {first}: the last line is continued")
    return found


def _instruction(text: str, line: int) -> Instruction:
    keyword, _, value = text.partition(" ")
    if keyword == "ARG" or "<<" in value:
        raise DockerfileError(f"line {line}: {keyword} with arguments of the build or a heredoc is not understood")
    return Instruction(keyword.upper(), value.strip(), line)
