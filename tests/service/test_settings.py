from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from service.engine_settings import FakeSettings, RemoteSettings, TransformersSettings, VllmSettings
from service.engines.fake import FakeOptions
from service.engines.remote import RemoteOptions
from service.errors import StartupError
from service.settings import MemoryStoreSettings, SqliteStoreSettings, demo_model, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("GRAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_defaults_serve_the_demo_judge_on_loopback(tmp_path: Path) -> None:
    settings = load_settings()
    assert isinstance(settings.engine, VllmSettings)
    assert settings.engine.model == demo_model()
    assert isinstance(settings.store, SqliteStoreSettings)
    assert settings.store.path == tmp_path / "gram-service" / "rewards.sqlite"
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)


def test_the_stronger_source_wins_key_by_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.toml", "[engine]\nmodel = '/file'\ndevice = 'cpu'\nmax_num_seqs = 7\n[server]\nport = 1\n"
    )
    monkeypatch.setenv("GRAM_CONFIG", str(config))
    monkeypatch.setenv("GRAM_ENGINE__MODEL", "/environment")
    monkeypatch.setenv("GRAM_ENGINE__DEVICE", "cuda")
    settings = load_settings(None, {"engine": {"device": "auto"}})
    assert isinstance(settings.engine, VllmSettings)
    assert (settings.engine.model, settings.engine.device, settings.engine.max_num_seqs) == ("/environment", "auto", 7)
    assert settings.server.port == 1


def test_lists_and_tables_come_as_json_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAM_ENGINE__TYPE", "remote")
    monkeypatch.setenv("GRAM_ENGINE__URLS", '["http://a:1", "http://b:2"]')
    monkeypatch.setenv("GRAM_JUDGES", '[{"name": "x", "family": "gram"}]')
    monkeypatch.setenv("GRAM_STORE__TYPE", "memory")
    settings = load_settings()
    assert isinstance(settings.engine, RemoteSettings)
    assert settings.engine.urls == ("http://a:1", "http://b:2")
    assert settings.judges[0].name == "x"
    assert isinstance(settings.store, MemoryStoreSettings)


@pytest.mark.parametrize("name", ["GRAM_PORT", "GRAM_ENGIN__MODEL", "gram_modell", "GRAM_"])
def test_unknown_variables_are_errors(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(StartupError, match="is no setting"):
        load_settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": {"type": "gpt"}},
        {"engine": {"type": "remote"}},
        {"engine": {"type": "remote", "urls": []}},
        {"engine": {"type": "fake", "adapters": {}}},
        {"engine": {"device": "tpu"}},
        {"store": {"type": "redis9"}},
        {"store": {"type": "memory", "path": "x"}},
        {"server": {"port": 70_000}},
        {"server": {"drain_s": -1}},
        {"server": {"drain_s": float("nan")}},
        {"limits": {"max_prompts": 0}},
        {"recovery": {"on_failure": "pray"}},
        {"engine": {"type": "fake", "faults": [{"kind": "hang"}]}},
        {"engine": {"type": "fake", "faults": [{"kind": "hang", "at_start": 1}]}},
        {"engine": {"type": "fake", "faults": [{"kind": "slow_start", "at_call": 1}]}},
        {"engine": {"type": "fake", "faults": [{"kind": "die", "at_call": 1, "after_s": 1}]}},
        {"limits": {"default_deadline_ms": 0}},
        {"judges": [{"name": "x"}]},
        {"judges": [{"name": "a b", "family": "gram"}]},
        {"judges": [{"name": "x", "family": "gram"}] * 2},
        {"auth": {"keys": [{"id": "x", "sha256": "abc"}]}},
        {"auth": {"keys": [{"id": "x", "sha256": "a" * 64, "scopes": ["root"]}]}},
        {"auth": {"keys": [{"id": "x", "sha256": "a" * 64}, {"id": "y", "sha256": "a" * 64}]}},
        {"auth": {"keys": [{"id": "x", "sha256": "a" * 64}, {"id": "x", "sha256": "b" * 64}]}},
        {"unknown": 1},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match="The configuration is wrong"):
        load_settings(None, wrong)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "judge.example.org"])
def test_beyond_loopback_needs_keys_or_the_opt_out(host: str) -> None:
    server = {"server": {"host": host}}
    with pytest.raises(StartupError, match=r"auth\.keys"):
        load_settings(None, server)
    assert load_settings(None, server | {"auth": {"keys": [{"id": "x", "sha256": "a" * 64}]}}).server.host == host
    assert load_settings(None, server | {"auth": {"allow_unauthenticated": True}}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert load_settings(None, {"server": {"host": host}}).server.is_loopback


def test_settings_are_frozen_and_keep_secrets_out_of_sight() -> None:
    settings = load_settings(None, {"auth": {"secret": "a-secret-of-some-length"}})
    assert "a-secret" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.server = settings.server


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="does not exist"):
        load_settings(tmp_path / "no.toml")


def check_agreement(
    section: type[BaseModel], options: type[Any], derived: set[str], elsewhere: frozenset[str] = frozenset()
) -> None:
    """Settings and options have the same fields with the same defaults; `derived` ones follow from other things, those
    `elsewhere` are no engine's."""
    fields = {field.name: field for field in dataclasses.fields(options) if field.name not in derived}
    assert set(fields) == set(section.model_fields) - derived - elsewhere - {"type"}
    for name, setting in section.model_fields.items():
        if name in ("type", "model", *derived, *elsewhere) or setting.is_required():
            continue
        field = fields[name]
        made = field.default_factory is not dataclasses.MISSING
        expected = field.default_factory() if made else field.default
        assert setting.get_default(call_default_factory=True) == expected, name
        assert setting.default is not PydanticUndefined or isinstance(expected, Mapping)


def test_settings_mirror_the_options_of_light_engines() -> None:
    hooks = {
        "adapters",
        "answer",
        "script",
        "label_logits",
        "score",
        "fault",
        "keep_requests",
        "cache_blocks",
        "faults",
    }
    check_agreement(FakeSettings, FakeOptions, hooks | {"weight_version", "encode", "decode"})
    tokenizer = frozenset({"trust_remote_code"})
    check_agreement(RemoteSettings, RemoteOptions, {"runner", "seeds"}, tokenizer)  # no request here has a seed


@pytest.mark.slow
def test_settings_mirror_the_options_of_heavy_engines() -> None:
    from service.engines.transformers import TransformersOptions
    from service.engines.vllm import VllmOptions

    check_agreement(TransformersSettings, TransformersOptions, {"runner", "rows"})
    elsewhere = {"runner", "shutdown_timeout_s", "chunked_prefill", "traces_endpoint", "json_logs"}
    check_agreement(VllmSettings, VllmOptions, elsewhere)
