"""
Structured logs: one JSON object a line, call ids in, secrets out.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

_SECRET: Final = re.compile(r"\b(tw_[A-Za-z0-9_-]{4})[A-Za-z0-9_-]{8,}|\bBearer\s+\S+|\bsk-\S{8,}")
_SECRET_NAMES: Final = frozenset(
    {"authorization", "api_key", "secret", "password", "master_key", "body"}
)
_REDACTED: Final = "[redacted]"
_DEPTH_MAX: Final = 4
"""What is nested deeper is not logged."""


class LossyStream:
    """
    A text stream that drops what cannot be written.

    On a full disk nobody hears the complaint, but whoever complains goes on: a ledger writer
    that fell over its own warning would never commit again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """
        Write what can be written; say that all was.
        """
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """
        Flush what can be flushed.
        """
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_logs(level: str, *, process: str) -> None:
    """
    Send this process's logs to standard error as JSON lines.

    Args:
        level: debug, info, warning or error.
        process: Named on every line.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", LossyStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")


def redact_secrets(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """
    Mask whatever looks like a credential; the last line of defence, not the first.
    """
    del logger, method
    for name, value in event.items():
        event[name] = _redacted(name, value)
    return event


def _redacted(name: str, value: object, depth: int = 0) -> object:
    if name.lower() in _SECRET_NAMES:
        return _REDACTED
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _SECRET.sub(_masked, value)
    if depth == _DEPTH_MAX:
        return value if isinstance(value, (int, float, type(None))) else _REDACTED
    if isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        return {str(key): _redacted(str(key), item, depth + 1) for key, item in members.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = cast("Iterable[object]", value)
        return [_redacted("", item, depth + 1) for item in items]
    return value


def _masked(match: re.Match[str]) -> str:
    return f"{match[1]}{_REDACTED}" if match[1] else _REDACTED
