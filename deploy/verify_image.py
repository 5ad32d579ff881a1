"""`python -m deploy.verify_image`: run an image's own steps where there is no container engine.

The steps are read from the Dockerfile itself: what it installs, copies, sets and starts happens in a scratch folder, in
a new virtual environment, with an empty home, as the plain user that the image names (root changes to that user;
anybody else is a plain user already). What touches the system - packages of the base image, its user database, its root
directory - is not run; every such step is listed with what stands in for it, because a check that hides its limits is
worse than none. Installing takes minutes; `--without-install` takes the running interpreter's packages and the fake
engine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.dockerfile import DockerfileError, read_stages, steps_to
from deploy.image import ROOT, Failed, Image, as_user, build, find_python, give, make_environment

START_S = 600.0
"""For a model to load; with the fake engine it takes seconds."""
STOP_S = 60.0
LINGER_S = 5.0
"""How long processes of the engine may outlive the service: that of Python, which keeps account of what others shared,
sees their end and then ends."""
PAIR = b'{"prompt": "What is 7 + 5?", "response_a": "7 + 5 = 12.", "response_b": "7 + 5 = 13."}'
NEVER_SHOWN = (
    "the base image {image}: its own Python, its C library and its system packages",
    "that the layers build, are cached, and how large the image is",
    "a root directory that cannot be written to, and limits of memory or devices that a container engine sets",
)


def command_of(image: Image) -> list[str]:
    """What the image starts; without its init process where that is not installed here."""
    if shutil.which(image.entrypoint[0]) or image.entrypoint[0] == "python":
        return image.entrypoint
    rest = image.entrypoint[image.entrypoint.index("--") + 1 :]
    image.not_shown.append(
        f"{image.entrypoint[0]} as process 1: it is not installed here; {rest[0]} is started by itself"
    )
    return rest


def check_refusal(image: Image) -> None:
    """As the image is, without any key, it must not serve everybody. Raises `Failed`."""
    done = subprocess.run(
        [*as_user(image.user), *command_of(image)],
        cwd=image.app, env=image.environment, capture_output=True, text=True, timeout=START_S,
    )  # fmt: skip
    if done.returncode != 2 or "auth.keys" not in done.stderr:
        raise Failed(
            f"without keys the image should refuse to start; it ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    print("without keys  it refuses to listen on all addresses, and says why", flush=True)


@contextmanager
def served(image: Image, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command, in a session of its own that is ended however this ends."""
    log = image.folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*as_user(image.user), *command_of(image)],
            cwd=image.app, env=image.environment | more, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_service(image: Image, install: bool) -> None:
    """Start, be found healthy by the image's own check, answer, stop cleanly. Raises `Failed`."""
    more = {"GRAM_SERVER__HOST": "127.0.0.1", "GRAM_SERVER__PORT": str(free_port())}
    if not install:
        image.variables.pop("GRAM_ENGINE__DEVICE")
        more["GRAM_ENGINE__TYPE"] = "fake"
        image.not_shown.append("the engine that the image sets; the fake one is used instead")
    with served(image, more) as process:
        seconds = wait_until_healthy(image, process, more)
        print(f"HEALTHCHECK   passes after {seconds:.1f} s", flush=True)
        uid = (Path("/proc") / str(process.pid)).stat().st_uid
        if uid == 0:
            raise Failed("the service runs as root")
        print(f"/compare      answers, served by user {uid}: {ask(more['GRAM_SERVER__PORT'])[:60]}..", flush=True)
        process.send_signal(signal.SIGTERM)
        began, status = time.monotonic(), process.wait(STOP_S)
        ended = time.monotonic()
        while (left := _session_of(process.pid)) and time.monotonic() - ended < LINGER_S:
            time.sleep(0.05)
        if status or left:
            found = "; ".join(_command(pid) for pid in left)
            raise Failed(f"SIGTERM ended the service with {status} and left processes ({found}):\n{_log(image)}")
        gone = time.monotonic() - ended
        print(f"SIGTERM       ends it with 0 after {ended - began:.1f} s, its processes {gone:.2f} s later", flush=True)
    if is_healthy(image, more):
        raise Failed("the HEALTHCHECK passes although the service has ended")
    written = sorted(path.name for path in (image.folder / "home").iterdir())
    print(f"home          was empty; now holds {', '.join(written) or 'nothing'}", flush=True)


