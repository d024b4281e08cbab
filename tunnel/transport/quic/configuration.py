"""What aioquic is told: the one place where our options become its configuration."""

import ssl
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.x509 import load_pem_x509_certificates

from tunnel.errors import SettingsError
from tunnel.tls.contexts import Trust, root_file
from tunnel.tls.slots import Certificate
from tunnel.transport.options import ALPN_QUIC, TransportOptions

CONNECTION_ID_BYTES = 8
DATAGRAM_BYTES = 1350  # UDP payload that every path is expected to carry
IDLE_TIMEOUT = 90.0  # the heartbeat above is the judge; this only clears away what it cannot reach


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


def _check_roots(path: Path) -> None:
    """Raise SettingsError now, since aioquic would raise anything, in the midst of a handshake."""
    try:
        load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise SettingsError([f"{path}: holds no usable PEM certificate"]) from error


def client_configuration(trust: Trust, options: TransportOptions) -> QuicConfiguration:
    """Return the configuration of one dial; raises SettingsError if the roots cannot be used."""
    configuration = _shared_by_roles(options, is_client=True)
    configuration.server_name = trust.server_name
    configuration.cafile = root_file(trust)
    if trust.by_name and trust.ca is not None:
        _check_roots(trust.ca)
    # With a pin the chain says nothing; the handshake's signature is verified in every case.
    configuration.verify_mode = ssl.CERT_REQUIRED if trust.by_name else ssl.CERT_NONE
    return configuration
