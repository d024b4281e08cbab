#!/usr/bin/env -S python3 -I
"""What a container starts: its environment, judged, and turned into one command line.

Called as `entrypoint relay [ARGUMENT…]` or `entrypoint client [ARGUMENT…]`; see
docs/operations.md, "Containers". It knows variables, their flags and how plain values are written.
What a value means is judged by the program itself, whose complaints come out with the variable in
the place of the flag. Needs nothing but Python's own library, and no shell sees any value.
"""

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

DATA = Path("/data")
PROGRAMS = Path("/usr/local/bin")
FAULTY = 78  # EX_CONFIG of sysexits.h, as both programs have it for settings
USAGE = 2  # what a program says of flags, and of what they mean
DOCTOR = "doctor"  # the one verb that takes what a start takes
LIKENESS = 0.85  # of a name that is most likely a variable's, misspelt

ON, OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
LEVELS: Mapping[str, list[str]] = {"debug": ["-v"], "info": [], "warning": ["-q"]}


class Misfit(ValueError):  # noqa: N818 - says what is wrong with one value
    """A value is not written as it has to be; the text says how it is, and what was expected."""


class Faults(Exception):  # noqa: N818 - there may be one or many
    """What is wrong with an environment, a line for each fault."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Form:
    """How a value is written: in words, and as what follows from it on the command line.

    `arguments` takes flag and value; it raises Misfit.
    """

    words: str
    arguments: Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Variable:
    """A variable and its flag. Some change what a settings file says, as their flags do."""

    name: str
    flag: str
    form: Form
    is_required: bool = False
    goes_with_file: bool = False


def _expected(value: str, is_not: str, expected: str) -> Misfit:
    return Misfit(f'"{value}" is not {is_not} (expected {expected})')


def _text(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"]


def _list(flag: str, value: str) -> list[str]:
    items = [item.strip() for item in value.split(",")]
    if not any(items):
        raise _expected(value, "a list", "one or more, with commas between them")
    return [f"{flag}={item}" for item in items if item]


def _switch(flag: str, value: str) -> list[str]:
    if value.lower() not in (*ON, *OFF):
        raise _expected(value, "true or false", f"{', '.join(ON)}, {', '.join(OFF)}")
    return [flag] if value.lower() in ON else []


def _level(_flag: str, value: str) -> list[str]:
    if value.lower() not in LEVELS:
        raise _expected(value, "a level", ", ".join(LEVELS))
    return LEVELS[value.lower()]


def _address(flag: str, value: str) -> list[str]:
    try:
        return [f"{flag}={ip_address(value)}"]
    except ValueError:
        raise _expected(value, "an IP address", "one such as 0.0.0.0 or ::") from None


def _number(last: int, what: str = "a number") -> Form:
    def arguments(flag: str, value: str) -> list[str]:
        if not re.fullmatch("[0-9]{1,5}", value) or not 1 <= int(value) <= last:
            raise _expected(value, what, f"1 to {last}")
        return [f"{flag}={int(value)}"]

    return Form(f"{what}, 1 to {last}", arguments)


def _choice(*words: str) -> Form:
    def arguments(flag: str, value: str) -> list[str]:
        if value not in words:
            raise _expected(value, "known", ", ".join(words))
        return [f"{flag}={value}"]

    return Form(", ".join(words), arguments)


TEXT = Form("text", _text)
LIST = Form("list", _list)
SWITCH = Form("true or false", _switch)
LEVEL = Form(", ".join(LEVELS), _level)
ADDRESS = Form("an IP address", _address)
PORT = _number(65535, "a port")

LOGGING = (
    Variable("LOG_LEVEL", "-v", LEVEL, goes_with_file=True),
    Variable(
        "LOG_FORMAT",
        "--log-format",
        _choice("auto", "text", "json", "journald"),
        goes_with_file=True,
    ),
)
AUTHORITY = (
    Variable("ACME_EMAIL", "--acme-email", TEXT),
    Variable("ACME_CREDS_PATH", "--acme-creds-path", TEXT),
    Variable("ACME_STAGING", "--acme-staging", SWITCH),
    Variable("ACME_DIRECTORY", "--acme-directory", TEXT),
    Variable("ACME_CA", "--acme-ca", TEXT),
)
VARIABLES: Mapping[str, Sequence[Variable]] = {
    "relay": (
        Variable("DOMAIN_SUFFIX", "--domain-suffix", LIST, is_required=True),
        Variable("ALLOW", "--allow", LIST),
        Variable("OPEN", "--open", SWITCH),
        Variable("BIND_ADDR", "--bind-addr", ADDRESS),
        Variable("API_PORT", "--api-port", PORT),
        Variable("PUB_PORT", "--pub-port", PORT),
        Variable("ALPN_PORT", "--alpn-port", PORT),
        Variable("TLS_CERT_PATH", "--tls-cert", TEXT),
        Variable("TLS_KEY_PATH", "--tls-key", TEXT),
        Variable("ACME_DOMAIN", "--acme-domain", LIST),
        *AUTHORITY,
        Variable("ACME_RENEW_DAYS", "--acme-renew-days", _number(365)),
        *LOGGING,
    ),
    "client": (
        Variable("SERVER_ADDR", "--server", LIST, is_required=True),
        Variable("DOMAIN_SUFFIX", "--domain-suffix", TEXT, is_required=True),
        Variable("LOCAL_ADDR", "--local", TEXT),
        Variable("PIN", "--pin", TEXT),
        Variable("CA", "--ca", TEXT),
        Variable("INSECURE", "--insecure", SWITCH),
        Variable("PRIMARY_KEY", "--primary-key", TEXT),
        Variable("PRIMARY_CERT_EXTENSION_HEX", "--primary-cert-extension-hex", TEXT),
        Variable("SECONDARY_KEY", "--secondary-key", TEXT),
        Variable("SECONDARY_LOCAL", "--secondary-local", TEXT),
        Variable("SECONDARY_CERT_EXTENSION_HEX", "--secondary-cert-extension-hex", TEXT),
        Variable("ID_BITS", "--id-bits", _choice("64", "128")),
        Variable("FORCE_HTTP2", "--force-h2", SWITCH, goes_with_file=True),
        Variable("POOL_SIZE", "--pool-size", _number(64), goes_with_file=True),
        *AUTHORITY,
        Variable("CERT_PEM_PATH", "--cert-pem", TEXT),
        *LOGGING,
    ),
}
TOGETHER = ("TLS_CERT_PATH", "TLS_KEY_PATH")


@dataclass(frozen=True)
class Start:
    """The arguments of a program, what to say first, and whether variables alone gave them."""

    arguments: list[str]
    notes: list[str] = field(default_factory=list)
    is_from_variables: bool = False


def plan_start(
    program: str, environment: Mapping[str, str], arguments: Sequence[str], file: Path | None
) -> Start:
    """Return how to start `relay` or `client`; raises Faults.

    `arguments` are those of the container, `file` the settings in /data if there are any. A verb
    and a question such as --help stand for themselves; `doctor` is told all but how to log.
    """
    if _is_about_itself(arguments):
        return Start(list(arguments))
    if arguments and arguments[0] == DOCTOR:
        silent = {variable.name: "" for variable in LOGGING}
        examined = plan_start(program, {**environment, **silent}, arguments[1:], file)
        return Start([DOCTOR, *examined.arguments])
    given = {
        variable: value
        for variable in VARIABLES[program]
        if (value := environment.get(variable.name, "").strip())
    }
    named = _named_file(arguments)
    if named or file:
        flags = _beside_file(given, named or str(file))
        return Start([*([] if named else ["-c", str(file)]), *flags, *arguments])
    flags = _flags(given, _missing(program, given, arguments))
    command = [*flags, *arguments]
    return Start(command, [*_notes(program, command, environment)], not arguments)


def _is_about_itself(arguments: Sequence[str]) -> bool:
    is_verb = bool(arguments) and not arguments[0].startswith("-") and arguments[0] != DOCTOR
    return is_verb or not {"-h", "--help", "--version"}.isdisjoint(arguments)


def _named_file(arguments: Sequence[str]) -> str | None:
    """Return what follows -c, which may also stand in one word with it or with -v and -q."""
    parser = ArgumentParser("entrypoint", add_help=False, allow_abbrev=False)
    parser.add_argument("-c", dest="file")
    parser.add_argument("-v", "-q", action="store_true")
    file: str | None = parser.parse_known_args(arguments)[0].file
    return file


def _beside_file(given: Mapping[Variable, str], file: str) -> list[str]:
    """Return the flags of variables that change what a file says; the others are faults."""
    return _flags(
        {variable: value for variable, value in given.items() if variable.goes_with_file},
        [
            f"{variable.name}: does not go with {file}: unset it, and say it in that file"
            for variable in given
            if not variable.goes_with_file
        ],
    )


def _missing(program: str, given: Mapping[Variable, str], arguments: Sequence[str]) -> list[str]:
    """Return a fault for each variable that is needed, and whose flag is not given instead."""
    return [
        f"{variable.name}: not set (expected a value, or settings in {DATA / program}.toml)"
        for variable in VARIABLES[program]
        if variable.is_required and variable not in given and not _has(arguments, variable.flag)
    ]


def _has(arguments: Sequence[str], *flags: str) -> bool:
    return any(argument.partition("=")[0] in flags for argument in arguments)


def _flags(given: Mapping[Variable, str], faults: Sequence[str] = ()) -> list[str]:
    """Return what all values come to on a command line; raises Faults, those known already too."""
    flags, faults = [], [*faults, *_halves({variable.name for variable in given})]
    for variable, value in given.items():
        try:
            flags += variable.form.arguments(variable.flag, value)
        except Misfit as misfit:
            faults.append(f"{variable.name}: {misfit}")
    if faults:
        raise Faults(faults)
    return flags


def _halves(names: set[str]) -> Iterator[str]:
    lacking = [name for name in TOGETHER if name not in names]
    if len(lacking) == 1:
        [other] = names.intersection(TOGETHER)
        yield f"{lacking[0]}: not set (expected beside {other})"


def _notes(program: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what a person should know who wonders why nothing comes through."""
    known = {variable.name for each in VARIABLES.values() for variable in each}
    for name in sorted(environment.keys() - known):
        for meant in get_close_matches(name, known, n=1, cutoff=LIKENESS):
            yield f"{name} is not read: {meant} may be meant"
    if program == "client" and not _has(command, "--local"):
        yield "LOCAL_ADDR is not set: visitors are sent to 127.0.0.1:3000, as seen from in here"
    if program == "relay" and not _has(command, "--allow", "--open"):
        yield (
            "nobody may register: set ALLOW to the fingerprints of clients (sha256:…, with commas "
            "between them), or OPEN=true to admit anyone with a key"
        )


