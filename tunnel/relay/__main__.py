"""The program `relay.pyz`. Module level imports next to nothing: `--version` answers at once."""

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel.relay.server import Opening, Relay
    from tunnel.relay.workers.head import Head
    from tunnel.runtime.activation import InheritedSockets
    from tunnel.runtime.findings import Finding, Status
    from tunnel.runtime.notify import Notifier
    from tunnel.runtime.signals import Signals
    from tunnel.settings.values import RelaySettings


def main() -> int:
    """Run the command line and return the exit status."""
    from tunnel.cli.command import run_relay_command  # noqa: PLC0415 - see the module's docstring

    return run_relay_command(sys.argv[1:], serve, examine)


def serve(settings: "RelaySettings") -> int:
    """Run a relay until a signal ends it; return the exit status."""
    import asyncio  # noqa: PLC0415 - as above

    from tunnel.admin.reception import Reception  # noqa: PLC0415 - as above
    from tunnel.admin.reloads import Attended, reload_pages  # noqa: PLC0415 - as above
    from tunnel.cli.again import relay_settings  # noqa: PLC0415 - as above
    from tunnel.relay.desk import RelayDesk  # noqa: PLC0415 - as above
    from tunnel.runtime.activation import inherited_sockets  # noqa: PLC0415 - as above
    from tunnel.runtime.daemon import run_daemon  # noqa: PLC0415 - as above
    from tunnel.runtime.reloading import Reloader  # noqa: PLC0415 - as above
    from tunnel.runtime.supervision import first_of  # noqa: PLC0415 - as above

    async def run(signals: "Signals", notifier: "Notifier") -> None:
        started = asyncio.Event()

        def open_up(opening: "Opening") -> None:
            announce(settings, opening)
            notifier.ready(lambda: str(relay.census()), lambda: relay.settings.drain_timeout)
            started.set()

        with closing(inherited_sockets(os.environ)) as inherited:
            relay = make_relay(settings, open_up, inherited)
            desk = RelayDesk(relay, signals.stop)
            reception = Reception(desk, settings.state_dir)
            attended = Attended(relay, reception)
            reloader = Reloader("relay", attended, lambda: relay_settings(sys.argv[1:]))
            reception.open(settings.admin, {**desk.pages, **reload_pages(reloader)})
            await first_of(
                lambda: reception.run(lambda: relay.run(signals.stop)),
                lambda: reloader.follow(signals.reload, started),
            )

    return run_daemon("relay", settings.log, run)


def make_relay(
    settings: "RelaySettings",
    on_open: "Callable[[Opening], None]",
    inherited: "InheritedSockets",
) -> "Head | Relay":
    """Return a relay of as many processes as settings say; raises SettingsError."""
    if settings.workers > 1:
        from tunnel.relay.workers.head import Head  # noqa: PLC0415 - of few relays

        return Head(settings, on_open=on_open, inherited=inherited)
    from tunnel.relay.server import Relay  # noqa: PLC0415 - as above

    return Relay(settings, on_open=on_open, inherited=inherited)


async def examine(settings: "RelaySettings", status: "Status | None") -> "list[Finding]":
    """Return what the verb `doctor` finds; see tunnel.relay.doctor."""
    from tunnel.relay.doctor import examination  # noqa: PLC0415 - as above

    return await examination.examine(settings, status)


def announce(settings: "RelaySettings", opening: "Opening") -> None:
    """Print the client line to use, with the pin if it lasts, one for each suffix."""
    for suffix in settings.suffixes:
        sys.stdout.write(f"Client: {client_line(opening, suffix)}\n")
    sys.stdout.flush()


def client_line(opening: "Opening", suffix: str) -> str:
    """Return the command that makes a client of this relay."""
    pin = "" if opening.pin is None else f"--pin sha256:{opening.pin.hex()} "
    return f"client.pyz --server {opening.server} --domain-suffix {suffix} {pin}--local 3000"


if __name__ == "__main__":
    raise SystemExit(main())
