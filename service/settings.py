"""Every setting, read once into one frozen object. Nothing else in the project reads the environment.

Sources, strongest first: command line, environment (``GRAM_`` prefix, ``__`` between levels, as in
``GRAM_ENGINE__MODEL``), a TOML file (``--config`` or ``GRAM_CONFIG``), the defaults below. A key nobody knows is an
error in each of them, because a misspelt limit that is silently ignored is found in production.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.engine_settings import EngineSettings, RecoverySettings, VllmSettings
from service.engine_settings import demo_model as demo_model  # where callers look for it
from service.errors import StartupError
from service.sections import CacheSettings, LogSettings, ScoreHealthSettings, Section, TracingSettings, WeightSettings
from service.types import OnBudget, Scope, TextFlag

PREFIX = "GRAM_"
CONFIG_VARIABLE = "GRAM_CONFIG"
DEFAULT_REPETITION = 4
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "GRAM_DATA_DIR", "GRAM_API_KEY"})
"""Variables that are no settings: the file to read, evaluation data of tests and benchmarks, the key of a client."""
CLIENTS = f"{PREFIX}CLIENT_"
"""Where a client finds the service: no settings either, and often set in the same shell."""


def state_dir() -> Path:
    """Where a user's programs keep state (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "gram-service"


class ServerSettings(Section):
    """``drain_s`` is how long running requests may go on after SIGTERM; beyond ``max_connections`` only probes are
    answered. Times are seconds."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    drain_s: float = Field(30.0, ge=0, le=3600)
    access_log: bool = False
    header_timeout_s: float = Field(10.0, gt=0, le=3600)
    body_timeout_s: float = Field(30.0, gt=0, le=3600)
    max_connections: int = Field(8192, ge=1, le=1_000_000)

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class LimitSettings(Section):
    """``max_prompts`` bounds the engine prompts of all requests inside the service together (a comparison is two),
    ``max_tokens`` their tokens, as guessed from texts; ``max_waiting`` the requests in line for room (native routes).

    An engine that has given no output for ``stall_s`` is not ready, after ``fatal_stall_s`` it has failed; one that is
    silent for ``canary_s`` is asked for a token, so that idleness and a hang are told apart (0: never asked).
    """

    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_prompts: int = Field(16_384, ge=2)
    max_tokens: int = Field(16_777_216, ge=1)
    max_waiting: int = Field(256, ge=0, le=1_000_000)
    default_deadline_ms: int = Field(60_000, ge=1, le=600_000)
    max_deadline_ms: int = Field(600_000, ge=1, le=3_600_000)
    stall_s: float = Field(30.0, gt=0)
    fatal_stall_s: float = Field(120.0, gt=0)
    canary_s: float = Field(4.0, ge=0)


class KeySettings(Section):
    """``sha256`` is the hex digest of the key itself; the key is never stored. ``id`` may appear in logs. From
    ``expires`` on, a time with its zone, the key is unknown."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = frozenset({"score"})
    expires: AwareDatetime | None = None


class CohortSettings(Section):
    """Groups whose members arrive one by one. After a group's deadline ``judge_partial`` judges those who came if they
    are ``quorum`` or more, ``fail`` nobody. ``keep_s`` is how long a result answers late duplicates."""

    policy: Literal["judge_partial", "fail"] = "judge_partial"
    quorum: int = Field(2, ge=2, le=64)
    deadline_ms: int = Field(30_000, ge=1, le=600_000)
    keep_s: float = Field(600.0, ge=1, le=24 * 3600)
    max_groups: int = Field(65_536, ge=1)
    max_bytes: int = Field(256 * 1024 * 1024, ge=1024)


class CompatSettings(Section):
    """The routes that speak trainers' own wire formats, where a request cannot say any of this itself.

    ``judge``: the first usable one where it is None. ``queue`` normalizes rewards as /score's ``normalize`` would, with
    the four settings after it. ``cohort_size`` makes a group of so many posts with one prompt. ``max_waiting`` bounds
    the requests that wait for room; ``special_tokens`` are taken off a response's end beside those of known templates.
    """

    judge: str | None = Field(None, min_length=1, max_length=64)
    labels: Literal["reference", "ignore"] = "reference"
    queue: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$")
    window: int = Field(1000, ge=1, le=100_000)
    scale: float = Field(1.0, gt=0, le=1e6)
    min_count: int = Field(16, ge=1, le=100_000)
    clip: float = Field(10.0, gt=0, le=1e6)
    cohort_size: int | None = Field(None, ge=2, le=64)
    cohort_deadline_ms: int = Field(60_000, ge=1, le=600_000)
    deadline_ms: int = Field(100_000, ge=1, le=3_600_000)
    max_waiting: int = Field(4096, ge=0, le=1_000_000)
    special_tokens: tuple[str, ...] = ()

    @field_validator("special_tokens")
    @classmethod
    def _not_empty(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if not all(token.strip() for token in tokens):
            raise ValueError("a special token is never empty or white space")
        return tokens


class ReferenceSettings(Section):
    """Responses to compare with, by prompt. ``file``: JSON lines of prompt and reference, stored at each start."""

    file: Path | None = None
    max_entries: int = Field(1_000_000, ge=1)
    max_bytes: int = Field(1024**3, ge=1024)


class AuthSettings(Section):
    """Without keys everybody may do everything, which is refused beyond loopback unless ``allow_unauthenticated``.

    ``secret`` (absent: drawn at start-up) derives each key's prefix-cache salt; replicas on the same engines share it.
    """

    keys: tuple[KeySettings, ...] = ()
    allow_unauthenticated: bool = False
    secret: SecretStr | None = None

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[KeySettings, ...]) -> tuple[KeySettings, ...]:
        if len({key.id for key in keys}) < len(keys) or len({key.sha256 for key in keys}) < len(keys):
            raise ValueError("every key needs its own id and its own value")
        return keys

    @field_validator("secret")
    @classmethod
    def _long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < 16:
            raise ValueError("use at least 16 characters")
        return secret


