"""The verbs that ask or tell a running program: status, reload, drain, explain, cert."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tunnel import __version__
from tunnel.cli.reports import (
    certificates_report,
    explanation_report,
    reload_report,
    status_report,
)
from tunnel.cli.running import Declined, Running, Unreachable, running
from tunnel.cli.tables import is_coloured, printable
from tunnel.runtime.exits import Exit

OK = 200
RELOAD_TIMEOUT = 300.0  # seconds; as long as the program takes for a page


def run_operation(program: str, arguments: Namespace) -> int:
    """Run the verb and return the exit status; raises SettingsError."""
    try:
        return _OPERATIONS[arguments.verb](running(program, arguments), arguments)
    except Unreachable as error:
        return _fail(Exit.UNAVAILABLE, str(error))
    except Declined as error:
        return _fail(Exit.RUNTIME, str(error))
    except BrokenPipeError:
        raise  # whoever read what is printed has left
    except OSError as error:
        return _fail(Exit.CANNOT_READ, f"{error.filename}: cannot be read: {error.strerror}")


def _fail(status: Exit, message: str) -> Exit:
    sys.stderr.write(f"{message}\n")
    return status


def _status(program: Running, arguments: Namespace) -> Exit:
    if arguments.check:
        return _check(program, arguments)
    answer = program.get("/status")
    _print(arguments, answer, lambda: status_report(answer, coloured=_may_colour()))
    return Exit.DONE


def _check(program: Running, arguments: Namespace) -> Exit:
    """Say in one line whether the program is ready, and by the status, 0 or 1."""
    status, text = program.exchange("GET", "/readyz")
    is_ready, why = status == OK, text.strip()
    members = {"ready": is_ready, "why": None if is_ready else why}
    _print(arguments, members, lambda: f"{why}\n")
    return Exit.DONE if is_ready else Exit.RUNTIME


def _reload(program: Running, arguments: Namespace) -> Exit:
    """Have settings read anew; the status tells whether they are, or could be, in force."""
    page = "/reload?dry_run=1" if arguments.dry_run else "/reload"
    outcome = program.post(page, timeout=RELOAD_TIMEOUT)
    _print(arguments, outcome, lambda: reload_report(outcome, is_dry=arguments.dry_run))
    if not arguments.json:
        sys.stderr.writelines(f"{printable(fault)}\n" for fault in outcome["faults"])
        if outcome["faults"] and not (outcome["applied"] or arguments.dry_run):
            sys.stderr.write("not reloaded: the settings from before stay in force\n")
    return Exit.SETTINGS if outcome["faults"] else Exit.DONE


def _drain(program: Running, arguments: Namespace) -> Exit:
    answer = program.post("/drain")
    _print(arguments, answer, lambda: "draining; it ends when that is done\n")
    return Exit.DONE


def _explain(program: Running, arguments: Namespace) -> Exit:
    answer = program.get(f"/explain?host={quote(arguments.host, safe='')}")
    _print(arguments, answer, lambda: explanation_report(answer, coloured=_may_colour()))
    return Exit.DONE


def _cert(program: Running, arguments: Namespace) -> Exit:
    if arguments.action == "list":
        rows = program.get("/certificates")
        _print(arguments, rows, lambda: certificates_report(rows, coloured=_may_colour()))
        return Exit.DONE
    answer = program.post("/certificates/renew", {"name": arguments.name})
    said = f"{answer['name']}: to be ordered {answer['order_at']}\n"
    _print(arguments, answer, lambda: said)
    return Exit.DONE


def _print(arguments: Namespace, value: Any, report: Callable[[], str]) -> None:
    """Print the value as JSON if that was asked for, else the report; raises Declined."""
    try:
        text = f"{json.dumps(value)}\n" if arguments.json else report()
    except (LookupError, TypeError, ValueError, AttributeError):
        whose = f"version {value.get('version', '?')}" if isinstance(value, dict) else "it"
        message = f"what {whose} answers cannot be shown by version {__version__}: try --json"
        raise Declined(OK, message) from None
    sys.stdout.write(text)
    sys.stdout.flush()


def _may_colour() -> bool:
    return is_coloured(sys.stdout, os.environ)


_OPERATIONS: dict[str, Callable[[Running, Namespace], Exit]] = {
    "status": _status,
    "reload": _reload,
    "drain": _drain,
    "explain": _explain,
    "cert": _cert,
}
