"""The one way into both programs: everything but running the daemon itself.

Module level stays light, so that `--version` answers at once: settings, keys and all that they
import are loaded inside the functions that need them.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from tunnel.cli.arguments import parse_client, parse_relay
from tunnel.cli.verb_flags import DOCTOR
from tunnel.errors import SettingsError
from tunnel.runtime.exits import Exit, exit_for

if TYPE_CHECKING:
    from tunnel.cli.doctor import Findings
    from tunnel.runtime.findings import Status
    from tunnel.settings.schema import Schema
    from tunnel.settings.tree import Table
    from tunnel.settings.values import ClientSettings, RelaySettings

T = TypeVar("T")

OPERATING_VERBS = frozenset({"status", "reload", "drain", "explain", "cert"})


class ServeClient(Protocol):
    """Runs a client on settings that are free of faults and returns the exit status."""

    def __call__(self, settings: "ClientSettings", /, *, qr: bool) -> int:
        """With `qr`, URLs are to be drawn where a person sees them."""


def run_relay_command(
    argv: Sequence[str],
    serve: "Callable[[RelaySettings], int]",
    examine: "Callable[[RelaySettings, Status | None], Findings]",
) -> int:
    """Do what relay.pyz is asked to and return the exit status.

    `serve` runs the daemon on settings that are free of faults and returns its status; `examine`
    is what the verb `doctor` is about, and gets what a daemon that runs says of itself.
    """
    return _guard(lambda: _run_relay(parse_relay(argv), serve, examine))


def run_client_command(
    argv: Sequence[str],
    serve: ServeClient,
    examine: "Callable[[ClientSettings, Status | None], Findings]",
) -> int:
    """Do what client.pyz is asked to and return the exit status; see `run_relay_command`."""
    return _guard(lambda: _run_client(parse_client(argv), serve, examine))


def _guard(run: Callable[[], int]) -> int:
    """Return the status of `run`, of its early end, or of faults in settings (73, 78).

    The latter may show as late as when a daemon or a verb reads the key that settings name.
    """
    try:
        return run()
    except BrokenPipeError:
        return _end_without_reader()
    except KeyboardInterrupt:  # a verb, or a daemon that has no handler yet
        return 128 + signal.SIGINT
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.DONE
    except SettingsError as error:
        _complain("\n".join(error.faults))
        return exit_for(error)


def _end_without_reader() -> int:
    """Return the status of a program whose reader has left; nothing more can be printed."""
    with open(os.devnull, "wb") as nowhere:  # else the interpreter complains when it flushes
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _run_relay(
    arguments: Namespace,
    serve: "Callable[[RelaySettings], int]",
    examine: "Callable[[RelaySettings, Status | None], Findings]",
) -> int:
    if arguments.verb not in (None, DOCTOR):
        return _run_verb("relay", arguments)
    from tunnel.cli.quickstart import OPEN_WARNING, is_bare  # noqa: PLC0415 - see the module's docstring
    from tunnel.cli.sources import relay_tree  # noqa: PLC0415 - as above
    from tunnel.settings.load import read_relay  # noqa: PLC0415 - as above
    from tunnel.settings.relay_schema import RELAY  # noqa: PLC0415 - as above

    settings = _settle(arguments, RELAY, relay_tree, read_relay)
    if isinstance(settings, int):
        return settings
    if arguments.verb == DOCTOR:
        return _run_doctor("relay", arguments, partial(examine, settings))
    if arguments.config is None and is_bare(arguments):
        _complain(f"relay.pyz: warning: {OPEN_WARNING}")
    return serve(settings)


def _run_client(
    arguments: Namespace,
    serve: ServeClient,
    examine: "Callable[[ClientSettings, Status | None], Findings]",
) -> int:
    if arguments.verb not in (None, DOCTOR):
        return _run_verb("client", arguments)
    from tunnel.cli.sources import client_tree  # noqa: PLC0415 - as above
    from tunnel.settings.client_schema import CLIENT  # noqa: PLC0415 - as above
    from tunnel.settings.load import read_client  # noqa: PLC0415 - as above

    settings = _settle(arguments, CLIENT, client_tree, read_client)
    if isinstance(settings, int):
        return settings
    if arguments.verb == DOCTOR:
        return _run_doctor("client", arguments, partial(examine, settings))
    if arguments.qr and not sys.stdout.isatty():
        _complain("client.pyz: warning: --qr is ignored: standard output is no terminal")
    return serve(settings, qr=arguments.qr)


def _run_doctor(
    program: str, arguments: Namespace, examine: "Callable[[Status | None], Findings]"
) -> int:
    from tunnel.cli.doctor import run_doctor  # noqa: PLC0415 - as above

    return run_doctor(program, arguments, examine)


def _run_verb(program: str, arguments: Namespace) -> int:
    """Run a verb; what each kind of them needs takes time to load, and no other waits for it."""
    if arguments.verb in OPERATING_VERBS:
        from tunnel.cli.operations import run_operation  # noqa: PLC0415 - as above

        return run_operation(program, arguments)
    if arguments.verb == "completion":
        from tunnel.cli.completion import completion_script  # noqa: PLC0415 - as above

        _print(completion_script(program, arguments.shell))
        return Exit.DONE
    from tunnel.cli.verbs import run_verb  # noqa: PLC0415 - as above

    return run_verb(program, arguments)


def _settle(
    arguments: Namespace,
    schema: "Schema",
    plant: "Callable[[Namespace], Table]",
    read: "Callable[..., T]",
) -> T | int:
    """Return the settings to serve on, or the status to end with."""
    from tunnel.cli.sources import MisplacedStandIn  # noqa: PLC0415 - as above
    from tunnel.settings.reader import Circumstances  # noqa: PLC0415 - as above

    try:
        tree = plant(arguments)
        if arguments.show_config:
            _print_config(schema, tree, os.environ)
        settings = read(tree, Circumstances(os.environ, is_check=arguments.check))
    except SettingsError as error:
        if arguments.config is not None:
            raise
        _complain("\n".join(error.faults))
        return Exit.USAGE
    except MisplacedStandIn as error:
        _complain(f"{schema.program}.pyz: error: {error}")
        return Exit.USAGE
    except OSError as error:
        _complain(f"{error.filename}: cannot be read: {error.strerror}")
        return Exit.CANNOT_READ
    if arguments.check:
        _print(f"{_judged(arguments)}: no faults\n")
    return Exit.DONE if arguments.check or arguments.show_config else settings


def _judged(arguments: Namespace) -> str:
    return str(arguments.stands_for or arguments.config or "command line")


def _print_config(schema: "Schema", tree: "Table", environment: Mapping[str, str]) -> None:
    from tunnel.cli.show import show_config  # noqa: PLC0415 - as above

    _print(show_config(schema, tree, environment))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
