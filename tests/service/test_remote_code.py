"""Checkpoints that bring code of their own: refused, unless the configuration trusts them."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.errors import StartupError
from service.settings import Settings, demo_model, load_settings
from service.startup import engine_fields, load_manifest, load_tokenizer, plan_judges

CODE = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoTokenizer": ["tok_evil.Evil", None]}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The demo judge, with Python files that leave a mark when they are run. The tests below name them."""
    for path in Path(demo_model()).iterdir():
        if path.suffix == ".safetensors":
            (tmp_path / path.name).symlink_to(path)
        else:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("modeling_evil.py", "tok_evil.py"):
        (tmp_path / name).write_text(
            f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\nclass Evil: pass\n"
        )
    return tmp_path


def change(path: Path, more: dict[str, Any]) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(data | more))


def settings_of(model: Path, kind: str = "vllm", **more: Any) -> Settings:
    urls = {"urls": ["http://127.0.0.1:1"]} if kind == "remote" else {}
    return load_settings(None, {"engine": {"type": kind, "model": str(model)} | urls | more})


def fields_of(settings: Settings) -> dict[str, Any]:
    manifest = load_manifest(settings)
    return engine_fields(settings, plan_judges(settings, manifest), manifest)


@pytest.mark.parametrize("kind", ["vllm", "transformers", "remote"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("config.json", CODE),
        ("tokenizer_config.json", CODE),
        ("preprocessor_config.json", CODE),
        ("config.json", {"text_config": [{"inner": CODE}]}),
    ],
)
def test_a_checkpoint_with_code_is_refused_by_every_engine(
    checkpoint: Path, kind: str, name: str, more: dict[str, Any]
) -> None:
    change(checkpoint / name, more)
    with pytest.raises(StartupError, match=rf"{name} names Python code.*set engine\.trust_remote_code"):
        load_manifest(settings_of(checkpoint, kind))
    assert not (checkpoint / "mark").exists()


@pytest.mark.parametrize("kind", ["vllm", "transformers", "remote"])
def test_a_trusted_checkpoint_is_not_refused(checkpoint: Path, kind: str) -> None:
    change(checkpoint / "config.json", CODE)
    assert load_manifest(settings_of(checkpoint, kind, trust_remote_code=True)) is not None


@pytest.mark.parametrize(
    "text", ['{"note": "no auto_map here"}', '{"auto_map": {}}', '{"auto_map": null}', "{", "[" * 5000, '"auto_map"']
)
def test_what_names_no_code_is_not_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "other_config.json").write_text(text)
    (checkpoint / "vocab.json").write_text('{"auto_map": 7}')
    assert load_manifest(settings_of(checkpoint)) is not None


def test_check_config_says_so_too(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(checkpoint / "config.json", CODE)
    assert main(["check-config", "--model", str(checkpoint)]) == 2
    assert "names Python code" in capsys.readouterr().err


@pytest.mark.parametrize("trusted", [False, True])
def test_the_setting_reaches_the_engine(checkpoint: Path, trusted: bool) -> None:
    for kind in ("vllm", "transformers"):
        assert fields_of(settings_of(checkpoint, kind, trust_remote_code=trusted))["trust_remote_code"] is trusted
    assert "trust_remote_code" not in fields_of(settings_of(checkpoint, "remote", trust_remote_code=trusted))


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_tokenizer_s_code_runs_only_when_it_is_trusted(
    checkpoint: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the refusal the library's own switch is what is left; on, it shows that the planted code would have run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(checkpoint / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    change(checkpoint / "tokenizer_config.json", CODE | {"tokenizer_class": "Evil"})
    with suppress(StartupError):
        await load_tokenizer(settings_of(checkpoint, trust_remote_code=trusted))
    assert (checkpoint / "mark").exists() is trusted


def test_extra_arguments_do_not_go_past_the_setting(checkpoint: Path) -> None:
    with pytest.raises(StartupError, match=r"engine\.trust_remote_code, not engine\.extra"):
        fields_of(settings_of(checkpoint, extra={"trust_remote_code": True}))
