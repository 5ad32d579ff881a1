"""Data sets of the hub by name, streamed: rows arrive as they are read, nothing is stored here.

A data set of the hub may change under its name; name a ``revision`` (a commit) to pin it. The data card records a hash
over the rows that were read, so that a rebuilt file can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.data.pairs import DataError


def hub_records(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    folder: str | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their number (from 1). ``name`` may also be a local folder that the datasets library can read.

    ``folder``: only the files under it, for repositories whose folders are not declared as configurations.

    Raises `DataError` when the data set, its split or the hub cannot be reached, saying what to do offline.
    """
    import datasets  # type: ignore[import-untyped]

    try:
        rows = datasets.load_dataset(name, config, data_dir=folder, split=split, revision=revision, streaming=True)
        number = 0
        for number, row in enumerate(rows, start=1):
            yield number, dict(row)
    except DataError:
        raise
    except Exception as error:  # the library raises whatever its file systems and parsers raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"Cannot read the hub data set {name!r}, split {split!r} ({reason}). Check name and connection; "
            "without one, download its files and name the folder instead."
        ) from error
    if number == 0:
        raise DataError(f"The hub data set {name!r} has no rows in split {split!r}; name another split.")
