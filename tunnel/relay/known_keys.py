"""Which key stands behind each id that was ever registered under open access, kept on disk.

A journal of lines `id fingerprint day`; the last line of an id counts. A second key with the same
id is refused, also after a restart (docs/protocol.md §2).
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tunnel.errors import Code, Refused
from tunnel.log import clipped, get_log
from tunnel.tls.files import write_private

log = get_log(__name__)

KEYS_KEPT = 100_000
RECENT_DAYS = 30
FULL_RETRY_INTERVAL = 600.0  # seconds; a place comes free when a day ends


def today() -> int:
    """Return the days since 1970 in UTC."""
    return int(datetime.now(UTC).timestamp() // 86_400)


class KnownKeys:
    """id → whole fingerprint; bounded, the one not seen for the longest goes first."""

    def __init__(self, path: Path, keep: int = KEYS_KEPT, day: Callable[[], int] = today) -> None:
        self._path = path
        self._keep = keep
        self._day = day
        self._keys: OrderedDict[str, tuple[str, int]] = OrderedDict()
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
        if known is None or seen != self._day():
            self._append(client_id, fingerprint.hex(), self._day())
        self._keys[client_id] = (fingerprint.hex(), self._day())
        self._keys.move_to_end(client_id)

    def _make_room(self) -> None:
        if len(self._keys) < self._keep:
            return
        oldest, (_, seen) = next(iter(self._keys.items()))
        if self._day() - seen < RECENT_DAYS:
            raise Refused(Code.BUSY, "too many new keys of late", FULL_RETRY_INTERVAL)
        del self._keys[oldest]

    def _append(self, client_id: str, fingerprint: str, day: int) -> None:
        try:
            with self._path.open("a", encoding="ascii") as journal:
                journal.write(f"{client_id} {fingerprint} {day}\n")
        except OSError as fault:  # the memory of this process still holds it
            log.error("known key not written", file=self._path, cause=fault)

    def _load(self) -> None:
        try:
            lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            self._read_line(line)
        while len(self._keys) > self._keep:
            self._keys.popitem(last=False)
        if len(lines) > 2 * len(self._keys):
            self._compact()

    def _read_line(self, line: str) -> None:
        words = line.split()
        if len(words) != 3 or not words[2].isdecimal():  # a write cut short by a crash
            log.warning("known key not understood", file=self._path, line=clipped(line))
            return
        self._keys.pop(words[0], None)
        self._keys[words[0]] = (words[1], int(words[2]))

    def _compact(self) -> None:
        rows = (f"{name} {key} {day}\n" for name, (key, day) in self._keys.items())
        write_private(self._path, "".join(rows).encode())
