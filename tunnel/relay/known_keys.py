"""Which key stands behind each id that was ever registered under open access, kept on disk.

A journal of lines `id fingerprint day`; the last line of an id counts. Once the outdated lines
outnumber the others, and `OUTDATED_KEPT`, it is written anew. A second key with the same id is
refused, also after a restart (docs/protocol.md §2).
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tunnel.errors import Code, Refused, SettingsError
from tunnel.log import clipped, get_log
from tunnel.tls.files import write_private

log = get_log(__name__)

KEYS_KEPT = 100_000
OUTDATED_KEPT = 10_000  # lines, so that a small journal is not written anew all the time
RECENT_DAYS = 30
FULL_RETRY_INTERVAL = 600.0  # seconds; a place comes free when a day ends


def today() -> int:
    """Return the days since 1970 in UTC."""
    return int(datetime.now(UTC).timestamp() // 86_400)


class KnownKeys:
    """id → whole fingerprint; bounded, the one not seen for the longest goes first.

    Raises SettingsError for a journal that cannot be read.
    """

    def __init__(self, path: Path, keep: int = KEYS_KEPT, day: Callable[[], int] = today) -> None:
        self._path = path
        self._keep = keep
        self._day = day
        self._keys: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._lines = 0  # in the journal
        self._load()

    def __len__(self) -> int:
        return len(self._keys)

    def claim(self, client_id: str, fingerprint: bytes) -> None:
        """Remember that `fingerprint` holds the id.

        Raises Refused: NAME_TAKEN if another key holds it, BUSY if the memory is full of keys
        seen in the last 30 days.
        """
        known, seen = self._keys.get(client_id, (None, 0))
        if known not in (None, fingerprint.hex()):
            raise Refused(Code.NAME_TAKEN, f"another key holds the id {client_id}")
        if known is None:
            self._make_room()
        self._keys[client_id] = (fingerprint.hex(), self._day())
        self._keys.move_to_end(client_id)
        if known is None or seen != self._day():
            self._write(client_id)

    def _make_room(self) -> None:
        if len(self._keys) < self._keep:
            return
        oldest, (_, seen) = next(iter(self._keys.items()))
        if self._day() - seen < RECENT_DAYS:
            raise Refused(Code.BUSY, "too many new keys of late", FULL_RETRY_INTERVAL)
        del self._keys[oldest]

    def _write(self, client_id: str) -> None:
        try:
            if self._lines >= len(self._keys) + max(len(self._keys), OUTDATED_KEPT):
                self._compact()
            else:
                with self._path.open("a", encoding="ascii") as journal:
                    journal.write(self._line(client_id))
                self._lines += 1
        except OSError as error:  # the memory of this process still holds it
            log.error("known key not written", file=self._path, cause=error)

    def _load(self) -> None:
        try:
            text = self._path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        for line in text.splitlines():
            self._read_line(line)
            self._lines += 1
        while len(self._keys) > self._keep:
            self._keys.popitem(last=False)
        if self._lines > 2 * len(self._keys) or not text.endswith("\n"):
            self._compact_at_start()

    def _compact_at_start(self) -> None:
        try:
            self._compact()
        except OSError as error:
            log.error("known keys not written", file=self._path, cause=error)

    def _read_line(self, line: str) -> None:
        words = line.split()
        if len(words) != 3 or not words[2].isdecimal():  # a write cut short by a crash
            log.warning("known key not understood", file=self._path, line=clipped(line))
            return
        self._keys.pop(words[0], None)
        self._keys[words[0]] = (words[1], int(words[2]))

    def _compact(self) -> None:
        write_private(self._path, "".join(map(self._line, self._keys)).encode())
        self._lines = len(self._keys)

    def _line(self, client_id: str) -> str:
        fingerprint, day = self._keys[client_id]
        return f"{client_id} {fingerprint} {day}\n"
