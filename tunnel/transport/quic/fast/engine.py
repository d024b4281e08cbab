"""The fast engine as a whole."""

from tunnel.transport.quic.fast.receiving import ReceivingConnection
from tunnel.transport.quic.fast.sending import SendingConnection


class FastEngine(SendingConnection, ReceivingConnection):
    """One QUIC connection, as Engine; both may be at the ends of one."""

    def get_timer(self) -> float | None:
        if not self._is_bypassing():
            return super().get_timer()
        self._loss_at = self._recovery.timer_at(self._space)
        times = [
            *(self._close_at, self._space.ack_at, self._loss_at),
            *(self._pacing_at, self._originals.due_at),
        ]
        return min((at for at in times if at is not None), default=None)
