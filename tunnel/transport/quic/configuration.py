"""Which engine runs and what aioquic is told: the one place where our options become its own."""

import ssl
from collections.abc import Mapping

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.packet import QuicProtocolVersion

from tunnel.tls.contexts import Trust
from tunnel.tls.slots import Certificate
from tunnel.transport.options import ALPN_QUIC, TransportOptions
from tunnel.transport.quic.bbr import Bbr
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.fast.engine import FastEngine
from tunnel.transport.quic.routes import CONNECTION_ID_BYTES

ENGINES: Mapping[str, type[Engine]] = {"fast": FastEngine, "stock": Engine}
DATAGRAM_BYTES = 1350  # UDP payload that most paths carry: tried once the handshake is over
IDLE_TIMEOUT = 90.0  # the heartbeat above is the judge; this only clears away what it cannot reach

register_congestion_control("bbr", Bbr)


def engine_kind(options: TransportOptions) -> type[Engine]:
    """Return the engine of new connections; the far end may have the other one."""
    return ENGINES[options.quic.engine]


def _shared_by_roles(options: TransportOptions, *, is_client: bool) -> QuicConfiguration:
    flow = options.flow
    return QuicConfiguration(
        alpn_protocols=[ALPN_QUIC],
        congestion_control_algorithm=options.quic.congestion,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT,
        is_client=is_client,
        max_data=min(flow.connection_window, flow.parked_max),
        max_datagram_size=DATAGRAM_BYTES,
        max_stream_data=flow.stream_window,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )


def relay_configuration(certificate: Certificate, options: TransportOptions) -> QuicConfiguration:
    """Return the configuration of all connections that are shown this certificate."""
    configuration = _shared_by_roles(options, is_client=False)
    configuration.certificate, *configuration.certificate_chain = certificate.chain
    configuration.private_key = certificate.key
    return configuration


def client_configuration(trust: Trust, options: TransportOptions) -> QuicConfiguration:
    """Return the configuration of one dial, whose chain is for a RelayVerifier to judge."""
    configuration = _shared_by_roles(options, is_client=True)
    configuration.server_name = trust.server_name
    configuration.verify_mode = ssl.CERT_NONE
    return configuration