def in_variables(program: str, complaint: str) -> str:
    """Return what a program has said of flags, said of the variables that they came from."""
    names = {variable.flag: variable.name for variable in VARIABLES[program]}
    lines = [line for line in complaint.splitlines() if not line.startswith(("usage:", " "))]
    text = "\n".join(line.removeprefix(f"{program}.pyz: error: ") for line in lines)
    return re.sub(
        r"(?:\bargument )?(?<![\w-])(--[a-z][a-z0-9-]*)",
        lambda found: names.get(found[1], found[0]),
        text,
    )


def judge(program: str, command: Sequence[str]) -> None:
    """Have the program look at settings that come from variables; raises Faults, SystemExit.

    `--show-config` judges more than `--check`: whether this very user can read every file. It does
    what the start will do anyway, so that it has no deadline of its own.
    """
    judged = subprocess.run(
        [*command, "--show-config"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if judged.returncode in (USAGE, FAULTY):
        raise Faults(in_variables(program, judged.stderr).splitlines())
    if judged.returncode:
        sys.stderr.write(judged.stderr)
        raise SystemExit(judged.returncode)


def main(program: str, arguments: Sequence[str]) -> NoReturn:
    """Become the program, or end with the status of an environment that has faults."""
    file = DATA / f"{program}.toml"
    launch = [sys.executable, "-I", str(PROGRAMS / f"{program}.pyz")]
    try:
        start = plan_start(program, os.environ, arguments, file if file.exists() else None)
        command = [*launch, *start.arguments]
        if start.is_from_variables:
            judge(program, command)
    except Faults as faults:
        sys.stderr.write("".join(f"{line}\n" for line in faults.lines))
        sys.exit(FAULTY)
    sys.stderr.write("".join(f"note: {line}\n" for line in start.notes))
    sys.stderr.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
