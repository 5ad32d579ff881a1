"""The size budget: a function fits on a screen, a file in one sitting. CONTRIBUTING.md says how to ask for more."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.source import Function, Module, is_within, modules

FUNCTION_LINES = 40
FILE_LINES = 400
EXCUSE = "# long: "  # followed by the reason, on the first line of the function or file


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _excused(line: str) -> bool:
    _, mark, reason = line.partition(EXCUSE)
    return bool(mark) and len(reason.split()) >= 3


def long_functions(module: Module) -> list[str]:
    lines = module.text.splitlines()
    return [
        f"{module.path.name}:{function.lineno} {function.name} has {_length(function)} lines"
        for function in module.functions
        if _length(function) > FUNCTION_LINES and not _excused(lines[function.lineno - 1])
    ]


def test_functions_are_short() -> None:
    found = [
        fault
        for module in modules()
        if not is_within(module.name, "training.stages")
        for fault in long_functions(module)
    ]
    assert not found, "\n".join(found)


def test_files_are_short() -> None:
    found = []
    for module in modules():
        lines = module.text.splitlines()
        excused = is_within(module.name, "training.stages") or (lines and _excused(lines[0]))
        if len(lines) > FILE_LINES and not excused:
            found.append(f"{module.name} has {len(lines)} lines")
    assert not found, "\n".join(found)


def test_a_long_function_needs_a_reason() -> None:
    body = "    pass\n" * FUNCTION_LINES
    for head, faults in (
        ("def f():\n", 1),
        ("def f():  # long: \n", 1),
        ("def f():  # long: one table, no logic\n", 0),
    ):
        text = head + body
        assert len(long_functions(Module("m", Path("m.py"), text))) == faults
