"""What moves an engine: datagrams that arrive, its timer, and wishes to send.

No task runs here, only callbacks of the endpoint and of the loop. What is asked for leaves in one
flush, a few turns of the loop later: whoever was woken meanwhile adds to the same datagrams.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from tunnel.transport.quic.endpoint import Endpoint
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.trains import Burst

TIMER_SLACK = 0.001  # seconds that a loop's timer may fire early

FLUSH_TURNS = 2
"""Turns of the loop between a wish to send and its flush.

In the first run those who hear what came, or that there is room; in the second those whom they
wake. In a busy loop each turn brings more to send; an idle one takes its turns at once. Handshake
and registration wait for none: nobody adds to them, and they may be racing those of HTTP/2.
"""


class Driver:
    """Drives one engine; `settle` is called after it has heard something or its timer fired.

    `fail` is told what the engine raises when nobody else could hear of it: in a callback of the
    loop. A connection whose timer died with an exception would hang.
    """

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        settle: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.engine = engine
        self.endpoint = endpoint
        self.last_heard = 0.0  # loop time
        self.flush_turns = 0  # FLUSH_TURNS once there are visitors
        self._settle = settle
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # engine time
        self._is_scheduled = False
        self._turns_left = 0  # that the scheduled flush lets pass
        self._is_stopped = False

    def hear(self, bursts: Sequence[Burst]) -> None:
        """Hand datagrams of the peer to the engine."""
        now = time.monotonic()
        before = self.engine.decrypted
        for payloads, source in bursts:
            self.engine.receive_burst(payloads, source, now)
        if self.engine.decrypted != before:
            self.last_heard = self._loop.time()
        self._settle()
        self.schedule_flush()

    def schedule_flush(self) -> None:
        """Send what there is to send soon, together with what is asked for until then."""
        if not self._is_scheduled and not self._is_stopped:
            self._is_scheduled = True
            self._turns_left = self.flush_turns
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        if self._turns_left:
            self._turns_left -= 1
            self._loop.call_soon(self._flush_scheduled)
            return
        self._is_scheduled = False
        self._guard(self.flush)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the owner decides, and logs
            self._fail(error)

    def flush(self) -> None:
        """Send what there is to send, and set the timer."""
        if self._is_stopped:
            return
        if self.endpoint.is_full:
            self.endpoint.when_writable(self.schedule_flush)
        elif self.engine.get_peer_address() is not None:
            self.endpoint.send(self.engine.bursts_to_send(time.monotonic()))
        self._set_timer()

    def stop(self) -> None:
        """Send our close, if we asked the engine for one, and do nothing ever after."""
        if self.engine.termination is not None and self.engine.get_peer_address() is not None:
            self.endpoint.send(self.engine.bursts_to_send(time.monotonic()))
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        """Have a timer that fires no later than the engine wants; a late wish costs nothing."""
        due = self.engine.get_timer()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._guard(self._take_time)

    def _take_time(self) -> None:
        due = self.engine.get_timer()
        now = time.monotonic()
        if due is not None and due <= now + TIMER_SLACK:
            self.engine.handle_timer(max(now, due))
            self._settle()
        self.flush()
