"""The exit statuses that both programs use (after sysexits.h)."""

from enum import IntEnum


class Exit(IntEnum):
    """What a status says to whoever started the program."""

    DONE = 0
    RUNTIME = 1
    USAGE = 2
    UNREACHABLE = 69
    CANNOT_WRITE = 73
    CANNOT_READ = 74
    REFUSED = 77
    SETTINGS = 78
