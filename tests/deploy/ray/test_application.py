"""The application's options and settings, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deploy.ray.application import MAX_ONGOING, RayOptions, build, replica_settings
from service.errors import StartupError
from service.settings import CompatSettings, LimitSettings

ROOT = Path(__file__).resolve().parents[3]
FAKE: dict[str, Any] = {"engine": {"type": "fake"}, "store": {"type": "redis"}}
OPEN = {"auth": {"allow_unauthenticated": True}}


def test_a_replica_without_keys_does_not_start() -> None:
    """Ray's proxy, not the service, decides which addresses are listened on."""
    with pytest.raises(StartupError, match=r"auth\.keys"):
        replica_settings(RayOptions(settings=FAKE | {"server": {"host": "127.0.0.1"}}))
    assert replica_settings(RayOptions(settings=FAKE | OPEN)).auth.allow_unauthenticated


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_several_replicas_want_one_store(store: str) -> None:
    settings = FAKE | OPEN | {"store": {"type": store}}
    assert replica_settings(RayOptions(settings=settings)).store.type == store
    with pytest.raises(StartupError, match="Several replicas need one store"):
        replica_settings(RayOptions(settings=settings, max_replicas=2))


def test_a_file_and_the_environment_are_read_on_the_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "service.toml").write_text("[limits]\nmax_prompts = 99\n")
    monkeypatch.setenv("GRAM_STORE__URL", "redis://elsewhere:1/0")
    options = RayOptions(config=tmp_path / "service.toml", settings=FAKE | OPEN, drain_s=7)
    settings = replica_settings(options)
    assert (settings.limits.max_prompts, settings.server.drain_s) == (99, 7)
    assert settings.store.url.get_secret_value() == "redis://elsewhere:1/0"  # type: ignore[union-attr]


@pytest.mark.parametrize("args", [{"max_replica": 2}, {"min_replicas": 2}, {"target_prompts": 0}])
def test_options_that_make_no_sense_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(args)


def test_ray_hands_over_what_the_service_lets_in() -> None:
    limits, compat = LimitSettings(), CompatSettings()
    assert limits.max_prompts + compat.max_waiting <= MAX_ONGOING


def test_the_shipped_configuration_is_ray_s_and_ours() -> None:
    schema = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "deploy/ray/serve.yml").read_text(encoding="utf-8"))
    )
    (application,) = schema.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert RayOptions.model_validate(application.args).max_replicas == 8
    assert build(application.args) is not None
