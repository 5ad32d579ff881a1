"""Building an image's steps in a folder: what each instruction does there, and what is left out and why.

Nothing outside the folder is changed. A command that nobody has looked at is refused rather than run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.dockerfile import Instruction

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = {
    "apt-get": "installs packages into the base image",
    "rm": "cleans up after apt-get",
    "useradd": "the process changes to the number that USER names instead, without an entry in the user database",
    "install": "its directories are made in the scratch folder instead",
}
"""Commands that change a system, with what happens here instead."""
SILENT = frozenset({"LABEL", "EXPOSE", "VOLUME"})
"""Instructions that say something about the image and run nothing."""


class Failed(Exception):
    """A step did not do what the image needs."""


@dataclass
class Image:
    """What building has collected so far. ``folder`` holds it all, ``app`` is the image's working directory in it."""

    folder: Path
    python: Path
    user: str = ""
    app: Path = field(init=False)
    variables: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    not_shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = self.folder / "root"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: the image's own variables and nothing of this shell's but where packages come from."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        path = f"{self.folder / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin"
        return pip | {"PATH": path, "HOME": str(self.folder / "home")} | self.variables

    def inside(self, path: str) -> Path:
        """Where an absolute path of the image lies here."""
        return self.folder / "root" / path.lstrip("/")

    def run(self, command: Sequence[str], user: str) -> None:
        """Raises `Failed` with the end of what the command said."""
        done = subprocess.run(
            [*as_user(user), *command], cwd=self.app, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{shlex.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def as_user(user: str) -> list[str]:
    """What to put before a command so that it runs as ``uid:gid`` without any rights; nothing for who is not root."""
    if os.geteuid() != 0:
        return []
    uid, _, gid = user.partition(":")
    drop = ["--clear-groups", "--inh-caps=-all", "--no-new-privs"]
    # setpriv has root's rights until its command runs, and could start what is closed to the user; env cannot.
    return ["setpriv", "--reuid", uid, "--regid", gid, *drop, "env"]


def find_python(user: str, version: tuple[int, int] | None = None) -> Path:
    """An interpreter that this user may run and that can make environments. Raises `Failed`.

    ``version``: only of that one, because the packages it is to use were built for it.
    """
    versions = [version] if version else [(3, 11), (3, 12), (3, 13)]
    names = [f"python{major}.{minor}" for major, minor in versions]
    places = [sys.executable, *(found for name in names if (found := shutil.which(name)))]
    places += [f"{folder}/{name}" for folder in ("/usr/bin", "/usr/local/bin") for name in names]
    check = f"import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in {versions!r})"
    for place in places:
        with suppress(OSError):
            if subprocess.run([*as_user(user), place, "-c", check], cwd="/", capture_output=True).returncode == 0:
                return Path(place)
    raise Failed(
        f"No {' or '.join(names)} with its venv module can be run by user {user}; install one outside root's home "
        "(apt-get install python3-venv), or run this as a plain user."
    )


def build(image: Image, steps: Sequence[Instruction], install: bool) -> None:
    """Carry out the steps, one line of output each. Raises `Failed`."""
    for step in steps:
        if step.keyword in SILENT:
            continue
        began = time.monotonic()
        notes = list(_carry_out(image, step, install)) or ["done"]
        print(f"line {step.line:3} {step.keyword:11} {'; '.join(notes)} ({time.monotonic() - began:.1f} s)", flush=True)


def _carry_out(image: Image, step: Instruction, install: bool) -> Iterator[str]:
    """One instruction; yields what is worth saying about it."""
    if step.keyword == "ENV":
        paths = {"/state": image.inside("/state")}
        image.variables |= {name: str(paths.get(value, value)) for name, value in step.variables.items()}
    elif step.keyword == "WORKDIR":
        image.app = image.inside(step.value)
        image.app.mkdir(parents=True, exist_ok=True)
        give(image.app, image.user)
    elif step.keyword == "COPY":
        yield copy(image, step)
    elif step.keyword == "RUN":
        for command in step.commands:
            yield _run(image, command, install)
    elif step.keyword == "HEALTHCHECK":
        image.health = Instruction("CMD", step.value.partition("CMD ")[2], step.line).arguments
    elif step.keyword in ("ENTRYPOINT", "CMD"):
        image.entrypoint += step.arguments
    elif step.keyword != "USER":
        raise Failed(f"line {step.line}: nobody has said here what {step.keyword} means; add it to deploy/image.py")


def _run(image: Image, command: str, install: bool) -> str:
    """One command of a RUN: done, or left out with the reason."""
    name = command.split()[0]
    if name in SYSTEM:
        image.not_shown.append(f"`{command}`: {SYSTEM[name]}")
        if name == "install":
            made = image.inside(shlex.split(command)[-1])
            made.mkdir(parents=True, exist_ok=True)
            give(made, image.user)
        return f"left out: {name}"
    if name == "pip" and not install:
        image.not_shown.append(f"`{command}`: takes minutes; the packages of {sys.executable} are used instead")
        return f"left out: {name}"
    if name not in ("pip", "python"):
        raise Failed(f"nobody has said here whether `{command}` may run outside an image; add it to deploy/image.py")
    image.run(["sh", "-ec", command], image.user)
    return f"ran: {name}"


def copy(image: Image, step: Instruction) -> str:
    """Files of the build context, if .dockerignore lets them in. Raises `Failed`."""
    *sources, target = step.value.split()
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    ]
    for source in sources:
        if not any(source.startswith(prefix) for prefix in allowed):
            raise Failed(f"line {step.line}: .dockerignore keeps {source} out of the build")
        if source.endswith("/"):
            shutil.copytree(ROOT / source, image.app / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (image.app / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, image.app / target)
    give(image.app, image.user)
    return f"copied: {' '.join(sources)}"


def give(path: Path, user: str) -> None:
    """Hand a folder and all in it to ``uid:gid``; root alone can."""
    if os.geteuid() == 0:
        uid, _, gid = user.partition(":")
        for entry in (path, *path.rglob("*")):
            os.chown(entry, int(uid), int(gid), follow_symlinks=False)


def make_environment(image: Image, install: bool) -> None:
    """The new virtual environment and the empty home."""
    for name in ("home", "venv", "root"):
        (image.folder / name).mkdir()
        give(image.folder / name, image.user)
    pip = [] if install else ["--without-pip"]
    image.run([str(image.python), "-m", "venv", *pip, str(image.folder / "venv")], image.user)
    if not install:
        (site,) = (image.folder / "venv/lib").glob("python3.*/site-packages")
        borrowed = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
