"""Signals as events: the first to end drains, the second ends at once, and SIGHUP reloads."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tunnel.log import get_log

log = get_log(__name__)


@dataclass(slots=True)
class Signals:
    """What the process was asked to do by signal."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0  # signals to stop; whoever asks in another way may be followed by one


@contextmanager
def handled_signals() -> Iterator[Signals]:
    """Handle SIGTERM, SIGINT and SIGHUP on the running loop while inside."""
    loop = asyncio.get_running_loop()
    signals = Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask_to_stop, signals, number)
    loop.add_signal_handler(signal.SIGHUP, _ask_to_reload, signals)
    try:
        yield signals
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        # Removing restores the default action, which for SIGHUP is death.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _ask_to_stop(signals: Signals, number: signal.Signals) -> None:
    signals.received += 1
    if signals.received > 1:
        log.warning("ended at once", signal=number.name)
        os._exit(128 + number)  # the operator asked twice: nothing may hold the process now
    log.info("asked to stop", signal=number.name)
    signals.stop.set()


def _ask_to_reload(signals: Signals) -> None:
    log.info("asked to reload", signal="SIGHUP")
    signals.reload.set()
