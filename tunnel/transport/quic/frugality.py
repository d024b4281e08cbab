"""What a connection does not keep in memory: a relay has thousands, most of them idle."""

from typing import Any

from aioquic.quic.crypto import NoCallback
from aioquic.tls import Epoch

from tunnel.transport.quic.sizing import SizingConnection

_EPOCHS: dict[frozenset[Epoch], frozenset[Epoch]] = {}  # the few that there are, each once


class FrugalConnection(SizingConnection):
    """aioquic's connection, without what it holds for nothing."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._share_epochs()

    def _share_epochs(self) -> None:
        """Have all connections share the sets of which frame may come when: 7 KiB of each."""
        frames = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]  # its own name
        for kind, (handle, epochs) in frames.items():
            frames[kind] = handle, _EPOCHS.setdefault(epochs, epochs)

    def _confirm_handshake(self) -> None:
        """Drop the buffers of handshake messages, 48 KiB: neither end writes any after it."""
        super()._confirm_handshake()
        self._crypto_buffers.clear()

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
        self._QuicConnection__frame_handlers.clear()  # type: ignore[attr-defined]  # its own name
        if self._cryptos:  # else it has never begun
            self.tls.alpn_cb = None
            self.tls.update_traffic_key_cb = None  # type: ignore[assignment]  # nobody calls it


def _nothing() -> None:
    """Do nothing."""
