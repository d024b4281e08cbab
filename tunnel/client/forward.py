"""A visitor's stream on its way to the service: the other half of a relay's routing.

Everything that a visitor alone can cause is logged at DEBUG and ends that stream only.
"""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunnel.acme.challenge import ANSWERS_TOLD, answer_validation
from tunnel.client.challenges import Challenges
from tunnel.client.endpoints import Endpoint
from tunnel.client.excuse import answer_in_place_of_target
from tunnel.errors import Code, DialFailed, Refused, RemoteProtocolError, StreamReset
from tunnel.log import get_log
from tunnel.protocol.frames import HEADER_LIMIT, FrameReader
from tunnel.protocol.hello import alert
from tunnel.protocol.messages import StreamHeader, StreamKind, decode_header
from tunnel.protocol.proxy import encode_proxy_v1, encode_proxy_v2
from tunnel.stream import Address, Prefixed, Stream, send_last, splice
from tunnel.tls.terminate import TlsStream, terminate
from tunnel.transport.dialling import family_of_literal
from tunnel.transport.direct.crossing import Place
from tunnel.transport.direct.stream import DirectStream, connect

HEADER_TIMEOUT = 5.0  # seconds
HANDSHAKE_TIMEOUT = 10.0  # for a visitor's TLS: two round trips of the slowest path
TARGET_TIMEOUT = 5.0  # below the patience of anybody who waits for a page
INTERNAL_ERROR_ALERT = alert(80)  # RFC 8446 §6.2
PARTING_TIMEOUT = 1.0  # for a visitor who is turned away to read why
PARTING_BYTES = 64 * 1024  # of what it has said, read and dropped meanwhile

PROXY_HEADERS = {"v1": encode_proxy_v1, "v2": encode_proxy_v2}

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Straight:
    """How a visitor's bytes go to a target as they are, with nothing to be waited for first."""

    endpoint: Endpoint
    place: Place
    linger_timeout: float

    def preface(self, header: StreamHeader) -> bytes:
        """Return what the target gets before the visitor's bytes."""
        version = self.endpoint.settings.proxy_protocol
        return PROXY_HEADERS[version](header.peer, header.local) if version is not None else b""


