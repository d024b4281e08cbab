"""What log lines look like: entries where stderr is the journal, else text; JSON on request."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from tunnel.log import fields_of
from tunnel.runtime.journald import SOCKET, JournalHandler, leads_to_journal
from tunnel.settings.values import LogSettings

_QUIET_LIBRARIES = ("asyncio", "hpack", "quic")


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    plain = text.isprintable() and not any(character in text for character in ' ="')
    return text if text and plain else json.dumps(text)


class LineFormatter(logging.Formatter):
    """`relay.agents registered name=a.example transport=h2`: for who knows time and level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it if there is one."""
        fields = dict(fields_of(record))
        stanza = fields.pop("stanza", None)  # text to paste: shown as it is, below the line
        parts = [
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


class TextFormatter(LineFormatter):
    """`2026-01-31T12:00:00.000Z INFO relay.agents registered name=a.example transport=h2`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with its time and level."""
        return f"{_stamp(record)} {record.levelname} {super().format(record)}"


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
        row |= {key: _plain(value) for key, value in fields_of(record).items() if key not in row}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


_FORMATTERS = {"text": TextFormatter, "json": JsonFormatter, "journald": LineFormatter}


def set_up_logs(
    settings: LogSettings,
    stream: TextIO | None = None,
    *,
    identifier: str = "tunnel",
    environment: Mapping[str, str] = os.environ,
    journal: str = SOCKET,
) -> None:
    """Send every record of this process to `stream` (stderr), formatted as the settings say.

    In the journal, whose socket is at `journal`, they stand under `identifier`.
    """
    output = stream or sys.stderr
    form = settings.format
    if form == "auto":
        form = "journald" if leads_to_journal(output, environment, journal) else "text"
    handler = (
        JournalHandler(identifier, output, journal)
        if form == "journald"
        else logging.StreamHandler(output)
    )
    handler.setFormatter(_FORMATTERS[form]())
    root = logging.getLogger()
    for replaced in root.handlers:
        if isinstance(replaced, JournalHandler):
            replaced.close()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
