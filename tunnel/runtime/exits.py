"""The exit statuses that both programs use (after sysexits.h, docs/config.md)."""

from enum import IntEnum

from tunnel.errors import NotWritable, SettingsError


class Exit(IntEnum):
    """What a status says to whoever started the program."""

    DONE = 0
    RUNTIME = 1
    USAGE = 2
    UNAVAILABLE = 69  # the running program cannot be reached
    CANNOT_WRITE = 73
    CANNOT_READ = 74
    SETTINGS = 78


def exit_for(error: SettingsError) -> Exit:
    """Return the status that tells settings to mend from a place to make writable."""
    return Exit.CANNOT_WRITE if isinstance(error, NotWritable) else Exit.SETTINGS
