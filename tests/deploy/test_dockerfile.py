"""The Dockerfile: what the linter says, what it copies, who runs it; and the reader that other checks stand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.dockerfile import DockerfileError, Instruction, read_stages, steps_to

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
TARGETS = ("cpu", "gpu")


def lint(path: Path) -> str:
    """What hadolint finds, notes included; it comes as a program in a wheel of requirements/dev.txt."""
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False).stdout


def steps(target: str) -> list[Instruction]:
    return steps_to(read_stages(TEXT), target)[1]


def test_the_linter_has_nothing_to_say() -> None:
    assert lint(DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("FROM python:3.11-slim-bookworm", "FROM python:latest", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        (" && rm -rf /var/lib/apt/lists/*", "", "DL3009"),
        ("WORKDIR /app", "WORKDIR app", "DL3000"),
    ],
)
def test_the_linter_finds_what_it_looks_for(tmp_path: Path, old: str, new: str, rule: str) -> None:
    assert old in TEXT
    (tmp_path / "Dockerfile").write_text(TEXT.replace(old, new))
    assert rule in lint(tmp_path / "Dockerfile")


@pytest.mark.parametrize("target", TARGETS)
def test_a_plain_user_runs_it_under_an_init_process_with_a_health_check(target: str) -> None:
    (user,) = [step.value for step in steps(target) if step.keyword == "USER"]
    assert user == "10001:10001", "by number: a cluster must see that it is not root"
    (entrypoint,) = [step.arguments for step in steps(target) if step.keyword == "ENTRYPOINT"]
    assert entrypoint == ["tini", "--", "python", "-m", "service", "serve"]
    assert [step.keyword for step in steps(target)].count("HEALTHCHECK") == 1


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_come_before_code_and_are_locked(target: str) -> None:
    """A change of code must not install anything again."""
    shown = [(step.keyword, step.value) for step in steps(target)]
    installs = [number for number, (keyword, value) in enumerate(shown) if keyword == "RUN" and "pip install" in value]
    copies = [number for number, step in enumerate(shown) if step == ("COPY", "service/ service/")]
    assert installs
    assert max(installs) < min(copies)
    for number in installs:
        assert f"-r requirements/{target}.txt" in shown[number][1]


def test_nothing_is_inside_but_the_demo_judges() -> None:
    """Every file that the build copies is tracked, and the weights among them are two small files."""
    sources = {
        word
        for target in TARGETS
        for step in steps(target)
        if step.keyword == "COPY"
        for word in step.value.split()[:-1]
    }
    assert sources == {
        "service/",
        "requirements/cpu.txt",
        "requirements/gpu.txt",
        "requirements/gpu-lock.txt",
        "requirements/floor.txt",
    }
    listed = subprocess.run(["git", "ls-files", "-z", "service"], cwd=ROOT, capture_output=True, text=True, check=True)
    weights = {
        name for name in listed.stdout.split("\0") if Path(name).suffix in {".safetensors", ".bin", ".pt", ".gguf"}
    }
    assert weights == {"service/demo/model.safetensors", "service/demo_reasoning/model.safetensors"}
    assert sum((ROOT / name).stat().st_size for name in weights) <= 16 * 2**20


def test_the_build_context_is_what_is_named() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "*",
        "!requirements/",
        "!service/",
        "**/__pycache__",
    ]


def test_the_reader_joins_lines_and_keeps_their_numbers() -> None:
    stages = read_stages(
        '# head\nFROM a AS b\nRUN one \\\n  # a remark\n && two "x  y"\nENV A=1 B=\'two words\'\n\nCMD ["x"]\n'
    )
    run, env, command = stages["b"].instructions
    assert (run.line, run.commands) == (3, ["one", 'two "x  y"'])
    assert env.variables == {"A": "1", "B": "two words"}
    assert command.arguments == ["x"]


def test_the_reader_follows_stages_to_the_first_image() -> None:
    text = "FROM image:1 AS base\nENV A=1\nFROM base AS mid\nENV A=2\n"
    text += "FROM other AS no\nENV A=9\nFROM mid AS last\nENV A=3\n"
    base, found = steps_to(read_stages(text), "last")
    assert (base, [step.value for step in found]) == ("image:1", ["A=1", "A=2", "A=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV A=1\n", "line 1: ENV before any FROM"),
        ("FROM image\n", "line 1: a stage needs a name"),
        ("FROM a AS b\nARG X\n", "line 2: ARG"),
        ("FROM a AS b\nRUN <<END\nEND\n", "line 2: RUN"),
        ("FROM a AS b\nRUN x \\\n", "line 2: the last line is continued"),
    ],
)
def test_the_reader_refuses_what_it_does_not_know(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        read_stages(text)


def test_the_reader_refuses_shell_forms_and_unknown_targets() -> None:
    stages = read_stages("FROM a AS b\nCMD x y\n")
    with pytest.raises(DockerfileError, match="line 2: CMD needs its JSON form"):
        _ = stages["b"].instructions[0].arguments
    with pytest.raises(DockerfileError, match="no stage is named c; there are b"):
        steps_to(stages, "c")
