"""`judge.json`: what a checkpoint says about the judges in it. Training writes it, the service reads it.

    {"format": 1, "version": "demo-2", "judges": [
      {"name": "demo", "family": "gram", "template": "eval", "labels": ["A", "B"],
       "max_prompt_tokens": 1024, "max_rationale_tokens": 0,
       "self_test": {"prompt": "2 + 2 = ?", "chosen": "4", "rejected": "5", "min_p": 0.6},
       "adapter": "adapters/demo"}]}

``adapter`` (a LoRA adapter, path relative to the file) and ``self_test`` may be absent. ``labels`` are empty for scalar
judges. Family and template are names here; the judging registry knows which exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from service.errors import StartupError

FILE_NAME = "judge.json"
FORMAT = 1
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A pair the judge must get right at start-up: P(chosen better than rejected) of at least ``min_p``."""

    prompt: str
    chosen: str
    rejected: str
    min_p: float


@dataclass(frozen=True, slots=True)
class JudgeEntry:
    """One judge of the checkpoint. Limits are in tokens; the prompt's counts the chat template too."""

    name: str
    family: str
    template: str
    labels: tuple[str, ...]
    max_prompt_tokens: int
    max_rationale_tokens: int
    self_test: SelfTest | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """``version`` names the weights: scores of different versions are never mixed."""

    version: str
    judges: tuple[JudgeEntry, ...]

    @classmethod
    def load(cls, directory: Path | str) -> Manifest | None:
        """The checkpoint's manifest, None if it carries none. Raises `StartupError` naming file, field and remedy."""
        path = Path(directory) / FILE_NAME
        try:
            data: Any = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartupError(f"Cannot read {path}: {error.strerror}; make it readable for the service.") from error
        except (ValueError, RecursionError) as error:
            raise StartupError(
                f"{path} is not valid JSON ({error}); correct it or write it anew by training."
            ) from error
        return _manifest(_Reader(path, "", data))

    def save(self, directory: Path | str) -> Path:
        """Write `judge.json`. Raises `StartupError` when the service would refuse it."""
        path = Path(directory) / FILE_NAME
        judges = [{k: v for k, v in asdict(judge).items() if v is not None} for judge in self.judges]
        text = json.dumps({"format": FORMAT, "version": self.version, "judges": judges}, indent=2, ensure_ascii=False)
        _manifest(_Reader(path, "", json.loads(text)))
        path.write_text(text + "\n", "utf-8")
        return path


class _Reader:
    """A JSON object being read field by field; every complaint says file, field and what to do."""

    def __init__(self, path: Path, where: str, data: Any) -> None:
        self.path, self.where = path, where
        if not isinstance(data, dict):
            raise self.error("", "must be a JSON object")
        self.data: Mapping[str, Any] = data

    def error(self, key: str, what: str) -> StartupError:
        field = ".".join(part for part in (self.where, key) if part) or "the top level"
        return StartupError(f"{self.path}: {field} {what}; correct it or write the manifest anew by training.")

    def only(self, *keys: str) -> None:
        unknown = sorted(self.data.keys() - set(keys))
        if unknown:
            raise self.error(unknown[0], f"is not a known field (known: {', '.join(keys)})")

    def value(self, key: str) -> Any:
        if key not in self.data:
            raise self.error(key, "is missing")
        return self.data[key]

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value.strip() or _LONE_SURROGATE.search(value):
            raise self.error(key, "must be a text that is not empty, in valid Unicode")
        return value

    def tokens(self, key: str, minimum: int) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(key, f"must be a whole number of at least {minimum}")
        return value

    def probability(self, key: str) -> float:
        value = self.value(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.5 <= value <= 1.0:
            raise self.error(key, "must be a number from 0.5 to 1")
        return float(value)

    def items(self, key: str) -> list[Any]:
        value = self.value(key)
        if not isinstance(value, list):
            raise self.error(key, "must be a list")
        return value


def _manifest(reader: _Reader) -> Manifest:
    if type(reader.value("format")) is not int or reader.value("format") != FORMAT:
        raise reader.error("format", f"is not {FORMAT}, the only format this version of the service reads")
    reader.only("format", "version", "judges")
    judges = tuple(_judge(_Reader(reader.path, f"judges[{i}]", item)) for i, item in enumerate(reader.items("judges")))
    if not judges:
        raise reader.error("judges", "must name at least one judge")
    if len({judge.name for judge in judges}) < len(judges):
        raise reader.error("judges", "must have names that differ")
    return Manifest(reader.text("version"), judges)


def _judge(reader: _Reader) -> JudgeEntry:
    reader.only(*JudgeEntry.__slots__)
    return JudgeEntry(
        name=reader.text("name"),
        family=reader.text("family"),
        template=reader.text("template"),
        labels=_labels(reader),
        max_prompt_tokens=reader.tokens("max_prompt_tokens", 1),
        max_rationale_tokens=reader.tokens("max_rationale_tokens", 0),
        self_test=_self_test(reader) if "self_test" in reader.data else None,
        adapter=_adapter(reader) if "adapter" in reader.data else None,
    )


def _labels(reader: _Reader) -> tuple[str, ...]:
    labels = reader.items("labels")
    if len(labels) not in (0, 2) or not all(isinstance(label, str) and label for label in labels):
        raise reader.error("labels", "must be two texts, or an empty list for a scalar judge")
    if len(set(labels)) < len(labels):
        raise reader.error("labels", "must differ from each other")
    return tuple(labels)


def _self_test(reader: _Reader) -> SelfTest:
    test = _Reader(reader.path, f"{reader.where}.self_test", reader.value("self_test"))
    test.only(*SelfTest.__slots__)
    return SelfTest(test.text("prompt"), test.text("chosen"), test.text("rejected"), test.probability("min_p"))


def _adapter(reader: _Reader) -> str:
    """Relative and inside the checkpoint: a manifest must not make the service load from elsewhere."""
    path = PurePosixPath(reader.text("adapter"))
    if path.is_absolute() or ".." in path.parts:
        raise reader.error("adapter", "must be a path inside the checkpoint, relative to judge.json")
    return str(path)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
