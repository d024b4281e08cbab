"""What `--help` says of each program and each verb besides its flags. Imports nothing heavy."""

from collections.abc import Mapping
from types import MappingProxyType

from tunnel.cli.manual import Page, Rows
from tunnel.runtime.exits import Exit

SUMMARIES = {
    "relay": "lets visitors in, and passes them on to the clients of a tunnel",
    "client": "serves a local service under a name of a relay's",
}

STATUSES: Mapping[int, str] = MappingProxyType(
    {
        Exit.DONE: "done",
        Exit.RUNTIME: "runtime error; `status --check`: not ready; `doctor`: something has failed; "
        "a running program has said no",
        Exit.USAGE: "bad usage, or a quick start whose flags have faults",
        Exit.UNAVAILABLE: "the running program does not answer, or this user may not ask it",
        Exit.CANNOT_WRITE: "a file cannot be written (keys and `state_dir` included)",
        Exit.CANNOT_READ: "a file cannot be read",
        Exit.SETTINGS: "faults in settings, or in a key file; `reload`: nothing was changed",
        130: "ended at once by a second SIGINT; a verb, or a start, by the first",
        141: "whoever read the output of a verb has left, as `head` does",
        143: "ended at once by a second SIGTERM",
    }
)
_UNUSABLE = "bad usage"
_INTERRUPTED = "interrupted"
_WRITING: Mapping[int, str] = {
    Exit.DONE: "done",
    Exit.USAGE: _UNUSABLE,
    Exit.CANNOT_WRITE: "the file cannot be written, or is there already",
}
_READING: Mapping[int, str] = {
    Exit.DONE: "done",
    Exit.USAGE: _UNUSABLE,
    Exit.CANNOT_WRITE: "a key that is missing cannot be written",
    Exit.CANNOT_READ: "a file cannot be read",
    Exit.SETTINGS: "faults in settings, or in a key file",
}
_ASKING: Mapping[int, str] = {
    Exit.DONE: "done",
    Exit.RUNTIME: "the running program has said no",
    Exit.USAGE: _UNUSABLE,
    Exit.UNAVAILABLE: STATUSES[Exit.UNAVAILABLE],
    Exit.CANNOT_READ: "the settings cannot be read",
    Exit.SETTINGS: "a fault in what the settings say of the control socket",
    130: _INTERRUPTED,
}


def _statuses(meanings: Mapping[int, str]) -> Rows:
    return tuple((str(int(number)), meaning) for number, meaning in meanings.items())


_SETTINGS_FILES: Rows = (
    ("FILE", "settings, in TOML; `init` writes a commented one to begin with"),
    ("FILE.d/*.toml", "drop-ins: read after it, by name, and merged"),
)
_UNPACKED: Rows = (
    (
        "quic-tunnel-*/",
        "the unpacked program, in the first of $SHIV_ROOT, $CACHE_DIRECTORY, $XDG_CACHE_HOME, "
        "~/.cache, $TMPDIR, /tmp and /var/tmp that can be written",
    ),
)


def _state_files(program: str, what: str) -> Rows:
    return (
        (
            "state_dir/",
            f"{what}; the default is $STATE_DIRECTORY, else $XDG_STATE_HOME/tunnel-{program}, else "
            f"~/.local/state/tunnel-{program}",
        ),
        ("admin.sock", "the control socket, in $RUNTIME_DIRECTORY, else in state_dir"),
    )


