"""The pages of trainers that are served by URL: requests answered as printed, settings that exist, flags that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.auth import hash_key
from service.settings import load_settings
from tests.architecture.documents import code_blocks
from tests.support.examples import ROOT, Curl, parse_curl
from tests.support.serving import Api, listening, serving, settings_for

PAGES = {name: ROOT / "docs" / "trainers" / f"{name}.md" for name in ("openrlhf", "slime")}


def curls(page: Path) -> Iterator[tuple[Curl, Any]]:
    """Each request of a page, and the reply that stands below it."""
    text = page.read_text(encoding="utf-8")
    for block in code_blocks(page, "sh"):
        shown = re.search(r"^    (\{.*\})$", text.partition(block)[2], re.MULTILINE)
        assert shown is not None, f"{page.name} shows no reply"
        yield parse_curl(block.strip()), json.loads(shown[1])


def shape(value: Any) -> Any:
    """Keys and lengths without the numbers."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("name", PAGES)
async def test_requests_are_answered_in_the_shape_that_is_shown(name: str) -> None:
    async with serving() as api:
        for curl, shown in curls(PAGES[name]):
            path = curl.url.removeprefix("http://127.0.0.1:8000")
            reply = await api.client.request(curl.method, path, headers=curl.headers, content=curl.body)
            assert reply.status_code == 200, reply.text
            assert shape(reply.json()) == shape(shown)
            ok = reply.json().get("ok", None) or reply.json()["extra_logs"]["ok"][0]
            assert ok == 1.0


def test_settings_on_the_pages_exist_and_are_allowed() -> None:
    found = [tomllib.loads(block) for page in PAGES.values() for block in code_blocks(page, "toml")]
    assert len(found) >= 2
    for settings in found:
        for section, values in settings.items():
            assert getattr(settings_for(settings), section).model_dump().items() >= values.items()


def test_settings_named_in_the_text_exist() -> None:
    for page in PAGES.values():
        for section, name in re.findall(r"`(compat|references)\.(\w+)", page.read_text(encoding="utf-8")):
            assert hasattr(getattr(load_settings(None, {"engine": {"type": "fake"}}), section), name), name


def test_openrlhf_has_the_flags_of_its_page() -> None:
    """Read from its source: its command line imports what no CPU has."""
    package = importlib.util.find_spec("openrlhf")
    if package is None or package.origin is None:
        pytest.skip("OpenRLHF's client is not installed; run: sh tests/trainers/openrlhf/install.sh PYTHON")
    source = (Path(package.origin).parent / "cli" / "train_ppo_ray.py").read_text(encoding="utf-8")
    text = PAGES["openrlhf"].read_text(encoding="utf-8")
    flags = set(re.findall(r"--[a-z]+\.[a-z_.]+[a-z]", text))
    assert {"--reward.remote_url", "--data.label_key", "--rollout.n_samples_per_prompt"} <= flags
    assert [flag for flag in sorted(flags) if f'"{flag}"' not in source] == []
    assert '"--reward.clip_range", type=float, nargs=2, default=(-10, 10)' in source, "as the page says"


async def test_a_url_with_a_key_is_how_both_let_themselves_in() -> None:
    key = "a-key-for-a-trainer"
    async with listening({"auth": {"keys": [{"id": "t", "sha256": hash_key(key), "scopes": ["score"]}]}}) as api:
        assert await _status(api, "") == 401
        assert await _status(api, f":{key}@") == 200


async def _status(api: Api, user: str) -> int:
    body = {"prompt": "q", "response": "a", "label": "b"}
    url = api.url.replace("http://", f"http://{user}") + "/remote_rm"
    return (await api.client.post(url, json=body)).status_code