class JudgeSettings(Section):
    """One judge on the engine's model, or on the LoRA adapter of that name. None = what the family says.

    A rationale that says one piece of text ``stop_repetition`` times in a row is stopped; 0 lets it go on. A response
    with one of ``refuse_flags`` is not judged.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    family: str
    template: str | None = None
    adapter: str | None = None
    min_label_mass: float = Field(0.05, ge=0, le=1)
    max_rationale_tokens: int | None = Field(None, ge=1)
    on_budget: OnBudget = "invalid"
    stop_repetition: int = Field(DEFAULT_REPETITION, ge=0, le=100)
    refuse_flags: frozenset[TextFlag] = frozenset()

    @field_validator("stop_repetition")
    @classmethod
    def _twice(cls, times: int) -> int:
        if times == 1:
            raise ValueError("saying something once is no repetition; use 0 or at least 2")
        return times


class _StoreSettings(Section):
    """``commit_log``: a file that gets one line per commit, for `python -m service replay`."""

    commit_log: Path | None = None


class MemoryStoreSettings(_StoreSettings):
    """Reward windows that a restart forgets."""

    type: Literal["memory"] = "memory"


class SqliteStoreSettings(_StoreSettings):
    """Reward windows in one file; they survive a restart."""

    type: Literal["sqlite"] = "sqlite"
    path: Path = Field(default_factory=lambda: state_dir() / "rewards.sqlite")


class RedisStoreSettings(_StoreSettings):
    """Reward windows on one Redis, shared by the replicas of a service. ``url`` may hold a password.

    Services that share a Redis but no queues have a ``prefix`` each. The two timeouts together bound every call.
    """

    type: Literal["redis"] = "redis"
    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    prefix: str = Field("gram", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    connect_timeout_s: float = Field(0.5, gt=0, le=60)
    timeout_s: float = Field(0.5, gt=0, le=60)
    max_connections: int = Field(64, ge=1)


StoreSettings = Annotated[SqliteStoreSettings | MemoryStoreSettings | RedisStoreSettings, Field(discriminator="type")]


class Settings(BaseSettings):
    """All of it. Without ``judges`` the checkpoint's own manifest (judge.json) says what it judges."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", allow_inf_nan=False
    )

    engine: EngineSettings = Field(default_factory=VllmSettings)
    recovery: RecoverySettings = RecoverySettings()
    store: StoreSettings = Field(default_factory=SqliteStoreSettings)
    judges: tuple[JudgeSettings, ...] = ()
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    cohorts: CohortSettings = CohortSettings()
    references: ReferenceSettings = ReferenceSettings()
    compat: CompatSettings = CompatSettings()
    score_health: ScoreHealthSettings = ScoreHealthSettings()
    cache: CacheSettings = CacheSettings()
    auth: AuthSettings = AuthSettings()
    weights: WeightSettings = WeightSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="before")
    @classmethod
    def _default_types(cls, values: Any) -> Any:
        """``[engine]`` without a type is vLLM, ``[store]`` without one is SQLite."""
        for section, default in (("engine", "vllm"), ("store", "sqlite")):
            if isinstance(values, dict) and isinstance(values.get(section), dict):
                values[section] = {"type": default} | values[section]
        return values

    @field_validator("judges")
    @classmethod
    def _distinct(cls, judges: tuple[JudgeSettings, ...]) -> tuple[JudgeSettings, ...]:
        if len({judge.name for judge in judges}) < len(judges):
            raise ValueError("every judge needs its own name")
        return judges

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if not (self.server.is_loopback or self.auth.keys or self.auth.allow_unauthenticated):
            raise ValueError(
                "server.host is reachable from other machines; add auth.keys, or set auth.allow_unauthenticated"
            )
        return self


def load_settings(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read all sources; `overrides` is the command line. Raises `StartupError` naming wrong keys, never values."""
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    if config is not None and not config.is_file():
        raise StartupError(f"The configuration file {config} does not exist; correct --config or {CONFIG_VARIABLE}.")
    _refuse_unknown_variables()

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config))

    try:
        return Sourced(**dict(overrides or {}))
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"The configuration file {config} is not valid TOML: {error}.") from error
    except SettingsError as error:
        raise StartupError(f"The configuration cannot be read: {error}.") from error
    except ValidationError as error:
        raise StartupError(f"The configuration is wrong: {_explain(error)}.") from None


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for variable in os.environ:
        name = variable.upper()
        if not name.startswith(PREFIX) or name.startswith(CLIENTS) or name in NOT_SETTINGS:
            continue
        if name.partition("__")[0] not in known:
            raise StartupError(f"The environment variable {variable} is no setting; correct or unset it.")


def _explain(error: ValidationError) -> str:
    """Where and what, without the values: one of them may be a secret."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in found[:5])
