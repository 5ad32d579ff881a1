"""Sections of the settings about running a service, not about judging. `service.settings` puts all together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the settings: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class LogSettings(Section):
    """Logs go to standard error; ``json`` writes an object a line. Texts and keys are in neither."""

    format: Literal["text", "json"] = "text"


class TracingSettings(Section):
    """OpenTelemetry spans, sent to ``endpoint`` (OTLP over HTTP, the whole URL). Without an endpoint there are none.

    ``sample_ratio`` is of requests that come without a trace of their own; for the others their callers have decided.
    """

    endpoint: str | None = Field(None, pattern=r"^https?://\S+$")
    service_name: str = Field("gram-service", min_length=1, max_length=128)
    sample_ratio: float = Field(1.0, ge=0, le=1)


class WeightSettings(Section):
    """What the admin routes may load: checkpoints and LoRA adapters by the names of their folders in these directories.

    Requests inside have ``wait_s`` to finish before a change; if they do not, nothing is changed.
    """

    checkpoints: Path | None = None
    adapters: Path | None = None
    wait_s: float = Field(60.0, gt=0, le=3600)


class ScoreHealthSettings(Section):
    """What is remembered of recent judgments: ``window`` for each of ``max_queues`` queues and judges, of which the
    ``metric_queues`` most recently used are among the metrics, brought up to date every ``refresh_s`` seconds."""

    window: int = Field(1000, ge=1, le=100_000)
    max_queues: int = Field(100, ge=1, le=10_000)
    metric_queues: int = Field(20, ge=1, le=1000)
    refresh_s: float = Field(15.0, gt=0, le=3600)


class CacheSettings(Section):
    """Answers kept for requests that come again, at most ``entries`` and ``bytes``; 0 in either turns sharing off."""

    entries: int = Field(100_000, ge=0)
    bytes: int = Field(64 * 1024 * 1024, ge=0)
