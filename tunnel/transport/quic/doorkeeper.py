"""What a listener does with a datagram that belongs to no connection. Sans-I/O.

It is answered without keeping anything, admitted as the first one of a new connection, or dropped.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from tunnel.transport.options import ALONE, Share
from tunnel.transport.quic.reset import RateLimit, reset_datagram, reset_token
from tunnel.transport.quic.routes import CONNECTION_ID_BYTES
from tunnel.transport.quic.trains import Train

HARD_CAP = 4  # times `half_open`: above it not even a client that proved its address gets in
VERSIONS = [int(QuicProtocolVersion.VERSION_1)]


@dataclass(frozen=True, slots=True)
class Admission:
    """A new connection may begin; the ids are what its handshake has to name (RFC 9000 §7.3)."""

    original_id: bytes
    retry_id: bytes | None


def destination_of(payload: bytes) -> bytes:
    """Return the connection id that a datagram is addressed to; b"" if it is none of QUIC's."""
    if len(payload) < 1 + CONNECTION_ID_BYTES:
        return b""
    if not payload[0] & 0x80:
        return payload[1 : 1 + CONNECTION_ID_BYTES]
    return payload[6 : 6 + payload[5]]


def by_destination(payloads: Sequence[bytes]) -> Iterable[tuple[bytes, Sequence[bytes]]]:
    """Return stretches of datagrams that are addressed to the same connection id.

    Datagrams that came one after the other from one place mostly are, and have short headers.
    """
    if isinstance(payloads, Train):
        destination = payloads.shared(1, 1 + CONNECTION_ID_BYTES)
        if destination is not None and payloads.every(0).isascii():
            return [(destination, payloads)]
    if len(payloads) == 1:
        return [(destination_of(payloads[0]), payloads)]
    return [(key, list(part)) for key, part in groupby(payloads, destination_of)]


def _long_header(payload: bytes) -> QuicHeader | None:
    if len(payload) < SMALLEST_MAX_DATAGRAM_SIZE:
        return None  # an answer must not be worth a spoofed address
    try:
        return pull_quic_header(Buffer(data=payload), host_cid_length=CONNECTION_ID_BYTES)
    except ValueError:
        return None


class Doorkeeper:
    """Judges datagrams by what the listener has open; times are monotonic seconds."""

    def __init__(self, reset_key: bytes, half_open: int, now: float, share: Share = ALONE) -> None:
        self._reset_key = reset_key
        self._share = share
        self.half_open = half_open
        self._resets = RateLimit(now)
        self._tokens = QuicRetryTokenHandler()

    def judge(
        self,
        payload: bytes,
        source: Any,
        half_open: int,
        now: float,
    ) -> bytes | Admission | None:
        """Return the answer, or the admission, or None for nothing at all."""
        if not destination_of(payload):
            return None
        if not payload[0] & 0x80:
            return self._reset(payload, now)
        header = _long_header(payload)
        if header is None or header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            return None
        if header.version not in VERSIONS:
            return encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=VERSIONS,
            )
        if header.packet_type is not QuicPacketType.INITIAL:
            return None
        return self._admit(header, source, half_open, now)

    def _reset(self, payload: bytes, now: float) -> bytes | None:
        token = reset_token(self._reset_key, destination_of(payload))
        answer = reset_datagram(token, len(payload))
        return answer if answer is not None and self._resets.allows(now) else None

    def _admit(
        self,
        header: QuicHeader,
        source: Any,
        half_open: int,
        now: float,
    ) -> bytes | Admission | None:
        if half_open >= self.half_open * HARD_CAP:
            return None
        if header.token:
            return self._admit_retried(header, source, now)
        if half_open >= self.half_open:
            return self._retry(header, source, now)
        return Admission(header.destination_cid, None)

    def _admit_retried(
        self,
        header: QuicHeader,
        source: Any,
        now: float,
    ) -> Admission | None:
        try:
            original_id = self._tokens.validate_token(
                address=source,
                destination_cid=header.destination_cid,
                token=header.token,
                now=now,
            )
        except ValueError:
            return None  # ours live 30 s, and no client waits that long
        return Admission(original_id, header.destination_cid)

    def _retry(self, header: QuicHeader, source: Any, now: float) -> bytes:
        """Make the client prove that it receives at its address (RFC 9000 §8.1.2)."""
        source_id = self._share.mark(os.urandom(CONNECTION_ID_BYTES))
        token = self._tokens.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        return encode_quic_retry(
            version=VERSIONS[0],
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