class Forwarder:
    """Brings the streams of one session to the targets of its endpoints."""

    def __init__(
        self, endpoints: Mapping[str, Endpoint], linger_timeout: float, challenges: Challenges
    ) -> None:
        self._endpoints = endpoints
        self._linger_timeout = linger_timeout
        self._challenges = challenges

    def reconfigure(self, endpoints: Mapping[str, Endpoint], linger_timeout: float) -> None:
        """Bring the streams that come from now on to these endpoints."""
        self._endpoints = endpoints
        self._linger_timeout = linger_timeout

    async def forward(self, stream: Stream) -> None:
        """Carry one stream from its header to its end; when this returns, it is freed."""
        try:
            async with asyncio.timeout(HEADER_TIMEOUT):
                header, first = await read_header(stream)
        except (TimeoutError, RemoteProtocolError) as error:
            is_late = isinstance(error, TimeoutError)
            stream.abort(Code.TIMEOUT if is_late else Code.PROTOCOL)
            log.debug("stream without a header", cause=error)
        except StreamReset as reset:
            log.debug("stream was cut in its header", code=reset.code.word)
        else:
            await self._route(Prefixed(stream, first), header)
        finally:
            stream.abort()

    def straight(self, header: StreamHeader) -> Straight | None:
        """Return how a visitor on a direct connection goes on without a task, None if it needs one.

        That is where TLS is passed through, to a target whose address is known.
        """
        endpoint = self._endpoints.get(header.name)
        if endpoint is None or header.kind is not StreamKind.VISITOR or not endpoint.is_passthrough:
            return None
        target = endpoint.settings.target
        place = place_of(target.address or target.path)
        if place is None or not endpoint.admits(header.peer[0]):
            return None
        return Straight(endpoint, place, self._linger_timeout)

    async def forward_direct(self, stream: DirectStream, header: StreamHeader) -> None:
        """Carry a visitor who has a connection to itself, whose header was read and unsealed."""
        try:
            if header.kind is not StreamKind.VISITOR:
                # Whoever could copy a prelude would else answer an authority.
                raise RemoteProtocolError("a validation on a direct connection")
            await self._route(stream, header)
        finally:
            stream.abort()

    async def _route(self, stream: Stream, header: StreamHeader) -> None:
        endpoint = self._endpoints.get(header.name)
        if endpoint is None:
            stream.abort(Code.NOT_SERVING)
        elif header.kind is StreamKind.CHALLENGE:
            await self._validate(stream, header)
        else:
            await self._receive(stream, header, endpoint)

    async def _validate(self, stream: Stream, header: StreamHeader) -> None:
        """Answer a validation that is expected; who may visit has no say in it."""
        challenge = self._challenges.get(header.name)
        if challenge is None or challenge.pending.context is None:
            stream.abort(Code.NOT_SERVING)
            return
        fields = {"name": header.name, "peer": header.peer[0]}
        try:
            await answer_validation(stream, challenge.pending.context)
        except (StreamReset, RemoteProtocolError) as error:
            log.debug("validation ended", cause=error, **fields)
            return
        challenge.answers += 1
        tell = log.info if challenge.answers <= ANSWERS_TOLD else log.debug
        tell("answered a validation", **fields)

    async def _receive(self, stream: Stream, header: StreamHeader, endpoint: Endpoint) -> None:
        fields = fields_of(header, endpoint)
        if not endpoint.admits(header.peer[0]):
            # Not `not_serving`: the relay would only try another connection of ours.
            stream.abort(Code.ABORTED)
            log.debug("visitor denied", **fields)
            return
        log.debug("visitor", **fields)
        try:
            with endpoint.visits.visit():
                await self._serve(stream, header, endpoint)
        except Refused as refusal:
            log.debug("visitor turned away", cause=refusal, **fields)
            await _turn_away(stream, refusal.code)
        except (StreamReset, RemoteProtocolError) as error:
            log.debug("visitor ended", cause=error, **fields)

    async def _serve(self, stream: Stream, header: StreamHeader, endpoint: Endpoint) -> None:
        context = endpoint.context(header.name)
        near: Stream | TlsStream = stream
        if context is not None:
            near = await terminate(stream, context, handshake_timeout=HANDSHAKE_TIMEOUT)
        try:
            target = await _reach(endpoint)
        except DialFailed as failure:
            endpoint.visits.target_failures += 1
            log.debug("target did not answer", endpoint=endpoint.name, cause=failure)
            await _excuse(near)
            return
        try:
            if endpoint.settings.proxy_protocol is not None:
                encode = PROXY_HEADERS[endpoint.settings.proxy_protocol]
                await target.send(encode(header.peer, header.local))
            await splice(near, target, self._linger_timeout, endpoint.visits.tally)
        finally:
            target.abort()
        if isinstance(near, TlsStream):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._linger_timeout):
                    await near.peer_parted()


def fields_of(header: StreamHeader, endpoint: Endpoint) -> dict[str, object]:
    """Return who visits whom, for logs."""
    peer = Address(*header.peer)
    return {"endpoint": endpoint.name, "name": header.name, "peer": peer, "id": header.id}


def place_of(target: Address | Path | None) -> Place | None:
    """Return where a target is, None if it has a name to be looked up."""
    if isinstance(target, Path):
        return Place(socket.AF_UNIX, str(target))
    family = family_of_literal(target.host) if target is not None else None
    return Place(family, target) if target is not None and family is not None else None


async def _reach(endpoint: Endpoint) -> Stream:
    """Connect to the target; raises DialFailed."""
    target = endpoint.settings.target
    where = target.address or target.path
    if where is None:
        raise DialFailed(f"{endpoint.name} has no target")
    return await connect(where, TARGET_TIMEOUT)


async def _turn_away(stream: Stream, code: Code) -> None:
    """Answer a ClientHello with an alert: the relay would have none for this code."""
    with suppress(StreamReset):
        await send_last(
            stream,
            INTERNAL_ERROR_ALERT,
            linger_timeout=PARTING_TIMEOUT,
            dropped_bytes=PARTING_BYTES,
        )
    stream.abort(code)


async def _excuse(near: Stream | TlsStream) -> None:
    """Tell a visitor whose service is down; what cannot be told in HTTP/1.1 is a cut."""
    try:
        if isinstance(near, TlsStream) and near.alpn in (None, "http/1.1"):
            await answer_in_place_of_target(near)
    finally:
        near.abort(Code.TARGET_DOWN)


async def read_header(stream: Stream) -> tuple[StreamHeader, bytes]:
    """Return a stream's header and the bytes that came after it in the same go.

    Cancel-safe only for a stream that is aborted then. Raises RemoteProtocolError, StreamReset.
    """
    reader = FrameReader(HEADER_LIMIT)
    while (payload := reader.next_frame()) is None:
        data = await stream.receive()
        if not data:
            raise RemoteProtocolError("the stream ended within its header")
        reader.feed(data)
    return decode_header(payload), reader.take_rest()