def ask(port: str) -> str:
    """One comparison. Raises `Failed`."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/compare", PAIR, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())
    except OSError as error:
        raise Failed(f"the service is healthy, but does not judge: {error}") from error


def wait_until_healthy(image: Image, process: subprocess.Popen[bytes], more: dict[str, str]) -> float:
    """Seconds it took. Raises `Failed`."""
    began = time.monotonic()
    while not is_healthy(image, more):
        if process.poll() is not None or time.monotonic() - began > START_S:
            raise Failed(f"the service did not become healthy:\n{_log(image)}")
        time.sleep(0.5)
    return time.monotonic() - began


def is_healthy(image: Image, more: dict[str, str]) -> bool:
    """What the image's HEALTHCHECK says."""
    command = [*as_user(image.user), *image.health]
    return subprocess.run(command, cwd=image.app, env=image.environment | more, capture_output=True).returncode == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _session_of(leader: int) -> list[str]:
    """Processes of the session that `leader` began, by number; without dead ones that nobody has buried yet."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and _session(pid) == leader]


def _session(pid: str) -> int | None:
    try:
        state, _, _, session = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def _command(pid: str) -> str:
    with suppress(OSError):
        words = (Path("/proc") / pid / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} {words[:100].strip() or 'of no command line'}"
    return f"{pid} gone since"


def _log(image: Image) -> str:
    return (image.folder / "service.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def verify(dockerfile: Path, target: str, install: bool, folder: Path) -> None:
    """All of it. Raises `Failed` and `DockerfileError`."""
    base, steps = steps_to(read_stages(dockerfile.read_text(encoding="utf-8")), target)
    users = [step.value for step in steps if step.keyword == "USER"]
    if not users or users[-1].partition(":")[0] in ("0", "root"):
        raise Failed("the image would run as root: its last USER must be a plain one, by number")
    folder.chmod(0o755)  # for the plain user to come through
    image = Image(folder, find_python(users[-1], None if install else sys.version_info[:2]), users[-1])
    print(
        f"target {target}, user {image.user if os.geteuid() == 0 else os.geteuid()}, {image.python}, in {folder}",
        flush=True,
    )
    make_environment(image, install)
    build(image, steps, install)
    give(image.app, "0:0")  # as in the image: the user that serves cannot change what is served
    if is_healthy(image, {"GRAM_SERVER__PORT": str(free_port())}):
        raise Failed("the HEALTHCHECK passes although nothing runs")
    check_refusal(image)
    check_service(image, install)
    print("\nNot shown by this run:")
    for line in (*(text.format(image=base) for text in NEVER_SHOWN), *dict.fromkeys(image.not_shown)):
        print(f"- {line}")


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 with the step that failed."""
    parser = argparse.ArgumentParser(prog="python -m deploy.verify_image", description=__doc__.partition("\n")[0])
    parser.add_argument("--dockerfile", type=Path, default=ROOT / "Dockerfile")
    parser.add_argument("--target", default="cpu", help="the stage to build (default cpu; gpu needs a GPU and 30 GB)")
    parser.add_argument(
        "--without-install", action="store_true", help="seconds instead of minutes: no pip, fake engine"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gram-image-", ignore_cleanup_errors=True) as folder:
        try:
            verify(options.dockerfile, options.target, not options.without_install, Path(folder))
        except (Failed, DockerfileError) as error:
            print(f"The image's steps fail: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
