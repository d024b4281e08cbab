"""The page that an HTTP/1.1 visitor gets when the service behind the tunnel does not answer.

A whole response, sent once the request's head was read.
"""

import asyncio

from tunnel.stream import Stream, send_last

HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 5.0  # seconds
PARTING_TIMEOUT = 3.0  # for the visitor to read the page and go
PARTING_BYTES = 1024 * 1024  # of a request's body that are read and dropped meanwhile
METHOD_BYTES = 32

_BODY = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>502 Bad Gateway</title>
<h1>502 Bad Gateway</h1>
<p>The tunnel works, but the service behind it did not answer.</p>
</html>
"""
_HEAD = (
    b"HTTP/1.1 502 Bad Gateway\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Cache-Control: no-store\r\n"
    b"Connection: close\r\n"
    b"\r\n" % len(_BODY)
)


async def answer_in_place_of_target(visitor: Stream) -> None:
    """Answer one HTTP/1.1 request with 502; what does not ask in HTTP/1.1 gets nothing.

    The caller aborts the stream afterwards. Raises StreamReset if the visitor has gone.
    """
    method = await _read_method(visitor)
    if method is not None:
        page = _HEAD if method == b"HEAD" else _HEAD + _BODY
        await send_last(visitor, page, linger_timeout=PARTING_TIMEOUT, dropped_bytes=PARTING_BYTES)


async def _read_method(visitor: Stream) -> bytes | None:
    """Return the method of the request once its head is whole; None for anything else."""
    head = b""
    try:
        async with asyncio.timeout(HEAD_TIMEOUT):
            while b"\r\n\r\n" not in head:
                data = await visitor.receive()
                head += data
                if not data or len(head) > HEAD_BYTES or not _may_be_http(head):
                    return None
    except TimeoutError:
        return None
    return head.partition(b" ")[0]


def _may_be_http(head: bytes) -> bool:
    """Say whether bytes begin like a request of HTTP/1.x (RFC 9112 §3), whole or not."""
    line, end, _ = head.partition(b"\r\n")
    method, space, rest = line.partition(b" ")
    if len(method) > METHOD_BYTES or not method.isalpha():
        return False
    if not end:
        return True
    return bool(space) and rest.rpartition(b" ")[2].startswith(b"HTTP/1.")
