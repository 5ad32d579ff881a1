"""The command line: what it prints, what it refuses, how it stops."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from service.auth import ApiKey, Authenticator
from service.errors import StartupError, Unauthenticated
from service.server import bound_socket, raise_file_limit
from service.settings import load_settings
from service.startup import load_manifest

FAKE = ["--engine", "fake", "--store", "memory", "--port", "0"]


@contextmanager
def served(
    root: Path, tmp_path: Path, *arguments: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m service serve` on the fake engine, once its banner is out."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRAM_")}
    environment |= {"XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": str(root)} | variables
    command = [sys.executable, "-m", "service", "serve", *FAKE, *arguments]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            banner = ""
            while "curl" not in banner:
                line = process.stdout.readline() if process.stdout else ""
                assert line or process.poll() is None, "it ended without a banner"
                banner += line
            yield process, banner
        finally:
            process.kill()


@pytest.mark.slow
def test_the_printed_curl_works_and_sigterm_stops_cleanly(root: Path, tmp_path: Path) -> None:
    with served(root, tmp_path) as (process, banner):
        curl = next(line for line in banner.splitlines() if "curl" in line)
        answer = json.loads(subprocess.run(shlex.split(curl), check=True, capture_output=True, timeout=30).stdout)
        assert answer["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def ask(url: str, answers: list[int]) -> threading.Thread:
    """A request whose status is noted when it comes; 0 where the connection was cut."""

    def post() -> None:
        body = {"prompt": "q", "response_a": "a", "response_b": "b"}
        try:
            answers.append(httpx.post(f"{url}/compare", json=body, timeout=30, trust_env=False).status_code)
        except httpx.TransportError:
            answers.append(0)

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def until_inside(url: str, count: int) -> None:
    text = f"gram_engine_unfinished {count}.0"
    while text not in httpx.get(f"{url}/metrics", trust_env=False).text:
        time.sleep(0.01)


def until_draining(url: str) -> None:
    """Or until it has drained, and is gone."""
    with suppress(httpx.TransportError):
        while httpx.get(f"{url}/readyz", trust_env=False).status_code != 503:
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("drain_s", "signals", "status", "answered"), [(10.0, 1, 0, 200), (0.2, 1, 1, 503), (10.0, 2, 1, 0)]
)
def test_the_exit_status_says_whether_requests_were_cut_off(
    root: Path, tmp_path: Path, drain_s: float, signals: int, status: int, answered: int
) -> None:
    """In time; out of time; and stopped by a second signal, which waits for nobody."""
    slow = {"GRAM_ENGINE__DELAY_S": "1.5", "GRAM_SERVER__DRAIN_S": str(drain_s)}
    with served(root, tmp_path, **slow) as (process, banner):
        url, answers = re.findall(r"http://[\d.:]+", banner)[0], list[int]()
        thread = ask(url, answers)
        until_inside(url, 2)
        process.send_signal(signal.SIGTERM)
        until_draining(url)
        if signals == 2:
            process.send_signal(signal.SIGTERM)
        assert process.wait(15) == status
        thread.join()
        assert answers == [answered]


@pytest.mark.slow
def test_while_it_drains_new_requests_are_sent_elsewhere(root: Path, tmp_path: Path) -> None:
    """They find the port open and a reason, until those inside are done."""
    with served(root, tmp_path, GRAM_ENGINE__DELAY_S="1.5") as (process, banner):
        url, answers = re.findall(r"http://[\d.:]+", banner)[0], list[int]()
        thread = ask(url, answers)
        until_inside(url, 2)
        process.send_signal(signal.SIGTERM)
        until_draining(url)
        body = {"prompt": "q", "response_a": "a", "response_b": "b"}
        reply = httpx.post(f"{url}/compare", json=body, trust_env=False)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
        assert int(reply.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
        assert process.wait(15) == 0
        thread.join()
        assert answers == [200]


@pytest.mark.slow
def test_an_engine_that_failed_for_good_ends_the_process(root: Path, tmp_path: Path) -> None:
    dies = json.dumps([{"kind": "die", "after_s": 0.5}])
    with served(root, tmp_path, GRAM_ENGINE__FAULTS=dies, GRAM_RECOVERY__ON_FAILURE="exit") as (process, _):
        assert process.wait(20) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "status"), [("start_failure", 2), ("slow_start", 130)])
def test_a_start_that_fails_or_is_interrupted_opens_no_port(
    root: Path, tmp_path: Path, fault: str, status: int
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRAM_")}
    faults = json.dumps([{"kind": fault, "at_start": 1, "for_s": 60}])
    environment |= {"XDG_STATE_HOME": str(tmp_path), "GRAM_ENGINE__FAULTS": faults}
    command = [sys.executable, "-m", "service", "serve", *FAKE]
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("starting the engine" in line for line in process.stderr)
        if fault == "slow_start":
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == status
        said = process.stderr.read()
        assert ("Cannot start: The fake engine was told to fail" in said) == (status == 2)


@pytest.mark.slow
def test_with_keys_the_curl_shows_where_the_key_goes(root: Path, tmp_path: Path) -> None:
    keys = json.dumps([{"id": "me", "sha256": "0" * 64}])
    with served(root, tmp_path, GRAM_AUTH__KEYS=keys) as (process, banner):
        assert "-H 'Authorization: Bearer YOUR-KEY'" in banner
        url = re.search(r"http://[\d.:]+", banner)
        assert url is not None
        assert httpx.get(f"{url[0]}/models").status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_wrong_model_path_ends_the_start_with_one_sentence(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--model", str(tmp_path / "nowhere"), "--port", "0"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRAM_")} | {"XDG_STATE_HOME": str(tmp_path)}
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("Cannot start: There is no model directory")
    assert "--model" in ended.stderr


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("GRAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_an_address_in_use_is_known_before_the_model_loads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(StartupError, match="choose another"):
        bound_socket("127.0.0.1", other.getsockname()[1])
    with pytest.raises(StartupError, match="Cannot listen"):
        bound_socket("not-a-host.invalid", 1)


def test_a_bound_socket_refuses_callers_until_it_serves() -> None:
    with bound_socket("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname(), 1)


def test_check_config_names_the_judges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--engine", "fake"]) == 0
    assert "gram (gram), gram_r2 (gram_r2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine\n", "not valid TOML"),
        ("[enigne]\ntype = 'fake'\n", "enigne"),
        ("[engine]\ntype = 'fake'\nmodle = 'x'\n", "modle"),
        ("[server]\nhost = '0.0.0.0'\n[engine]\ntype = 'fake'\n", "add auth.keys"),
        ("[[judges]]\nname = 'x'\nfamily = 'gran'\n[engine]\ntype = 'fake'\n", "choose one of gram"),
        ("[[judges]]\nname = 'x'\nfamily = 'gram'\ntemplate = 'y'\n[engine]\ntype = 'fake'\n", "choose one of eval"),
        ("[auth]\nsecret = 'short-secret'\n", "auth.secret"),
    ],
)
def test_wrong_configuration_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    assert main(["check-config", "--config", str(config)]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert "short-secret" not in printed


def test_a_manifest_that_does_not_parse_stops_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "judge.json").write_text("{")
    assert main(["check-config", "--model", str(tmp_path)]) == 2
    assert "judge.json is not valid JSON" in capsys.readouterr().err


def test_a_checkpoint_without_manifest_asks_for_its_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["check-config", "--model", str(tmp_path)]) == 2
    assert "--family" in capsys.readouterr().err
    assert main(["check-config", "--model", str(tmp_path), "--family", "gram"]) == 0


def test_a_hub_id_is_no_missing_directory() -> None:
    assert load_manifest(load_settings(None, {"engine": {"model": "someone/some-judge"}})) is None


def test_new_keys_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["new-key", "--id", "trainer", "--scope", "score", "--scope", "queue"]) == 0
    printed = capsys.readouterr().out
    key = printed.splitlines()[0].split()[-1]
    config = tmp_path / "keys.toml"
    config.write_text(printed)
    (stored,) = load_settings(config).auth.keys
    assert stored.scopes == {"score", "queue"}
    gate = Authenticator([ApiKey(stored.id, stored.sha256, stored.scopes)])
    assert gate.authenticate(f"Bearer {key}").key_id == "trainer"
    with pytest.raises(Unauthenticated):
        gate.authenticate(f"Bearer {key}x")


def test_a_new_key_may_have_an_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["new-key", "--id", "visitor", "--days", "30"]) == 0
    config = tmp_path / "keys.toml"
    config.write_text(capsys.readouterr().out)
    (stored,) = load_settings(config).auth.keys
    assert stored.expires is not None
    assert 29.9 < (stored.expires - datetime.now(UTC)) / timedelta(days=1) < 30.1


def test_openapi_is_printed_as_it_is_checked_in(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out == (root / "openapi.json").read_text()


def test_more_files_may_be_open_than_a_shell_allows_and_never_fewer() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        for wanted in (512, 300):
            raise_file_limit(wanted)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
