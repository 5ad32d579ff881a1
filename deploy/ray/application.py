"""The service as a Ray Serve application: `serve run deploy.ray.application:build`, or `serve deploy` with serve.yml.

A replica is the whole service in one Ray actor - the same application, with its admission, deadlines and engine - so
everything that holds for one service holds here. What replicas share is the Redis of the store: reward queues, groups
whose members land on different replicas, references. Ray's proxy adds routing, restarts and replicas; it bounds
nothing, because the service knows better (a request that waits for the rest of its group is not load).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deploy.ray.scaling import METRIC, PromptsPolicy
from service.app import build_app
from service.errors import StartupError
from service.settings import RedisStoreSettings, Settings, load_settings

NAME = "reward-scoring"
ANY_ADDRESS = "0.0.0.0"
MAX_ONGOING = 20_480
"""Requests that Ray hands one replica at a time: as many as `limits.max_prompts` and `compat.max_waiting` let in, so
that it is the service who refuses, with a time to come again. Ray's default is 5."""
GRACE_S = 15.0
"""After the drain time: for the engine to end."""


class RayOptions(BaseModel):
    """What `args` of a Serve configuration may say. ``settings`` are over the environment and the file ``config``.

    ``target_prompts``: engine prompts inside for each replica that autoscaling aims at. ``num_gpus``: of each replica;
    with tensor or pipeline parallelism their product. ``env`` reaches the replicas' processes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_prompts: float = Field(512, gt=0)
    upscale_delay_s: float = Field(30, ge=0)
    downscale_delay_s: float = Field(600, ge=0)
    num_cpus: float = Field(1, ge=0)
    num_gpus: float = Field(0, ge=0)
    drain_s: float = Field(30, ge=0)
    config: Path | None = None
    settings: dict[str, Any] = {}
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _ordered(self) -> RayOptions:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is below min_replicas")
        return self


def replica_settings(options: RayOptions) -> Settings:
    """One replica's settings. Raises `StartupError` for what is wrong only because it is one of several.

    The proxy decides which addresses are listened on, so the service counts as reachable: it wants keys or the opt-out.
    """
    server = {**options.settings.get("server", {}), "host": ANY_ADDRESS, "drain_s": options.drain_s}
    settings = load_settings(options.config, {**options.settings, "server": server})
    if options.max_replicas > 1 and not isinstance(settings.store, RedisStoreSettings):
        raise StartupError("Several replicas need one store: set store.type to redis and store.url to its address.")
    return settings


@serve.ingress()
class RewardService:
    """One replica. Ray builds the application in the replica's process and runs its lifespan: no replica takes a
    request before its model has passed the self-test."""

    app: Any

    def __init__(self, options: dict[str, Any]) -> None:
        self._settings = replica_settings(RayOptions.model_validate(options))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._settings)

    async def check_health(self) -> None:
        """Raises where only a restart helps, upon which Ray replaces the replica."""
        await self.app.state.service.health.check_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Engine prompts of the requests inside, waiting ones included."""
        return {METRIC: float(self.app.state.gate.admission.held)}


def build(args: dict[str, Any]) -> serve.Application:
    """The application for `args` (see `RayOptions`); Ray calls this."""
    options = RayOptions.model_validate(args)
    scaling = AutoscalingConfig(
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        upscale_delay_s=options.upscale_delay_s,
        downscale_delay_s=options.downscale_delay_s,
        policy=AutoscalingPolicy(
            policy_function=PromptsPolicy, policy_kwargs={"target_prompts": options.target_prompts}
        ),
    )
    actor = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus, "runtime_env": {"env_vars": options.env}}
    deployment = serve.deployment(
        RewardService,
        name=NAME,
        max_ongoing_requests=MAX_ONGOING,
        autoscaling_config=scaling,
        ray_actor_options=actor,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=options.drain_s + GRACE_S,
    )
    return deployment.bind(options.model_dump(mode="json"))
