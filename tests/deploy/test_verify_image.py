"""The image's own steps, run here: the cheap ones as they stand, and defects that the check must find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.verify_image import main

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def verify(text: str, folder: Path) -> int:
    (folder / "Dockerfile").write_text(text)
    return main(["--without-install", "--dockerfile", str(folder / "Dockerfile")])


@pytest.mark.slow
def test_the_steps_make_a_service_that_starts_answers_and_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = verify(TEXT, tmp_path)
    said = capsys.readouterr()
    assert status == 0, said.err
    shown, _, hidden = said.out.partition("Not shown by this run:")
    for line in (
        "RUN         ran: python",
        "without keys",
        "HEALTHCHECK   passes",
        "/compare      answers",
        "SIGTERM       ends",
    ):
        assert line in shown
    assert "served by user 0" not in shown
    for limit in (
        "the base image python:3.11-slim-bookworm",
        "`apt-get install",
        "`useradd",
        "`pip install",
        "the fake one",
    ):
        assert limit in hidden


@pytest.mark.slow
def test_a_health_check_that_always_passes_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, tail = TEXT.partition("  CMD [")
    check, _, rest = tail.partition("]\n")
    assert json.loads(f"[{check}]")[0] == "python"
    assert verify(f'{head}  CMD ["true"]\n{rest}', tmp_path) == 1
    assert "the HEALTHCHECK passes although nothing runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("USER 10001:10001", "USER root", "would run as root"),
        ("USER 10001:10001\n", "", "would run as root"),
        ("COPY service/ service/", "COPY tests/ tests/", ".dockerignore keeps tests/ out"),
        ("RUN python -m compileall -q service", "RUN curl example.org", "`curl example.org` may run outside an image"),
        ("RUN python -m compileall -q service", "RUN python -m no_such_module", "ended with 1"),
        ("EXPOSE 8000", "ONBUILD RUN x", "what ONBUILD means"),
    ],
)
def test_steps_that_are_wrong_or_unknown_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, complaint: str
) -> None:
    assert old in TEXT
    assert verify(TEXT.replace(old, new), tmp_path) == 1
    assert complaint in capsys.readouterr().err
