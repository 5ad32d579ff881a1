"""The Kubernetes resources, as kustomize rendered them: against the API's schemas, and against the service itself."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.dockerfile import read_stages, steps_to
from deploy.manifests import MARK, OVERLAYS, RENDERED, digest
from service.auth import hash_key
from service.server import GRACE_S, HARD_STOP_S
from service.settings import RedisStoreSettings, Settings, VllmSettings, load_settings
from tests.support.serving import serving

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The oldest that knows a pause before stopping, and the newest that the library knows."""
CUSTOM = {"ServiceMonitor"}
"""Resources of add-ons, whose schemas are not the API's."""
Resource = dict[str, Any]


def resources(overlay: str) -> list[Resource]:
    return list(yaml.safe_load_all((RENDERED / f"{overlay}.yml").read_text(encoding="utf-8")))


def one(overlay: str, kind: str, name: str = "gram-serve") -> Resource:
    (found,) = [r for r in resources(overlay) if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


def pod(overlay: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(overlay, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> dict[str, Any]:
    (found,) = pod(overlay)["containers"]
    return dict(found)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_rendered_was_made_from_these_sources(overlay: str) -> None:
    text = (RENDERED / f"{overlay}.yml").read_text(encoding="utf-8")
    assert f"{MARK}{digest()}\n" in text, "run `make manifests` (it needs kubectl) and look at what changed"


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "rendered").mkdir()
    (tmp_path / "a.yml").write_text("a: 1\n")
    before = digest(tmp_path)
    (tmp_path / "rendered" / "a.yml").write_text("a: 1\n")
    assert digest(tmp_path) == before
    (tmp_path / "a.yml").write_text("a: 2\n")
    assert digest(tmp_path) != before


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_what_the_api_takes(overlay: str, version: str) -> None:
    kinds = set()
    for resource in resources(overlay):
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, version, strict=True)
            kinds.add(resource["kind"])
    assert kinds == {
        *("Namespace", "ServiceAccount", "ConfigMap", "Service", "Deployment", "StatefulSet"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"),
    }


@pytest.mark.parametrize("old", ["readinessProbe", "terminationGracePeriodSeconds", "containerPort"])
def test_the_schemas_find_a_misspelt_field(old: str) -> None:
    text = yaml.safe_dump(one("cpu", "Deployment")).replace(f"{old}:", f"{old}x:")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(yaml.safe_load(text), VERSIONS[-1], strict=True)


def secret(environment: dict[str, Any]) -> str:
    """A value for an entry of the Secret that docs/deployment.md makes."""
    reference = environment["valueFrom"]["secretKeyRef"]
    assert reference["name"] == "gram-serve"
    values = {
        "keys": f'[{{"id": "trainer", "sha256": "{hash_key("k")}", "scopes": ["score"]}}]',
        "salt-secret": "0123456789abcdef",
        "redis-url": "redis://:password@redis:6379/0",
    }
    return values[reference["key"]]


def test_the_configuration_loads(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the pod: the image's environment, the container's, and the file where the container finds it."""
    settings = settings_of(overlay, tmp_path, monkeypatch)
    assert isinstance(settings.store, RedisStoreSettings)
    assert settings.auth.keys
    assert settings.auth.secret is not None
    assert not settings.auth.allow_unauthenticated
    assert not settings.server.is_loopback
    assert isinstance(settings.engine, VllmSettings)
    assert settings.engine.device == {"cpu": "cpu", "gpu": "cuda"}[overlay]


def settings_of(overlay: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    _, steps = steps_to(read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8")), overlay)
    for step in steps:
        for name, value in step.variables.items() if step.keyword == "ENV" else ():
            if name.startswith("GRAM_"):
                monkeypatch.setenv(name, value)
    for entry in container(overlay)["env"]:
        monkeypatch.setenv(entry["name"], entry.get("value") or secret(entry))
    mounted = container(overlay)["volumeMounts"]
    (source,) = [volume["configMap"]["name"] for volume in pod(overlay)["volumes"] if "configMap" in volume]
    (folder / "service.toml").write_text(one(overlay, "ConfigMap", source)["data"]["service.toml"])
    assert {"mountPath": "/etc/gram", "name": "config", "readOnly": True} in mounted
    assert {"name": "GRAM_CONFIG", "value": "/etc/gram/service.toml"} in container(overlay)["env"]
    monkeypatch.setenv("GRAM_CONFIG", str(folder / "service.toml"))
    return load_settings()


def test_nothing_secret_is_written_down(overlay: str) -> None:
    assert not [r for r in resources(overlay) if r["kind"] == "Secret"]
    plain = [entry["name"] for entry in container(overlay)["env"] if "value" in entry]
    assert plain == ["GRAM_CONFIG"]


def test_the_cluster_adds_nothing_to_the_environment(overlay: str) -> None:
    """A Service named gram-serve would become GRAM_SERVE_PORT in every pod, which the service refuses as no setting."""
    assert pod(overlay)["enableServiceLinks"] is False


async def test_probes_ask_routes_that_exist(overlay: str) -> None:
    probes = {name: probe for name, probe in container(overlay).items() if name.endswith("Probe")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startupProbe": "/startupz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    async with serving() as api:
        for probe in probes.values():
            assert probe["httpGet"]["port"] == "http"
            assert (await api.client.get(probe["httpGet"]["path"])).status_code == 200


def test_a_pod_may_drain_before_it_is_killed(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = settings_of(overlay, tmp_path, monkeypatch).server.drain_s
    pause = container(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(overlay)["terminationGracePeriodSeconds"] >= pause + drain + GRACE_S + HARD_STOP_S


def test_pods_are_the_image_s_plain_user_without_rights(overlay: str) -> None:
    _, steps = steps_to(read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8")), overlay)
    (user,) = [step.value for step in steps if step.keyword == "USER"]
    context = pod(overlay)["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["runAsNonRoot"] is True
    assert container(overlay)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert container(overlay)["image"].endswith(f":{overlay}")
    written = {mount["mountPath"] for mount in container(overlay)["volumeMounts"] if not mount.get("readOnly")}
    assert {"/state", "/tmp", "/var/lib/gram", "/dev/shm"} == written


def test_a_gpu_pod_asks_for_as_many_gpus_as_its_engine_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = settings_of("gpu", tmp_path, monkeypatch).engine
    assert isinstance(engine, VllmSettings)
    ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    assert container("gpu")["resources"]["limits"]["nvidia.com/gpu"] == str(ranks)
    assert "nvidia.com/gpu" not in container("cpu")["resources"]["limits"]


def selected(overlay: str, selector: dict[str, Any]) -> list[str]:
    """The workloads whose pods a selector finds."""
    wanted = selector.get("matchLabels", selector)
    workloads = [r for r in resources(overlay) if r["kind"] in ("Deployment", "StatefulSet")]
    return [
        r["metadata"]["name"]
        for r in workloads
        if wanted.items() <= r["spec"]["template"]["metadata"]["labels"].items()
    ]


def test_everything_points_at_something(overlay: str) -> None:
    assert selected(overlay, one(overlay, "Service")["spec"]["selector"]) == ["gram-serve"]
    assert selected(overlay, one(overlay, "Service", "redis")["spec"]["selector"]) == ["redis"]
    assert selected(overlay, one(overlay, "PodDisruptionBudget")["spec"]["selector"]) == ["gram-serve"]
    target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert one(overlay, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert "replicas" not in one(overlay, "Deployment")["spec"], "the autoscaler says how many"
    (port,) = one(overlay, "Service")["spec"]["ports"]
    assert port["targetPort"] in [p["name"] for p in container(overlay)["ports"]]
    assert {p["containerPort"] for p in container(overlay)["ports"]} == {8000}
    claims = {v["name"] for v in pod(overlay)["volumes"]}
    assert {mount["name"] for mount in container(overlay)["volumeMounts"]} == claims


def policies(overlay: str) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    for resource in resources(overlay):
        if resource["kind"] == "NetworkPolicy":
            yield resource["metadata"]["name"], selected(overlay, resource["spec"]["podSelector"]), resource["spec"]


def test_the_network_is_closed_but_for_what_is_needed(overlay: str) -> None:
    found = {name: (pods, spec) for name, pods, spec in policies(overlay)}
    _, spec = found["default-deny"]
    assert spec["podSelector"] == {}
    assert set(spec) == {"podSelector", "policyTypes"}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert found["gram-serve"][0] == found["gram-serve-to-redis"][0] == ["gram-serve"]
    assert found["redis"][0] == ["redis"]
    (rule,) = found["redis"][1]["ingress"]
    assert [selected(overlay, peer["podSelector"]) for peer in rule["from"]] == [["gram-serve"]]
    (rule,) = found["gram-serve-to-redis"][1]["egress"]
    assert [selected(overlay, peer["podSelector"]) for peer in rule["to"]] == [["redis"]]
    (rule,) = found["gram-serve"][1]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"gram-serve/access": "allowed"}}}]


async def test_the_autoscaler_s_metric_exists() -> None:
    (metric,) = one("gpu", "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    async with serving() as api:
        collectors = api.app.state.gate.metrics.registry._names_to_collectors
        assert [sample.type for sample in collectors[name].collect()] == ["gauge"]
    rule = (ROOT / "deploy/kubernetes/components/autoscaling/adapter-rule.yml").read_text(encoding="utf-8")
    (query,) = yaml.safe_load(rule)["rules"]["custom"]
    assert query["seriesQuery"].partition("{")[0] == query["name"]["as"] == name


def test_the_monitor_scrapes_the_service_with_a_key(overlay: str) -> None:
    """Its schema is its operator's, so its few fields are compared one by one."""
    monitor = one(overlay, "ServiceMonitor")
    (endpoint,) = monitor["spec"].pop("endpoints")
    labels = one(overlay, "Service")["metadata"]["labels"]
    assert monitor["spec"] == {"selector": {"matchLabels": labels}}
    assert endpoint["port"] in [port["name"] for port in one(overlay, "Service")["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "gram-serve", "key": "metrics-key"}}
    assert re.fullmatch(r"\d+s", endpoint["interval"])


def test_redis_keeps_what_it_is_given(overlay: str) -> None:
    (server,) = one(overlay, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    words = " ".join(server["args"])
    assert "--appendonly yes" in words
    assert "--maxmemory-policy noeviction" in words
    assert "--requirepass $(REDISCLI_AUTH)" in words
    assert server["volumeMounts"] == [{"mountPath": "/data", "name": "data"}]


def test_the_secret_is_described(overlay: str) -> None:
    """Every entry that a resource refers to is made by the command in the docs."""
    text = yaml.safe_dump_all(copy.deepcopy(resources(overlay)))
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    referred = set(re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: gram-serve", text)) | {"metrics-key"}
    assert referred == {"keys", "salt-secret", "redis-url", "redis-password", "metrics-key"}
    for key in referred:
        assert f"--from-literal={key}=" in page
