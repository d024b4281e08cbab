"""The loggers of this package: a constant message and fields beside it, bound once per session.

Formatting and thresholds belong to `tunnel.runtime.logs`; `tunnel.protocol` never logs.
"""

import logging

PEER_TEXT_LIMIT = 128  # characters kept of any string that a peer chose


class Log:
    """A named logger with fields bound to it: `log.info("registered", name=name)`."""

    __slots__ = ("_fields", "_logger")

    def __init__(self, logger: logging.Logger, fields: dict[str, object] | None = None) -> None:
        self._logger = logger
        self._fields = fields or {}

    def bind(self, **fields: object) -> "Log":
        """Return a log that adds these fields to every line."""
        return Log(self._logger, {**self._fields, **fields})

    def debug(self, message: str, **fields: object) -> None:
        """Log what a visitor or the wire alone can cause."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Log what an operator may want to follow."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Log what an operator may have to look at."""
        self._write(logging.WARNING, message, fields)

    def error(
        self, message: str, *, exception: BaseException | None = None, **fields: object
    ) -> None:
        """Log what an operator has to mend, or a bug of ours with its traceback."""
        self._write(logging.ERROR, message, fields, exception)

    def _write(
        self,
        level: int,
        message: str,
        fields: dict[str, object],
        exception: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            every = {**self._fields, **fields}
            self._logger.log(level, message, exc_info=exception, extra={"fields": every})


def get_log(name: str) -> Log:
    """Return the log of a module: `log = get_log(__name__)`."""
    return Log(logging.getLogger(name))


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields beside a record's message; none if another library wrote it."""
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def clipped(text: str) -> str:
    """Return at most 128 characters of a peer's string; the formatters quote what needs it."""
    return text[:PEER_TEXT_LIMIT]
