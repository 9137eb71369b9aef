"""Log lines on stderr: text for people or one JSON object a line, each with the request that it is about.

    about("9f1c...")   -> every line that this task logs from here on carries request_id
    start_logging(...) -> the handler of the whole process, libraries' lines and warnings included

A line never shows a secret: what follows "Bearer" or "token=" is masked, whoever logged it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from shared.errors import RequestError
from shared.process import tracing
from shared.process.config import LogSettings
from shared.types import check_request_id

OURS = "isthmus"
_SECRET = re.compile(
    r"(?i)\b(bearer\s+|(?:token|password|pwd|secret|api[_-]?key)[\"']?\s*[=:]\s*[\"']?"
    # Ordinary words, as in "tls.key: no such file": of them only what is plainly a value.
    r"|(?<![\w.-])(?:pass|key)(?:=|[\"']\s*:\s*)[\"']?)[^\s\"',;]+"
)
_PASSWORD = re.compile(r"(://)[^/\s]*@")  # user and password in a URL; a password may hold an @
_QUIET = ("httpx", "httpcore")  # on INFO they log the whole URL of each request, secrets in its path included
_request: ContextVar[str] = ContextVar("request_id", default="")


def about(request_id: str) -> None:
    """Says which request the current task serves. Tasks that it starts serve the same until they say otherwise.

    An id that no request may have is left out: it could be of any length, or begin another line.
    """
    try:
        _request.set(check_request_id(request_id))
    except RequestError:
        _request.set("")


def request_id() -> str:
    """Of the request that the current task serves; empty if it serves none."""
    return _request.get()


def start_logging(settings: LogSettings) -> None:
    """Sends everything that the process logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    # Libraries say on DEBUG what they send, headers included.
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    logging.getLogger(OURS).setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    if settings.format == "json":
        # gRPC's core writes lines of its own, past Python; what they say ends calls with a status anyway.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def masked(text: str) -> str:
    """The text without secrets."""
    return _PASSWORD.sub(r"\1***@", _SECRET.sub(r"\1***", text))


class TextLines(logging.Formatter):
    """Time, level, logger, message, and the request id in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        line = super().formatMessage(record)
        return f"{line} [{request_id()}]" if request_id() else line

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request_id, trace_id, exception and `fields` if any.

    fields: of a record, by `log.info(text, extra={"fields": {...}})`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if request_id():
            line["request_id"] = request_id()
        if trace := tracing.trace_id():
            line["trace_id"] = trace
        if record.exc_info:
            line["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False, default=str)
