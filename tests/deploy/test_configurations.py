"""Every configuration that is shipped is one the service takes; those of Kubernetes are in test_manifests.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.errors import StartupError
from service.settings import RedisStoreSettings, VllmSettings, load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
RAY = yaml.safe_load((ROOT / "deploy/ray/serve.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.toml")), ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    assert load_settings(path).server.is_loopback


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in COMPOSE[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("GRAM_SERVER__HOST", "0.0.0.0")  # the image's
    settings = load_settings()
    assert isinstance(settings.store, RedisStoreSettings)
    assert settings.store.url.get_secret_value() == "redis://redis:6379/0"


def ray_settings() -> dict[str, Any]:
    (application,) = RAY["applications"]
    return {**application["args"]["settings"], "server": {"host": RAY["http_options"]["host"]}}


def test_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a replica (`deploy.ray.application.replica_settings`): with the secrets that its header names."""
    with pytest.raises(StartupError, match=r"auth\.keys"):
        load_settings(None, ray_settings())
    monkeypatch.setenv("GRAM_AUTH__KEYS", f'[{{"id": "trainer", "sha256": "{"0" * 64}"}}]')
    monkeypatch.setenv("GRAM_STORE__URL", "redis://127.0.0.1:1/0")
    settings = load_settings(None, ray_settings())
    assert isinstance(settings.store, RedisStoreSettings)
    assert settings.store.url.get_secret_value() == "redis://127.0.0.1:1/0"
    assert isinstance(settings.engine, VllmSettings)
    (application,) = RAY["applications"]
    assert settings.engine.tensor_parallel_size * settings.engine.data_parallel_size == application["args"]["num_gpus"]


@pytest.mark.parametrize(
    ("section", "key"),
    [("engine", "tensor_paralel_size"), ("store", "adress"), ("limits", "max_promts"), ("auth", "kies")],
)
def test_a_misspelt_key_is_noticed(section: str, key: str) -> None:
    with pytest.raises(StartupError, match=key):
        load_settings(None, {section: {key: 1}})
