"""Log lines on stderr: text on a terminal and elsewhere, JSON on request."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from tunnel.settings.values import LogSettings

_QUIET_LIBRARIES = ("asyncio", "hpack", "quic")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(character in text for character in ' ="')
    return text if text and plain else json.dumps(text)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO relay.agents registered name=a.example transport=h2`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it if there is one."""
        fields = dict(_fields(record))
        stanza = fields.pop("stanza", None)  # text to paste: shown as it is, below the line
        parts = [
            _stamp(record),
            record.levelname,
            record.name.removeprefix("tunnel."),
            record.getMessage(),
            *(f"{key}={_value(value)}" for key, value in fields.items()),
        ]
        lines = [" ".join(parts)]
        if stanza is not None:
            lines.append(str(stanza))
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback is a field of it."""
        row: dict[str, object] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        row |= {key: _plain(value) for key, value in _fields(record).items() if key not in row}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def set_up_logs(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send every record of this process to `stream` (stderr), formatted as the settings say."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
