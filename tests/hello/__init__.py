"""ClientHellos as real programs sent them (README.md has the table), and ways to rearrange them."""

from pathlib import Path

CORPUS = {file.stem: file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.bin"))}

RECORD_HEADER_BYTES = 5


def record(fragment: bytes, version: bytes = b"\x03\x01", kind: int = 22) -> bytes:
    """Return one TLS record."""
    return bytes((kind,)) + version + len(fragment).to_bytes(2) + fragment


def handshake(records: bytes) -> bytes:
    """Return what the records carry, without their headers."""
    carried, at = b"", 0
    while at < len(records):
        start = at + RECORD_HEADER_BYTES
        at = start + int.from_bytes(records[at + 3 : start])
        carried += records[start:at]
    return carried


def reframe(message: bytes, *sizes: int) -> bytes:
    """Return `message` in records of these sizes, in turn and over again."""
    framed, at, turn = b"", 0, 0
    while at < len(message):
        size = sizes[turn % len(sizes)]
        framed += record(message[at : at + size])
        at, turn = at + size, turn + 1
    return framed
