"""The bill of materials: what is shipped and nothing else, or an error."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from deploy.sbom import Incomplete, main, narrowed, wanted

ROOT = Path(__file__).resolve().parents[2]


def bill(*parts: str, edges: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """As the tool writes it: parts are name==version."""
    components = [
        {"bom-ref": part, "name": part.partition("==")[0], "version": part.partition("==")[2]} for part in parts
    ]
    dependencies = [{"ref": part, "dependsOn": (edges or {}).get(part, [])} for part in parts]
    root = {"ref": "root", "dependsOn": list(parts)}
    return {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": components,
        "dependencies": [root, *dependencies],
    }


def names(found: dict[str, Any]) -> list[str]:
    return [part["bom-ref"] for part in found["components"]]


def test_tools_stay_out_and_no_edge_points_outside() -> None:
    whole = bill("a==1", "b_c==2", "pytest==9", edges={"a==1": ["b_c==2", "pytest==9"]})
    found = narrowed(whole, [Requirement("A==1"), Requirement("b-c==2")], closure=False)
    assert names(found) == ["a==1", "b_c==2"]
    assert found["dependencies"] == [
        {"ref": "root", "dependsOn": ["a==1", "b_c==2"]},
        {"ref": "a==1", "dependsOn": ["b_c==2"]},
        {"ref": "b_c==2", "dependsOn": []},
    ]


def test_a_closure_holds_what_is_needed_and_ends_in_circles() -> None:
    whole = bill(
        "a==1", "b==2", "c==3", "pytest==9", edges={"a==1": ["b==2"], "b==2": ["c==3", "a==1"], "pytest==9": ["a==1"]}
    )
    assert names(narrowed(whole, [Requirement("a==1")], closure=True)) == ["a==1", "b==2", "c==3"]


@pytest.mark.parametrize("pin", ["a==2", "z==1"])
def test_an_environment_that_is_not_the_shipped_one_has_no_bill(pin: str) -> None:
    with pytest.raises(Incomplete, match=pin):
        narrowed(bill("a==1"), [Requirement(pin)], closure=False)


def test_the_shipped_list_is_read_for_this_machine() -> None:
    text = "# head\nhere==1  # why\nnever==1 ; python_version < '3'\n"
    assert [str(requirement) for requirement in wanted(text)] == ["here==1"]
    assert len(list(wanted((ROOT / "requirements/cpu.txt").read_text(encoding="utf-8")))) > 90


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in for the tool says what an environment holds; `make sbom` asks the real one."""
    (tmp_path / "bill.json").write_text(json.dumps(bill("a==1", "pytest==9")))
    tool = tmp_path / "tool"
    said = f"print(open({str(tmp_path / 'bill.json')!r}).read())"
    tool.write_text(f"#!{sys.executable}\nimport sys\nassert sys.argv[1] == 'environment'\n{said}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "shipped.txt").write_text("a==1\n")
    arguments = [
        "--tool",
        str(tool),
        "--requirements",
        str(tmp_path / "shipped.txt"),
        "--output",
        str(tmp_path / "out/sbom.json"),
    ]
    assert main(arguments) == 0
    assert "1 components of shipped.txt" in capsys.readouterr().out
    assert names(json.loads((tmp_path / "out/sbom.json").read_text())) == ["a==1"]
    (tmp_path / "shipped.txt").write_text("a==2\n")
    assert main(arguments) == 1
    assert "install the requirements first" in capsys.readouterr().err
