"""What a connection does not keep in memory: a relay has thousands, most of them idle."""

from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.connection import (
    CRYPTO_BUFFER_SIZE,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair, NoCallback
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from tunnel.transport.quic.sizing import SizingConnection

CRYPTO_MAX_BYTES = 64 * 1024  # of handshake messages, in each direction and epoch
IDS_HELD_MAX = 4  # connection ids that an end keeps of the other: one in use, three for new paths
_HANDLERS: dict[type, dict[int, tuple[Callable[..., None], frozenset[Epoch]]]] = {}
_NO_KEYS = CryptoPair()
_NO_DATAGRAMS: deque[bytes] = deque(maxlen=0)  # DATAGRAM frames, of which we have none
_OVER = QuicPacketSpace()  # of an epoch that is over
_OVER.discarded = True


class HandshakeBuffers(dict[Epoch, Buffer]):
    """What TLS writes into, made when it does."""

    def __missing__(self, epoch: Epoch) -> Buffer:
        return self.setdefault(epoch, Buffer(capacity=CRYPTO_BUFFER_SIZE))


class FrameHandlers:
    """Which method of a connection handles a kind of frame, and in which epochs it may come."""

    __slots__ = ("_connection", "_functions")

    def __init__(self, connection: "FrugalConnection") -> None:
        self._connection = connection
        self._functions = _HANDLERS[type(connection)]

    def __getitem__(self, kind: int) -> tuple[MethodType, frozenset[Epoch]]:
        function, epochs = self._functions[kind]
        return MethodType(function, self._connection), epochs


class FrugalConnection(SizingConnection):
    """aioquic's connection, without what it holds for nothing, or without a bound."""

    _QuicConnection__frame_handlers: Any  # aioquic's own name: there is no other way to it

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._share_handlers()
        self._datagrams_pending = _NO_DATAGRAMS
        self._local_active_connection_id_limit = IDS_HELD_MAX

    def _share_handlers(self) -> None:
        """Have one table of frame handlers for all connections: 7 KiB of each."""
        if type(self) not in _HANDLERS:
            methods = self._QuicConnection__frame_handlers
            _HANDLERS[type(self)] = {
                kind: (method.__func__, epochs) for kind, (method, epochs) in methods.items()
            }
        self._QuicConnection__frame_handlers = FrameHandlers(self)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._crypto_buffers = HandshakeBuffers()

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        """Refuse handshake messages that would take too much memory."""
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if end > CRYPTO_MAX_BYTES:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too many handshake bytes",
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _push_crypto_data(self) -> None:
        """Free the buffers as soon as they have been read: 48 KiB of each handshake under way."""
        super()._push_crypto_data()
        self._crypto_buffers.clear()

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        self._forget_epochs()
        self._forget_secrets()

    def _forget_epochs(self) -> None:
        """Drop what belongs to the epochs before this one; late packets of them find no keys."""
        self._discard_epoch(Epoch.INITIAL)
        this = Epoch.ONE_RTT
        self._cryptos = dict.fromkeys(Epoch, _NO_KEYS) | {this: self._cryptos[this]}
        self._cryptos_initial = dict.fromkeys(self._cryptos_initial, _NO_KEYS)
        self._crypto_streams = {this: self._crypto_streams[this]}
        self._spaces = dict.fromkeys(self._spaces, _OVER) | {this: self._spaces[this]}
        self._loss.spaces = [self._spaces[this]]

    def _forget_secrets(self) -> None:
        """Drop what TLS has used up: nothing is resumed here, so nothing is derived any more."""
        tls = self.tls
        tls.key_schedule = tls.received_extensions = None
        tls.handshake_extensions = []
        tls._ec_private_keys = []  # noqa: SLF001 - not public, nor those below
        tls._x25519_private_key = tls._x448_private_key = None  # noqa: SLF001

    def let_go(self) -> None:
        """Cut all ways back to itself, once nothing is heard or sent any more.

        It is then freed at once. The collector of cycles comes by late: all dials of a storm that
        failed would stay until then.
        """
        for pair in self._cryptos.values():
            for context in (pair.recv, pair.send):
                context._setup_cb = context._teardown_cb = NoCallback  # noqa: SLF001 - not public
        self._streams = {}
        self._loss._send_probe = _nothing  # noqa: SLF001 - nor this
        self._QuicConnection__frame_handlers = {}
        if self._cryptos:  # else it has never begun
            self.tls.alpn_cb = None
            self.tls.update_traffic_key_cb = None  # type: ignore[assignment]  # nobody calls it


def _nothing() -> None:
    """Do nothing."""
