"""A daemon's process from settings to exit status."""

import os
from collections.abc import Callable, Coroutine
from typing import Any

from tunnel.errors import SettingsError, TunnelError
from tunnel.log import get_log
from tunnel.runtime.exits import Exit, exit_for
from tunnel.runtime.logs import set_up_logs
from tunnel.runtime.loop import run
from tunnel.runtime.notify import Notifier
from tunnel.runtime.signals import Signals, handled_signals
from tunnel.runtime.supervision import first_of
from tunnel.settings.values import LogSettings

log = get_log(__name__)

Serve = Callable[[Signals, Notifier], Coroutine[Any, Any, None]]


def run_daemon(program: str, logs: LogSettings, serve: Serve) -> int:
    """Run `serve`, of `relay` or `client`, until it returns or fails; return the exit status.

    `serve` tells the notifier when it is ready. A fault of the operator's is told in one line
    each; anything else unforeseen with a traceback.
    """
    set_up_logs(logs, identifier=f"tunnel-{program}")
    notifier = Notifier(os.environ)

    async def main() -> None:
        with handled_signals() as signals:
            await first_of(lambda: serve(signals, notifier), *notifier.works(signals.stop))

    try:
        run(main())
    except Exception as error:  # noqa: BLE001 - the last boundary: logged, then the exit status
        notifier.failed(str(error) or type(error).__name__)
        return _told(error)
    log.info("ended")
    return Exit.DONE


def _told(error: Exception) -> Exit:
    """Log what ended the process, for whom it concerns, and return the exit status."""
    if isinstance(error, SettingsError):
        for fault in error.faults:
            log.error(fault)
        return exit_for(error)
    if isinstance(error, TunnelError):
        log.error(str(error))
    else:
        log.error("ended by a fault of its own", exception=error)
    return Exit.RUNTIME
