"""ClientHellos: one as OpenSSL writes it, and ones that no library would."""

import ssl

from tests.hello import record


def hello(name: str, alpn: tuple[str, ...] = ()) -> bytes:
    """Return the ClientHello of Python's own TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("the handshake ended without a server")


def made_hello(*names: bytes, padding: int = 0) -> bytes:
    """Return a ClientHello that asks for these names as they are, `padding` bytes longer."""
    extensions = _server_names(names) if names else b""
    if padding:
        extensions += _extension(21, bytes(padding))  # RFC 7685
    body = b"\x03\x03" + bytes(32) + _vector(1, b"") + _vector(2, b"\x13\x01") + _vector(1, b"\0")
    body += _vector(2, extensions)
    message = b"\x01" + _vector(3, body)
    pieces = (message[start : start + 16384] for start in range(0, len(message), 16384))
    return b"".join(map(record, pieces))


def _server_names(names: tuple[bytes, ...]) -> bytes:
    return _extension(0, _vector(2, b"".join(b"\0" + _vector(2, name) for name in names)))


def _extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(2, body)


def _vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content
