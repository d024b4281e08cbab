"""Sections and keys that relay.toml and client.toml have in common."""

from collections.abc import Mapping
from pathlib import Path

from tunnel.settings.acme_kinds import DIRECTORY, EMAIL, KEY_ID
from tunnel.settings.file_kinds import IDENTITY_FILE, PATH, PUBLIC_FILE, SECRET_FILE, SOCKET
from tunnel.settings.kinds import FLAG, Misfit, choice, duration, size, text
from tunnel.settings.network_kinds import LISTEN
from tunnel.settings.schema import Computed, Key, Section

WINDOW_LIMIT = (1 << 31) - 1  # bytes; RFC 9113 §6.9.1

ENABLED = Key("enabled", FLAG, "`false` takes the table out of force", default=True)

TABLE_NAME = text(260, "a word such as web")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # no $HOME and no such user, as in some containers
        raise Misfit("has no default here: this user has no home") from None


def state_dir_default(program: str) -> Computed:
    """Return the default of `state_dir` for ``relay`` or ``client``."""

    def compute(environment: Mapping[str, str]) -> object:
        if given := environment.get("STATE_DIRECTORY"):
            return given.split(":")[0]  # systemd joins several with colons
        base = environment.get("XDG_STATE_HOME")
        return f"{base or _home() / '.local' / 'state'}/tunnel-{program}"

    words = f"`$STATE_DIRECTORY`, else `$XDG_STATE_HOME/tunnel-{program}`"
    return Computed(f"{words}, else `~/.local/state/tunnel-{program}`", compute)


def state_dir_key(program: str, meaning: str) -> Key:
    """Return the `state_dir` key of ``relay`` or ``client``."""
    sample = f"/var/lib/tunnel-{program}"
    return Key("state_dir", PATH, meaning, state_dir_default(program), sample)


DRAIN_TIMEOUT = Key(
    "drain_timeout",
    duration(0, 86400),
    "how long running streams may go on after SIGTERM",
    "30s",
)

FLOW = Section(
    ("flow",),
    "How much may be under way and parked for slow readers.",
    (
        Key(
            "stream_window",
            size(16 << 10, WINDOW_LIMIT),
            "credit a stream begins with; grows only while its reader keeps up",
            "256KiB",
        ),
        Key(
            "stream_window_max",
            size(16 << 10, WINDOW_LIMIT),
            "credit a stream may grow to",
            "4MiB",
        ),
        Key(
            "connection_window",
            size(1 << 20, WINDOW_LIMIT),
            "credit of a whole connection; granted on receipt, so that a stalled visitor never "
            "stops its neighbours",
            "16MiB",
        ),
        Key(
            "parked_max",
            size(1 << 20, 1 << 40),
            "bytes per connection held for slow readers; above it the longest-stalled stream is "
            "aborted (`busy`)",
            "64MiB",
        ),
    ),
)

QUIC = Section(
    ("quic",),
    "The QUIC engine.",
    (
        Key(
            "engine",
            choice("fast", "stock"),
            "which implementation runs; `stock` is aioquic's own way, slow, to compare with. The "
            "far end may have the other one",
            "fast",
        ),
        Key(
            "congestion",
            choice("bbr", "cubic", "reno"),
            "congestion control of what this end sends; `bbr` measures the path, the others take "
            "every loss for congestion",
            "bbr",
        ),
    ),
)

BUFFER_TOTAL = Key(
    "buffer_total",
    size(1 << 20, 1 << 44),
    "bytes of everything parked for slow readers, all sessions together",
    "1GiB",
)

_DEADLINE = duration(0.1, 3600)

REGISTER = Key("register", _DEADLINE, "the whole registration of a connection", "5s")
LINGER = Key(
    "linger",
    duration(1, 86400),
    "after one side has finished: how long the other may be without a byte",
    "5m",
)
HEARTBEAT = Key("heartbeat", duration(1, 60), "time between two pings of a connection", "5s")


def deadline(name: str, meaning: str, default: str = "5s") -> Key:
    """Return a key for a deadline that always applies, 0.1 s to 1 h."""
    return Key(name, _DEADLINE, meaning, default)


LOG = Section(
    ("log",),
    "What is logged, on standard error.",
    (
        Key(
            "level",
            choice("debug", "info", "warning", "error"),
            "the least severe line that is written (`-v`: debug, `-q`: warning)",
            "info",
        ),
        Key(
            "format",
            choice("auto", "text", "json", "journald"),
            "how a line looks (`--log-format`; `auto`: `journald` where standard error is the "
            "journal, else `text`)",
            "auto",
        ),
    ),
)

ACME = Section(
    ("acme",),
    "Ordering certificates from a certificate authority; only where a certificate is `acme`.",
    (
        Key(
            "directory",
            DIRECTORY,
            "the authority: `letsencrypt`, `letsencrypt-staging`, `zerossl`, `google`, or the URL "
            "of any other's directory",
            "letsencrypt",
        ),
        Key("email", EMAIL, "where the authority writes to", sample="ops@example.org"),
        Key(
            "ca",
            PUBLIC_FILE,
            "trust these certificates when the directory is asked, instead of the system's",
            sample="pebble.pem",
        ),
        Key(
            "account_file",
            IDENTITY_FILE,
            "the account and its key; made (0600) if missing",
            Computed("in `state_dir`, one for each authority", lambda _environment: None),
            "account.json",
        ),
        Key(
            "renew_before",
            duration(1, 31_536_000),
            "how long before its end a certificate is renewed",
            Computed(
                "when the authority says (ARI, RFC 9773), else with a third of its lifetime left",
                lambda _environment: None,
            ),
            "30d",
        ),
        Key(
            "preflight",
            choice("auto", "on", "off"),
            "whether addresses and CAA records of a name are looked up before an order (`auto`: "
            "with the four named authorities)",
            "auto",
        ),
    ),
)

EAB = Section(
    ("acme", "eab"),
    "External account binding: the account at the authority itself that the one above belongs to. "
    "`zerossl` and `google` need it, unless there is an `account_file`.",
    (
        Key("kid", KEY_ID, "the key's id", sample="kid-1"),
        Key("key_file", SECRET_FILE, "the file of the key, base64url", sample="eab.key"),
    ),
    is_only_example=True,
)


def _control_socket(environment: Mapping[str, str]) -> object:
    directory = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]  # systemd may list several
    return f"{directory}/admin.sock" if directory else None


ADMIN = Section(
    ("admin",),
    "Talking to the running program.",
    (
        Key(
            "socket",
            SOCKET,
            "the control socket, for the verbs that ask or tell a running program (mode 0660)",
            Computed("`admin.sock` in `$RUNTIME_DIRECTORY`, else in `state_dir`", _control_socket),
            "/run/tunnel/admin.sock",
        ),
        Key(
            "metrics",
            LISTEN,
            "where `/metrics`, `/livez` and `/readyz` are served, to anybody who gets there",
            sample="127.0.0.1:9601",
        ),
    ),
)


def certificate_files(switch: str) -> tuple[Key, Key]:
    """Return the keys that name a certificate's two files; they go with `switch` = files."""
    only_with = (switch, ("files",))
    return (
        Key(
            "chain_file",
            PUBLIC_FILE,
            "the certificate and its chain, PEM (only with `files`)",
            sample="fullchain.pem",
            only_with=only_with,
        ),
        Key(
            "key_file",
            SECRET_FILE,
            "its private key, PEM (only with `files`)",
            sample="privkey.pem",
            only_with=only_with,
        ),
    )
