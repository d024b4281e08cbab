"""HTTP/1.1 with one caller: requests one after another, each within bounds (RFC 9112).

Nothing here knows what is asked for. A caller may be anybody on this machine.
"""

import asyncio
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import h11

from tunnel.admin.answers import Answer, Pages, Problem, Request, problem
from tunnel.errors import StreamReset
from tunnel.log import get_log
from tunnel.stream import Stream, send_last

HEADER_LIMIT = 16 * 1024  # bytes of a request's first line and headers
BODY_LIMIT = 64 * 1024
QUERY_FIELDS = 16
REQUEST_TIMEOUT = 10.0  # seconds for a whole request, the wait for its first byte included
ANSWER_TIMEOUT = 300.0  # for a page that has to wait for something itself
SEND_TIMEOUT = 10.0
PARTING_TIMEOUT = 1.0  # for a caller who is turned away to read why

log = get_log(__name__)


class Conversation:
    """One connection of a caller; `is_answering` says that a whole request is being answered.

    Once `is_last` is set, the next answer is the last one.
    """

    def __init__(self, stream: Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
        self._wants_no_body = False
        self.is_answering = False
        self.is_last = False

    def __repr__(self) -> str:
        return f"<Conversation {self._http.their_state} on {self._stream!r}>"

    def cut(self) -> None:
        """End it now."""
        self._stream.abort()

    async def run(self) -> None:
        """Answer until the caller leaves, is too slow, or breaks the rules; never raises for it."""
        try:
            while await self._answer_next():
                self._http.start_next_cycle()
            # An RST would overtake what was said last.
            await send_last(
                self._stream,
                b"",
                linger_timeout=PARTING_TIMEOUT,
                dropped_bytes=BODY_LIMIT,
            )
        except (StreamReset, TimeoutError) as error:
            log.debug("caller lost", cause=error)
        finally:
            self._stream.abort()

    async def _answer_next(self) -> bool:
        """Answer one request; say whether another one may follow."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = await self._read_request()
        except (h11.RemoteProtocolError, Problem, TimeoutError) as error:
            await self._turn_away(error)
            return False
        if request is None:
            return False
        self.is_answering = True
        answer = await respond(self._pages, request)
        await self._send(self._framed(answer, is_last=self.is_last))
        self.is_answering = False
        return {self._http.our_state, self._http.their_state} == {h11.DONE}

    async def _read_request(self) -> Request | None:
        """Return the next request, None where the caller has left.

        Raises h11.RemoteProtocolError, Problem, StreamReset.
        """
        self._wants_no_body = False  # what HEAD has asked for is over
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        self._wants_no_body = head.method == b"HEAD"
        body = bytearray()
        while isinstance(part := await self._next_event(), h11.Data):
            body += part.data
            if len(body) > BODY_LIMIT:
                message = f"the body is longer than {BODY_LIMIT} bytes"
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return _request(head, bytes(body))

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send(self._http.send(go_on) or b"")
            self._http.receive_data(await self._stream.receive())
        return event

    async def _turn_away(self, error: Exception) -> None:
        """Say what was wrong, unless nothing was said by the caller either."""
        is_late = isinstance(error, TimeoutError)
        begun = bool(self._http.trailing_data[0]) or self._http.their_state is not h11.IDLE
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or (is_late and not begun):
            return
        if isinstance(error, Problem):
            answer = problem(error.status, str(error))
        elif isinstance(error, h11.RemoteProtocolError):
            answer = problem(HTTPStatus(error.error_status_hint), str(error))
        else:
            message = f"the request was not whole after {REQUEST_TIMEOUT:g} s"
            answer = problem(HTTPStatus.REQUEST_TIMEOUT, message)
        await self._send(self._framed(answer, is_last=True))

    async def _send(self, octets: bytes) -> None:
        """Send an answer; raises StreamReset, TimeoutError for a caller who does not read it."""
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._stream.send(octets)

    def _framed(self, answer: Answer, *, is_last: bool = False) -> bytes:
        headers = [
            ("Content-Type", answer.media_type),
            ("Content-Length", str(len(answer.content))),
            ("Cache-Control", "no-store"),
        ]
        if answer.allow:
            headers.append(("Allow", ", ".join(answer.allow)))
        if is_last:
            headers.append(("Connection", "close"))
        head = h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase)
        content = b"" if self._wants_no_body else answer.content
        pieces = (head, h11.Data(content), h11.EndOfMessage())
        return b"".join(self._http.send(piece) or b"" for piece in pieces)


def _request(head: h11.Request, body: bytes) -> Request:
    try:
        parts = urlsplit(head.target.decode("ascii"))
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS))
    except ValueError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the target is not a path and a query") from None
    return Request(head.method.decode("ascii"), parts.path, query, body)


async def respond(pages: Pages, request: Request) -> Answer:
    """Return what the page says, or why there is none; never raises but for cancellation."""
    methods = pages.get(request.path)
    if methods is None:
        return problem(HTTPStatus.NOT_FOUND, f"there is no page {request.path[:100]}")
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        message = f"{request.path} does not take {request.method[:20]}"
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, message, tuple(methods))
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await handler(request)
    except Problem as said:
        return problem(said.status, str(said))
    except TimeoutError:
        return problem(HTTPStatus.GATEWAY_TIMEOUT, f"not done within {ANSWER_TIMEOUT:g} s")
    except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
        log.error("page failed", path=request.path, exception=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug of ours, see the log")