_ENVIRONMENT: Rows = (
    ("${NAME}", "whatever a string of the settings asks for"),
    ("STATE_DIRECTORY, XDG_STATE_HOME", "where state_dir is, as said above"),
    ("RUNTIME_DIRECTORY", "where the control socket is"),
    ("SHIV_ROOT, CACHE_DIRECTORY, XDG_CACHE_HOME, TMPDIR", "where the program is unpacked"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM", "set by systemd: state, watchdog, journal"),
)
_SOCKETS: Rows = (("LISTEN_FDS, LISTEN_PID", "set by systemd: sockets for `fd:` addresses"),)
_COLOURS: Rows = (("NO_COLOR", "if it is set, nothing is emphasised on a terminal"),)
_SIGNALS: Rows = (
    (
        "SIGTERM, SIGINT",
        "drain: nobody new is taken, what runs may finish within drain_timeout; a second one ends "
        "the program at once",
    ),
    ("SIGHUP", "read settings anew, and bring all of them into force, or none"),
)
_SEE_ALSO: Rows = (
    ("VERB --help", "each verb"),
    ("docs/config.md", "every key of the settings, every flag"),
    ("docs/operations.md", "services, reloads, drains, monitoring, troubleshooting"),
    ("docs/certificates.md", "certificates from an authority"),
)


def daemon_page(program: str, verbs: Rows) -> Page:
    """Return the page of a program, whose verbs are listed with a line each."""
    description, files, examples = _DAEMONS[program]
    return Page(
        description,
        {
            "verbs": verbs,
            "files": (*_SETTINGS_FILES, *files, *_UNPACKED),
            "environment": (*_ENVIRONMENT, *(_SOCKETS if program == "relay" else ()), *_COLOURS),
            "exit status": _statuses(STATUSES),
            "signals": _SIGNALS,
            "examples": examples,
            "see also": _SEE_ALSO,
        },
    )


def verb_page(program: str, verb: str) -> Page:
    """Return the page of a verb of a program."""
    description, statuses, examples = VERB_PAGES[verb]
    return Page(
        description.replace("PROGRAM", program),
        {
            "exit status": _statuses(statuses),
            "examples": tuple((line.replace("PROGRAM", program), why) for line, why in examples),
            "see also": ((f"{program}.pyz --help", "files, environment, signals, and the docs"),),
        },
    )


_DAEMONS: dict[str, tuple[str, Rows, Rows]] = {
    "relay": (
        "Listens for clients (QUIC and HTTP/2) and for visitors (TLS), and takes each visitor to "
        "the client that serves the name which the visitor asks for. It reads that name, passes "
        "bytes on, and cannot read the rest.",
        _state_files("relay", "its certificate, keys that are known, orders of certificates"),
        (
            ("relay.pyz", "try it on this machine: open to anybody here, with a warning"),
            (
                "relay.pyz --domain-suffix t.example.org --open",
                "serve *.t.example.org to anybody who has a key",
            ),
            ("relay.pyz init relay.toml", "begin with settings; edit them, then:"),
            ("relay.pyz -c relay.toml --check", "every fault at once, with file and line"),
            ("relay.pyz -c relay.toml", "run on them"),
        ),
    ),
    "client": (
        "Connects to one or several relays and serves local services under the names that belong "
        "to its keys. Visitors' TLS ends here, or at the service; the relay sees neither key nor "
        "plaintext.",
        (
            ("client.key", "the identity key of a quick start, made if it is missing"),
            *_state_files("client", "self-signed certificates, orders of certificates"),
        ),
        (
            (
                "client.pyz --server relay.example.org --domain-suffix t.example.org \\\n"
                "    --pin sha256:HEX --local 3000",
                "serve the service on port 3000; the relay prints this line when it starts",
            ),
            ("client.pyz init client.toml", "begin with settings; edit them, then:"),
            ("client.pyz -c client.toml --check", "every fault at once, with file and line"),
            ("client.pyz -c client.toml", "run on them"),
        ),
    ),
}

VERB_PAGES: Mapping[str, tuple[str, Mapping[int, str], Rows]] = MappingProxyType(
    {
        "init": (
            "Writes settings with every key, its meaning and its default in comments. It never "
            "writes over a file.",
            _WRITING,
            (("PROGRAM.pyz init PROGRAM.toml", "then edit it, and run with -c"),),
        ),
        "keygen": (
            "Makes an identity key (mode 0600) and prints its fingerprint, which a relay lists to "
            "admit it. It never writes over a file.",
            _WRITING,
            (("PROGRAM.pyz keygen shop.key", "for `file` in [keypairs.*]"),),
        ),
        "id": (
            "Shows id, URL and fingerprint of each endpoint. A key that is missing is made, as a "
            "start would do.",
            _READING,
            (
                ("PROGRAM.pyz id -c PROGRAM.toml", "of every endpoint in these settings"),
                ("PROGRAM.pyz id --primary-key shop.key", "of one key"),
            ),
        ),
        "status": (
            "Shows how everything stands in a running program, and why: connections, names, last "
            "errors, next attempts, certificates. With --check it says in one line whether the "
            "program is ready, for health checks.",
            {**_ASKING, Exit.RUNTIME: "it is not ready (--check), or has said no"},
            (
                ("PROGRAM.pyz status", "as tables"),
                ("PROGRAM.pyz status --json -c PROGRAM.toml", "all of it, for programs"),
                ("PROGRAM.pyz status --check", "status 0 if it is ready, else 1"),
            ),
        ),
        "reload": (
            "Has a running program read its settings anew and waits for the outcome: all of them "
            "are in force, or none and the faults are printed. What has not changed is not "
            "touched.",
            {**_ASKING, Exit.SETTINGS: "faults in settings: nothing was changed"},
            (
                ("PROGRAM.pyz reload -c PROGRAM.toml", "what `systemctl reload` runs"),
                ("PROGRAM.pyz reload --dry-run", "what would change, and what takes a restart"),
            ),
        ),
        "drain": (
            "Has a running program take nobody new, finish what runs within drain_timeout, and "
            "end. It does not wait for that.",
            _ASKING,
            (("PROGRAM.pyz drain", "as SIGTERM would"),),
        ),
        "explain": (
            "Shows what becomes of a visitor who asks for a name, and by what that is decided. "
            "Nobody is connected for it.",
            _ASKING,
            (("PROGRAM.pyz explain shop.t.example.org", "is it served, by whom, or why not"),),
        ),
        "cert": (
            "Lists the certificates of a running program and how each stands, or has one ordered "
            "now. It does not wait for the order.",
            _ASKING,
            (
                ("PROGRAM.pyz cert list", "names, ends, renewals, the authority's last words"),
                ("PROGRAM.pyz cert renew shop.t.example.org", "the one of this name"),
            ),
        ),
        "doctor": (
            "Examines all that a PROGRAM depends on, from name servers to certificates, and says "
            "what to do about each fault. It takes what the program itself takes, changes nothing, "
            "and disturbs nobody who is served.",
            {
                Exit.DONE: "nothing has failed; there may be warnings",
                Exit.RUNTIME: "something has failed",
                Exit.USAGE: STATUSES[Exit.USAGE],
                Exit.CANNOT_READ: "the settings cannot be read",
                Exit.SETTINGS: "faults in settings: nothing was examined",
                130: _INTERRUPTED,
            },
            (
                ("PROGRAM.pyz doctor -c PROGRAM.toml", "as a table, each fault with what to do"),
                ("PROGRAM.pyz doctor -c PROGRAM.toml --json", "for programs"),
            ),
        ),
        "completion": (
            "Prints a script that makes a shell complete verbs, flags and files. It has to be "
            "sourced, once in each shell or by its start-up file.",
            {Exit.DONE: "done", Exit.USAGE: _UNUSABLE},
            (
                ("source <(PROGRAM.pyz completion bash)", "for bash and zsh"),
                ("PROGRAM.pyz completion fish | source", "for fish"),
            ),
        ),
    }
)
