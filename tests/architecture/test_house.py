"""The house around the code: one version, pins that fit their ranges, shipped files that load, clean text."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.app import build_app
from service.errors import StartupError
from service.settings import RedisStoreSettings, load_settings
from tests.support.serving import settings_for
from training.recipe_files import load_recipe

ROOT = Path(__file__).resolve().parents[2]
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _tracked() -> list[Path]:
    """Every tracked file that is text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def _pins(name: str) -> Iterator[Requirement]:
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            yield Requirement(text)


# --- one version -----------------------------------------------------------------------------------------------------


def test_the_changelog_starts_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0] == _project()["version"]
    assert "Unreleased" not in headings[1:]


def test_the_application_reports_this_version() -> None:
    assert build_app(settings_for()).version == _project()["version"]


# --- dependencies ----------------------------------------------------------------------------------------------------

PINNED = ("cpu.txt", "dev.txt", "gpu.txt", "gpu-lock.txt", "sbom.txt")
"""The lists that are installed. Known holes are kept out of them by floor.txt (tests/deploy/test_floor.py)."""


@pytest.mark.parametrize("name", PINNED)
def test_requirements_are_pinned_once(name: str) -> None:
    pins = list(_pins(name))
    assert pins
    assert not [str(pin) for pin in pins if not str(pin.specifier).startswith("==")]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names))


def test_pins_lie_within_the_declared_ranges() -> None:
    """pyproject's lower bounds keep known holes out; the pins that are installed obey them."""
    declared = [
        *_project()["dependencies"],
        *(x for extra in _project()["optional-dependencies"].values() for x in extra),
    ]
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, declared)}
    for name in ("cpu.txt", "dev.txt", "gpu.txt"):
        for pin in _pins(name):
            pinned = str(pin.specifier).removeprefix("==")
            allowed = ranges.get(canonicalize_name(pin.name))
            assert allowed is None or allowed.contains(pinned, prereleases=True), f"{name}: {pin} is outside {allowed}"


def test_every_dependency_is_pinned() -> None:
    """What pyproject names for the service, the CPU and the tools is in the set that `make install` installs."""
    extras = _project()["optional-dependencies"]
    declared = [*_project()["dependencies"], *extras["cpu"], *extras["train"], *extras["dev"]]
    pinned = {canonicalize_name(pin.name) for name in ("cpu.txt", "dev.txt") for pin in _pins(name)}
    assert {canonicalize_name(Requirement(text).name) for text in declared} <= pinned


def test_tests_run_on_the_pinned_versions() -> None:
    """A passing run says something about the set that is shipped. Libraries named by the code itself are looked at."""
    wrong = []
    for pin in (*_pins("cpu.txt"), *_pins("dev.txt")):
        try:
            installed = version(pin.name)
        except PackageNotFoundError:
            installed = "nothing"
        if pin.marker is None and not pin.specifier.contains(installed, prereleases=True):
            wrong.append(f"{pin} is asked for, {installed} is installed")
    assert not wrong, "run `make install`: " + "; ".join(wrong)


# --- shipped files load ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "training/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert load_recipe(path).version


def test_the_example_configuration_loads() -> None:
    settings = load_settings(ROOT / "examples/service.toml")
    assert settings.engine.type == "vllm"
    assert settings.server.is_loopback


def _compose() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return compose


def test_compose_builds_targets_that_exist_and_mounts_files_that_exist() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    services = _compose()["services"]
    assert {"service", "service-gpu", "redis", "prometheus", "grafana"} == set(services)
    for service in services.values():
        assert service.get("build", {"target": "cpu"})["target"] in targets
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source


def test_compose_publishes_on_loopback_only() -> None:
    published = [port for service in _compose()["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_environment_is_known_to_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _compose()["services"]["service"]["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GRAM_SERVER__HOST", "0.0.0.0")
    settings = load_settings()
    assert settings.auth.allow_unauthenticated
    assert isinstance(settings.store, RedisStoreSettings)
    assert settings.store.url.get_secret_value() == "redis://redis:6379/0"


def test_compose_keeps_reward_queues() -> None:
    """What docs/configuration.md asks of a Redis: a log, no eviction, and that it answers before the service starts."""
    services = _compose()["services"]
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["redis"]["volumes"] == ["redis:/data"]
    for name in ("service", "service-gpu"):
        assert services[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_the_image_environment_refuses_to_start_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container listens on all addresses, so the image alone must not serve everybody."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    variables = dict(re.findall(r"(GRAM_\w+)=(\S+)", "\n".join(line for line in lines if not line.startswith("#"))))
    assert variables["GRAM_SERVER__HOST"] == "0.0.0.0"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=r"auth\.keys"):
        load_settings()


def test_prometheus_scrapes_the_compose_service() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"][0]["targets"] == ["service:8000"]
    assert "service" in _compose()["services"]["service"]["networks"]["default"]["aliases"]


def _rules() -> list[dict[str, Any]]:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    volumes = _compose()["services"]["prometheus"]["volumes"]
    found: list[dict[str, Any]] = []
    for name in config["rule_files"]:
        assert f"./deploy/prometheus/{name}:/etc/prometheus/{name}:ro" in volumes
        text = (ROOT / "deploy/prometheus" / name).read_text(encoding="utf-8")
        found += [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    return found


def test_prometheus_loads_the_rules_it_mounts() -> None:
    """What they name is `test_dashboards`' business."""
    assert len(_rules()) > 6


def test_grafana_provisions_the_dashboard_folder_it_mounts() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards/dashboards.yml").read_text(encoding="utf-8"))["providers"][0]
    mounts = _compose()["services"]["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    for panel in _dashboard()["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]


def _dashboard() -> dict[str, Any]:
    text = (ROOT / "deploy/grafana/dashboards/reward-scoring.json").read_text(encoding="utf-8")
    dashboard: dict[str, Any] = json.loads(text)
    return dashboard


# --- clean text ------------------------------------------------------------------------------------------------------

# Put together here so that this file does not find itself.
HOME_PATH = re.compile(r"(?<![\w.~-])/(?:home|Users)" + r"/[\w.-]+|(?<![\w.~/-])/ro" + r"ot/")
OPTION = "index-" + "url"
INDEX = re.compile(r"https?://[^\s\"'`)]*(?:/simple\b|/whl\b)[^\s\"'`)]*|" + OPTION + r"[= ]+\S+")


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [(HOME_PATH, ()), (INDEX, (TORCH_INDEX, f"{OPTION} {TORCH_INDEX}", f"{OPTION} $(TORCH_INDEX)"))],
    ids=["no path of somebody's machine", "no package index but PyTorch's"],
)
def test_no_tracked_text_names(pattern: re.Pattern[str], allowed: tuple[str, ...]) -> None:
    found = []
    for path in _tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            hits = [hit for hit in pattern.findall(line) if hit not in allowed]
            found += [f"{path.relative_to(ROOT)}:{number}: {hit}" for hit in hits]
    assert not found, "\n".join(found)


def test_the_text_check_finds_what_it_looks_for() -> None:
    assert HOME_PATH.search("open('" + "/home" + "/somebody/x')")
    assert INDEX.search(f"pip install --{OPTION} something x")
    assert INDEX.search("see https://example.org" + "/simple/x")
    assert not HOME_PATH.search("https://example.org/home/page and ./Users/x")
