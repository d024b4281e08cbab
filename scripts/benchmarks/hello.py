"""A ClientHello that announces bare bytes, so that only the tunnel's work is measured.

A relay that routes by name reads no more of TLS than this; what follows it is payload to every
tunnel that does not end TLS. The records of TLS would cost the visitor and the target more than the
tunnel between them.
"""

import ssl

RAW = "bench/raw"  # the ALPN word by which the target knows it
RECORD_HEADER = 5  # RFC 8446 §5.1
HANDSHAKE = 0x16


def raw_hello(host: str) -> bytes:
    """Return a ClientHello for a host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([RAW])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = context.wrap_bio(incoming, outgoing, server_hostname=host)
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody has ended")


def is_hello(first: bytes) -> bool:
    """Say whether a connection begins with TLS."""
    return first[:1] == bytes([HANDSHAKE])


def record_length(first: bytes) -> int:
    """Return the bytes that follow the header of the first record."""
    return int.from_bytes(first[3:5], "big")
