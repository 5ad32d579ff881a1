"""`python -m deploy.sbom`: the bill of materials of what the service runs on, in CycloneDX.

The tool reads an installed environment, which also holds tests and checks; only what a requirements file names is kept
(and, with `--closure`, what that needs). A pin that is missing or installed in another version is an error: such a bill
would be of something else than what is shipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


class Incomplete(Exception):
    """The environment is not what the requirements say."""


def wanted(text: str) -> Iterator[Requirement]:
    """The requirements of a file that apply to this machine."""
    for line in text.splitlines():
        if name := line.partition("#")[0].strip():
            requirement = Requirement(name)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def narrowed(bill: dict[str, Any], requirements: list[Requirement], closure: bool) -> dict[str, Any]:
    """The bill with only what is shipped. Raises `Incomplete` naming every pin that the environment does not keep."""
    components = {canonicalize_name(part["name"]): part for part in bill["components"]}
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    wrong = [
        str(requirement)
        for name, requirement in zip(names, requirements, strict=True)
        if name not in components or not requirement.specifier.contains(components[name]["version"], prereleases=True)
    ]
    if wrong:
        raise Incomplete(f"the environment does not hold {', '.join(wrong)}; install the requirements first")
    needs = {edge["ref"]: edge.get("dependsOn", []) for edge in bill["dependencies"]}
    roots = sorted(components[name]["bom-ref"] for name in names)
    kept = _reachable(roots, needs) if closure else set(roots)
    root = bill["metadata"]["component"]["bom-ref"]
    edges = [{"ref": root, "dependsOn": roots}]
    edges += [{"ref": ref, "dependsOn": [to for to in needs.get(ref, []) if to in kept]} for ref in sorted(kept)]
    parts = [part for part in bill["components"] if part["bom-ref"] in kept]
    return bill | {"components": parts, "dependencies": edges}


def _reachable(roots: list[str], needs: dict[str, list[str]]) -> set[str]:
    found, todo = set[str](), list(roots)
    while todo:
        if (ref := todo.pop()) not in found:
            found.add(ref)
            todo += needs.get(ref, [])
    return found


def read_environment(tool: str, python: str) -> dict[str, Any]:
    """What the tool says of an environment. Raises `subprocess.CalledProcessError`."""
    command = [tool, "environment", "--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    command += ["--output-reproducible", "--of", "JSON", python]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where the environment is not the one that is shipped."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description=__doc__.partition("\n")[0])
    parser.add_argument("--tool", default="cyclonedx-py", help="the program of cyclonedx-bom")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to read")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements/cpu.txt")
    parser.add_argument(
        "--closure", action="store_true", help="also keep what they need: for files that are not complete"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build/sbom.cdx.json")
    options = parser.parse_args(arguments)
    requirements = list(wanted(options.requirements.read_text(encoding="utf-8")))
    try:
        bill = narrowed(read_environment(options.tool, options.python), requirements, options.closure)
    except (Incomplete, subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"No bill of materials: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(bill['components'])} components of {options.requirements.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
