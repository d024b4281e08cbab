"""Which transport won last towards each relay, kept across restarts in the state directory.

A hint and no more: without the file, or with a damaged one, the client is a second slower where
the first transport does not pass. What the words mean is `racing`'s.
"""

import json
from pathlib import Path

from tunnel.log import get_log
from tunnel.stream import Address
from tunnel.tls.files import make_private_directory, write_private

FILE_NAME = "transports.json"
SIZE_LIMIT = 64 * 1024  # bytes read at most
WORD_LIMIT = 16  # characters

log = get_log(__name__)


class Favourites:
    """The transport that won last, by the relay's address."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._words = _read(self._path)

    def get(self, address: Address) -> str | None:
        """Return the transport remembered for a relay."""
        return self._words.get(str(address))

    def put(self, address: Address, transport: str | None) -> None:
        """Remember a winner, or forget it; a file that cannot be written is passed over."""
        key = str(address)
        if self._words.get(key) == transport:
            return
        if transport is None:
            del self._words[key]
        else:
            self._words[key] = transport
        try:
            make_private_directory(self._path.parent)
            write_private(self._path, json.dumps(self._words, indent=1).encode())
        except OSError as error:
            log.debug("transport not remembered", file=self._path, cause=error.strerror)


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            words = json.loads(file.read(SIZE_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(words, dict):
        return {}
    return {
        str(address): word
        for address, word in words.items()
        if isinstance(word, str) and len(word) <= WORD_LIMIT
    }
