"""docs/trainers/ms-swift.md: the plugins are loaded as ms-swift loads them, the flags are fields of its arguments."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from swift.arguments import RLHFArguments
from swift.rewards import orms
from swift.utils.utils import import_external_file

from tests.architecture.documents import code_blocks


def test_the_page(root: Path, tmp_path: Path) -> None:
    page = root / "docs/trainers/ms-swift.md"
    for name, block in zip(("gram_plugin.py", "strict.py"), code_blocks(page, "python"), strict=True):
        (tmp_path / name).write_text(block)
        import_external_file(str(tmp_path / name))
    assert {"gram", "strict"} <= set(orms)
    assert orms["strict"]().judging.timeout_s == 120
    (command,) = code_blocks(page, "sh")
    known = {field.name for field in dataclasses.fields(RLHFArguments)}
    flags = re.findall(r"--(\w+)", command)
    assert len(flags) > 5
    assert set(flags) <= known
