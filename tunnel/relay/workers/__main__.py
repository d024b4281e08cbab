"""The program of a worker; the head begins it (tunnel.runtime.workers.launching)."""

import socket
import sys

from tunnel.errors import TunnelError
from tunnel.log import get_log
from tunnel.runtime.loop import run
from tunnel.runtime.workers.launching import launched

log = get_log(__name__)


def main() -> int:
    """Run until the head says so; return the exit status."""
    control, tray, table, *slots = launched(sys.argv[1:])
    from tunnel.relay.workers.worker import Ends, Worker  # noqa: PLC0415 - signals first

    async def work() -> None:
        ends = Ends(adopted(control), adopted(tray), table, list(map(adopted, slots)))
        await Worker(ends).run()

    try:
        run(work())
    except TunnelError:  # the head was told
        return 1
    except Exception as error:  # noqa: BLE001 - the last boundary: logged, then the exit status
        log.error("worker ended by a fault of its own", exception=error)
        return 1
    return 0


def adopted(descriptor: int) -> socket.socket:
    """Return the socket that a descriptor is."""
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


if __name__ == "__main__":
    raise SystemExit(main())
