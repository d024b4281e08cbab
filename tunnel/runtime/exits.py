"""The exit statuses that both programs use (after sysexits.h, docs/config.md)."""

from enum import IntEnum


class Exit(IntEnum):
    """What a status says to whoever started the program."""

    DONE = 0
    RUNTIME = 1
    USAGE = 2
    CANNOT_WRITE = 73
    CANNOT_READ = 74
    SETTINGS = 78
