"""How log lines look: for people, or an object a line for machines. Neither holds texts of callers, nor keys.

What this project logs names ids, codes and counts. What others log cannot be known, and an exception's message may
quote its subject, so a traceback is written with the kinds of its exceptions and without their messages.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

from service.errors import ServiceError
from service.spans import REQUEST_ID, TRACE_ID

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def set_up(form: Literal["text", "json"], access: bool, stream: Any = None) -> logging.Handler:
    """Log to standard error in this form; ``access``: also a line for each request. Returns the only handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("gram.access").setLevel(logging.INFO if access else logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line, with the address, for each call of an engine
    return handler


class _Discreet(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        return "\n".join(discreet(ei))


class TextFormatter(_Discreet):
    """A line for people; a traceback below it."""


class JsonFormatter(_Discreet):
    """``time`` (UTC), ``level``, ``logger``, ``message``, the ids of the request, and the fields a line has of its own
    (an access line has nothing else); ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _utc(record.created), "level": record.levelname, "logger": record.name}
        fields = getattr(record, "fields", None)
        line |= fields if isinstance(fields, dict) else {"message": record.getMessage()}
        for name, variable in (("request_id", REQUEST_ID), ("trace_id", TRACE_ID)):
            if (value := variable.get()) is not None:
                line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def discreet(ei: ExcInfo) -> Iterator[str]:
    """A traceback's lines, causes first, each exception by its kind; errors of ours, whose messages are made for
    strangers, with their message."""
    error: BaseException | None = ei[1]
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for one in reversed(chain):
        yield from (line.rstrip("\n") for line in traceback.format_tb(one.__traceback__))
        yield f"{type(one).__module__}.{type(one).__qualname__}" + (
            f": {one.message}" if isinstance(one, ServiceError) else ""
        )


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
