"""The program `client.pyz`. Module level imports next to nothing: `--version` answers at once."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from tunnel.cli.banner import Banner
    from tunnel.client.client import Client
    from tunnel.client.events import ClientEvent, EndpointState
    from tunnel.runtime.findings import Finding, Status
    from tunnel.runtime.notify import Notifier
    from tunnel.runtime.signals import Signals
    from tunnel.settings.values import ClientSettings


def main() -> int:
    """Run the command line and return the exit status."""
    from tunnel.cli.command import run_client_command  # noqa: PLC0415 - see the module's docstring

    return run_client_command(sys.argv[1:], serve, examine)


def serve(settings: "ClientSettings", *, qr: bool) -> int:
    """Run a client until a signal ends it; return the exit status. See cli.command.ServeClient."""
    import asyncio  # noqa: PLC0415 - as above

    from tunnel.admin.reception import Reception  # noqa: PLC0415 - as above
    from tunnel.admin.reloads import Attended, reload_pages  # noqa: PLC0415 - as above
    from tunnel.cli.again import client_settings  # noqa: PLC0415 - as above
    from tunnel.cli.banner import banner_for  # noqa: PLC0415 - as above
    from tunnel.client.client import Client  # noqa: PLC0415 - as above
    from tunnel.client.counts import Chronicle  # noqa: PLC0415 - as above
    from tunnel.client.desk import ClientDesk  # noqa: PLC0415 - as above
    from tunnel.client.events import Started  # noqa: PLC0415 - as above
    from tunnel.runtime.daemon import run_daemon  # noqa: PLC0415 - as above
    from tunnel.runtime.reloading import Reloader  # noqa: PLC0415 - as above
    from tunnel.runtime.supervision import first_of  # noqa: PLC0415 - as above

    targets = {name: str(endpoint.target) for name, endpoint in settings.endpoints.items()}
    banner = banner_for(sys.stdout, targets, os.environ, qr=qr)

    async def run(signals: "Signals", notifier: "Notifier") -> None:
        announce, chronicle = Announcer(banner), Chronicle()
        started = asyncio.Event()

        def on_event(event: "ClientEvent") -> None:
            if isinstance(event, Started):  # not only with a relay: one may be away at boot
                notifier.ready(
                    lambda: summary(client.info()), lambda: client.settings.drain_timeout
                )
                started.set()
            chronicle(event)
            announce(event)

        client = Client(settings, on_event=on_event)
        desk = ClientDesk(client, chronicle, signals.stop)
        reception = Reception(desk, settings.state_dir)
        attended = Attended(client, reception)
        reloader = Reloader("client", attended, lambda: client_settings(sys.argv[1:]))
        reception.open(settings.admin, reload_pages(reloader))
        await first_of(
            lambda: reception.run(lambda: run_until(signals.stop, client)),
            lambda: reloader.follow(signals.reload, started),
        )

    return run_daemon("client", settings.log, run)


async def examine(settings: "ClientSettings", status: "Status | None") -> "list[Finding]":
    """Return what the verb `doctor` finds; see tunnel.client.doctor."""
    from tunnel.client.doctor import examination  # noqa: PLC0415 - as above

    return await examination.examine(settings, status)


def summary(endpoints: "Iterable[EndpointState]") -> str:
    """Return in one line which names relays serve, and how they are reached or why not."""
    names: set[str] = set()
    served: set[str] = set()
    ways: dict[str, None] = {}  # in their order, each once
    for endpoint in endpoints:
        names.update(endpoint.names)
        for state in endpoint.servers:
            served.update(state.names)
            way = state.transport or f"not connected: {state.last_error or 'not tried yet'}"
            ways[f"{state.server}: {way}"] = None
    return "; ".join([f"names served: {len(served)} of {len(names)}", *ways])


async def run_until(stop: "asyncio.Event", client: "Client") -> None:
    """Run a client, and let it end in order once `stop` is set."""
    import asyncio  # noqa: PLC0415 - as above

    async def stop_when_asked() -> None:
        await stop.wait()
        client.stop()

    async with asyncio.TaskGroup() as group:
        stopper = group.create_task(stop_when_asked(), name="stop")
        await client.run()
        stopper.cancel()


class Announcer:
    """Prints `ID:` and `URL:`, one pair for each endpoint, once it is served for the first time.

    Below them stands the banner, where there is somebody to read it.
    """

    def __init__(self, banner: "Banner | None" = None) -> None:
        self._banner = banner
        self._announced: set[str] = set()

    def __call__(self, event: "ClientEvent") -> None:
        """Print what a program that waits for the URL reads from standard output."""
        from tunnel.client.events import Serving  # noqa: PLC0415 - as above

        if isinstance(event, Serving) and event.endpoint not in self._announced:
            self._announced.add(event.endpoint)
            below = self._banner.text(event.endpoint, event.url) if self._banner else ""
            sys.stdout.write(f"ID: {event.id}\nURL: {event.url}\n{below}")
            sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
