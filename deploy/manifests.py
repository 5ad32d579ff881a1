"""`python -m deploy.manifests`: write what kustomize makes of each overlay to deploy/kubernetes/rendered.

The rendered files are what a cluster gets, so they are what tests look at and what a review shows; each says from which
sources it was made, so that a source which changed without them is found where kustomize is not installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "kubernetes"
RENDERED = FOLDER / "rendered"
OVERLAYS = ("cpu", "gpu")
MARK = "# sources sha256: "


def digest(folder: Path = FOLDER) -> str:
    """Of every source file, names included."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and RENDERED.name not in path.relative_to(folder).parts:
            found.update(f"{path.relative_to(folder).as_posix()}\0{path.read_text('utf-8')}\0".encode())
    return found.hexdigest()


def render(overlay: str) -> str:
    """The resources of one overlay, with a header. Raises `subprocess.CalledProcessError` and `FileNotFoundError`."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, check=True
    )
    version = ["kubectl", "version", "--client", "--output=json"]
    by = json.loads(subprocess.run(version, capture_output=True, text=True, check=True).stdout)["kustomizeVersion"]
    head = f"# Written by `make manifests` from overlays/{overlay}, with kustomize {by}: change the sources.\n"
    return f"{head}{MARK}{digest()}\n{done.stdout}"


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where kubectl is not there or refuses."""
    parser = argparse.ArgumentParser(prog="python -m deploy.manifests", description=__doc__.partition("\n")[0])
    parser.parse_args(arguments)
    RENDERED.mkdir(exist_ok=True)
    for overlay in OVERLAYS:
        try:
            text = render(overlay)
        except FileNotFoundError:
            print("kubectl is needed: it carries kustomize; install it and run this again.", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(f"kustomize refuses overlays/{overlay}: {error.stderr.strip()}", file=sys.stderr)
            return 1
        (RENDERED / f"{overlay}.yml").write_text(text, encoding="utf-8")
        print(f"rendered {overlay}.yml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
