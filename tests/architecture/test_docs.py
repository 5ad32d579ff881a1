"""What the documents list is what the code has: settings with defaults, metrics with labels, error codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from service.app import STATUS
from service.errors import ServiceError
from service.settings import Settings, demo_model
from tests.architecture.documents import table_rows
from tests.support.serving import serving

WORDS = {json.dumps(demo_model()): "the demo judge"}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings sections inside a type, through unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _default(field: FieldInfo) -> str:
    """As docs/configuration.md writes it: TOML, or a word."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path):
        value = str(value).replace(str(Path.home()), "~")
    if isinstance(value, frozenset):
        value = sorted(value)
    text = json.dumps(value)
    return WORDS.get(text, text)


def _settings(model: type[BaseModel], path: str, heading: str) -> Iterator[tuple[str, str, str]]:
    """(heading, dotted name, default) of every leaf."""
    for name, field in model.model_fields.items():
        sections = list(_models(field.annotation))
        for section in sections:
            kind = section.model_fields.get("type")
            under = heading or (f'{name}, type = "{kind.default}"' if kind else name)
            yield from _settings(section, f"{path}{name}.", under)
        if not sections and name != "type":
            yield heading, f"{path}{name}", _default(field)


def test_every_setting_is_documented_with_its_default(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    documented = {(row.heading, *row.cells[:2]) for row in table_rows(root / "docs/configuration.md")}
    assert documented == set(_settings(Settings, "", ""))


def test_every_error_is_documented(root: Path) -> None:
    documented = {row.cells[:3] for row in table_rows(root / "docs/errors.md")}
    raised: dict[str, type[ServiceError]] = {}
    for error in STATUS:
        raised.setdefault(error.code, error)  # the base class shares its code with InternalError
    coded = {(code, str(STATUS[error]), "yes" if error.retryable else "no") for code, error in raised.items()}
    assert documented == coded | {("method_not_allowed", "405", "no")}


async def test_every_metric_is_documented(root: Path) -> None:
    documented = {row.cells[:3] for row in table_rows(root / "docs/metrics.md")}
    async with serving() as api:
        registry: CollectorRegistry = api.app.state.gate.metrics.registry
        declared = {
            (metric.name, metric.type, ", ".join(getattr(collector, "_labelnames", ())))
            for collector in registry._collector_to_names
            for metric in (collector.describe() if hasattr(collector, "describe") else collector.collect())
        }
    assert documented == declared
