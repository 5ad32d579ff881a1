"""The compose file, against the schema of its specification; tests/architecture/test_house.py looks at what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_jsonschema import main
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def check(path: Path) -> tuple[int, str]:
    """Exit status and findings; the schema comes with the tool."""
    done = CliRunner().invoke(main, ["--builtin-schema", "vendor.compose-spec", str(path)])
    return done.exit_code, done.output


def test_the_compose_file_is_what_the_specification_says() -> None:
    assert check(ROOT / "docker-compose.yml") == (0, "ok -- validation done\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [("depends_on:", "depend_on:"), ("profiles: [gpu]", "profiles: gpu"), ("interval: 2s", "intervall: 2s")],
)
def test_a_mistake_is_found(tmp_path: Path, old: str, new: str) -> None:
    assert old in TEXT
    (tmp_path / "docker-compose.yml").write_text(TEXT.replace(old, new))
    status, said = check(tmp_path / "docker-compose.yml")
    assert status == 1
    assert "Schema validation errors" in said
