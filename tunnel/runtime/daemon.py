"""A daemon's process from settings to exit status."""

from collections.abc import Callable, Coroutine
from typing import Any

from tunnel.errors import SettingsError, TunnelError
from tunnel.log import get_log
from tunnel.runtime.exits import Exit, exit_for
from tunnel.runtime.logs import set_up_logs
from tunnel.runtime.loop import run
from tunnel.runtime.signals import Signals, handled_signals
from tunnel.settings.values import LogSettings

log = get_log(__name__)


def run_daemon(
    program: str, logs: LogSettings, serve: Callable[[Signals], Coroutine[Any, Any, None]]
) -> int:
    """Run `serve`, of `relay` or `client`, until it returns or fails; return the exit status.

    A fault of the operator's is told in one line each; anything else unforeseen with a traceback.
    """
    set_up_logs(logs, identifier=f"tunnel-{program}")

    async def main() -> None:
        with handled_signals() as signals:
            await serve(signals)

    try:
        run(main())
    except SettingsError as error:
        for fault in error.faults:
            log.error(fault)
        return exit_for(error)
    except TunnelError as error:
        log.error(str(error))
        return Exit.RUNTIME
    except Exception as error:  # noqa: BLE001 - the last boundary: logged, then exit 1
        log.error("ended by a fault of its own", exception=error)
        return Exit.RUNTIME
    log.info("ended")
    return Exit.DONE
