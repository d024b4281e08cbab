"""The command lines, from the first word to the exit status."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.examined import unexamined
from tests.unit.settings.documents import CLIENT, FINGERPRINT, RELAY, write
from tunnel.cli.command import run_client_command, run_relay_command
from tunnel.errors import SettingsError
from tunnel.settings.values import ClientSettings, LogSettings, RelaySettings, Target
from tunnel.stream import Address

SERVED = 42  # what the daemon of these tests returns


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty folder, with nothing in the environment that changes defaults."""
    monkeypatch.chdir(tmp_path)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run_relay(*argv: str) -> tuple[int, RelaySettings | None]:
    served: list[RelaySettings] = []

    def serve(settings: RelaySettings) -> int:
        served.append(settings)
        return SERVED

    status = run_relay_command(argv, serve, unexamined)
    return status, served[0] if served else None


def run_client(*argv: str) -> tuple[int, ClientSettings | None]:
    served: list[ClientSettings] = []

    def serve(settings: ClientSettings, *, qr: bool) -> int:
        served.append(settings)
        return SERVED

    status = run_client_command(argv, serve, unexamined)
    return status, served[0] if served else None


def serve_relay(*argv: str) -> RelaySettings:
    status, settings = run_relay(*argv)
    assert status == SERVED
    assert settings is not None
    return settings


def serve_client(*argv: str) -> ClientSettings:
    status, settings = run_client(*argv)
    assert status == SERVED
    assert settings is not None
    return settings


def addresses(settings: RelaySettings) -> dict[str, list[str]]:
    return {name: [str(a) for a in one.listen] for name, one in settings.listeners.items()}


def test_a_bare_relay_serves_this_machine_only_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = serve_relay()
    assert addresses(settings) == {"agents": ["127.0.0.1:4433"], "public": ["127.0.0.1:8443"]}
    assert {name: s.access for name, s in settings.suffixes.items()} == {"localhost": "open"}
    assert settings.certificate.mode == "self-signed"
    assert "warning" in capsys.readouterr().err


def test_a_relay_with_a_suffix_listens_everywhere_and_is_closed() -> None:
    settings = serve_relay("--domain-suffix", "t.example.org", "--domain-suffix", "u.example.org")
    assert addresses(settings) == {"agents": ["0.0.0.0:4433"], "public": ["0.0.0.0:8443"]}
    assert {s.access for s in settings.suffixes.values()} == {"listed"}
    assert list(settings.suffixes) == ["t.example.org", "u.example.org"]


def test_open_opens_the_given_suffixes() -> None:
    settings = serve_relay("--domain-suffix", "t.example.org", "--open")
    assert settings.suffixes["t.example.org"].access == "open"


def test_a_relay_that_others_reach_is_not_open_unless_told() -> None:
    settings = serve_relay("--bind-addr", "192.0.2.1")
    assert settings.suffixes["localhost"].access == "listed"


def test_allow_lists_keys_for_every_suffix() -> None:
    settings = serve_relay("--domain-suffix", "t.example.org", "--allow", FINGERPRINT)
    (grant,) = settings.clients.values()
    assert (grant.fingerprint, grant.suffixes) == (b"\xab" * 32, ("t.example.org",))


def test_ports_and_address_of_a_relay() -> None:
    flags = ["--bind-addr", "::1", "--api-port", "1", "--pub-port", "2", "--alpn-port", "3"]
    settings = serve_relay(*flags)
    assert addresses(settings) == {
        "agents": ["[::1]:1"],
        "public": ["[::1]:2"],
        "challenge": ["[::1]:3"],
    }
    assert settings.suffixes["localhost"].public_port == 2


def test_a_relays_certificate_from_files(folder: Path) -> None:
    write(folder, "c.pem", "")
    write(folder, "k.pem", "").chmod(0o600)
    certificate = serve_relay("--tls-cert", "c.pem", "--tls-key", "k.pem").certificate
    assert (certificate.chain_file, certificate.key_file) == (folder / "c.pem", folder / "k.pem")


def test_a_client_with_the_fewest_flags(folder: Path) -> None:
    settings = serve_client("--server", "relay.example.org")
    (server,) = settings.servers.values()
    (endpoint,) = settings.endpoints.values()
    assert server.address == Address("relay.example.org", 4433)
    assert endpoint.target == Target(Address("127.0.0.1", 3000))
    assert endpoint.suffix == "localhost"
    assert settings.keypairs[endpoint.keypair].file == folder / "client.key"


def test_a_client_with_every_flag(folder: Path) -> None:
    flags = (
        "--server a.example.org:1 --server b.example.org --local 8080 --force-h2 --pool-size 2 "
        "--domain-suffix t.example.org --primary-key one.key --primary-cert-extension-hex aa "
        "--secondary-key two.key --secondary-local unix:/run/app.sock "
        f"--secondary-cert-extension-hex bb --id-bits 64 --pin {FINGERPRINT}"
    )
    settings = serve_client(*flags.split())
    assert [
        (str(s.address), s.transport, s.pool_size, s.pin) for s in settings.servers.values()
    ] == [
        ("a.example.org:1", "h2", 2, b"\xab" * 32),
        ("b.example.org:4433", "h2", 2, b"\xab" * 32),
    ]
    assert [
        (e.suffix, str(e.target), e.certificate_extension, e.certificate)
        for e in settings.endpoints.values()
    ] == [
        ("t.example.org", "127.0.0.1:8080", b"\xaa", "self-signed"),
        ("t.example.org", "unix:/run/app.sock", b"\xbb", "self-signed"),
    ]
    assert [(k.file, k.id_bits) for k in settings.keypairs.values()] == [
        (folder / "one.key", 64),
        (folder / "two.key", 64),
    ]


def test_trust_flags_hold_for_every_server(folder: Path) -> None:
    write(folder, "ca.pem", "")
    (server,) = serve_client("--server", "r", "--ca", "ca.pem").servers.values()
    assert server.ca == folder / "ca.pem"
    (server,) = serve_client("--server", "r", "--insecure").servers.values()
    assert server.insecure


def test_flags_and_file_give_the_same_settings(folder: Path) -> None:
    path = write(folder, "client.toml", CLIENT)
    from_flags = serve_client("--server", "eu.example.org", "--domain-suffix", "t.example.org")
    from_file = serve_client("-c", str(path))
    assert replace(from_flags, servers={}, endpoints={}) == replace(
        from_file, servers={}, endpoints={}
    )


def test_with_a_file_pool_and_transport_flags_override_every_server(folder: Path) -> None:
    text = CLIENT.replace("[keypairs", 'transport = "quic"\npool_size = 9\n[keypairs')
    path = write(folder, "client.toml", text)
    settings = serve_client("-c", str(path), "--force-h2", "--pool-size", "3")
    (server,) = settings.servers.values()
    assert (server.transport, server.pool_size) == ("h2", 3)


@pytest.mark.parametrize(
    ("flag", "key"), [("--force-h2", "probe_interval = 7"), ("--pool-size=3", 'transport = "quic"')]
)
def test_what_a_flag_overrides_is_no_fault_of_the_file(folder: Path, flag: str, key: str) -> None:
    path = write(folder, "client.toml", f"{CLIENT}[client]\n{key}\n")
    assert serve_client("-c", str(path), flag).servers


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], LogSettings("error", "text")),
        (["-v"], LogSettings("debug", "text")),
        (["-q", "--log-format", "json"], LogSettings("warning", "json")),
        (["--log-format", "journald"], LogSettings("error", "journald")),
    ],
)
def test_log_flags_override_the_file(folder: Path, flags: list[str], expected: LogSettings) -> None:
    path = write(folder, "relay.toml", f'{RELAY}[log]\nlevel = "error"\nformat = "text"\n')
    assert serve_relay("-c", str(path), *flags).log == expected


USAGE = [
    ("relay", "--bogus", "unrecognized arguments: --bogus"),
    ("relay", "-c relay.toml status", "status is a verb: it comes first, before every flag"),
    ("client", "-v reload --dry-run", "reload is a verb: it comes first"),
    ("relay", "-v -q", "not allowed with argument -v"),
    ("relay", "--api-port x", "invalid int value: 'x'"),
    ("relay", "--api-port 70000", "listeners.agents.listen: port 70000 is out of range"),
    ("relay", "--bind-addr nonsense", "argument --bind-addr: 'nonsense' is not an IP address"),
    ("relay", "--bind-addr 127.0.0.1:80", "argument --bind-addr: '127.0.0.1:80' is not an IP"),
    ("relay", "--pub-port 1 --pub-port 1", "argument --pub-port: may be given only once"),
    ("relay", "-c a.toml -c b.toml", "argument -c: may be given only once"),
    ("client", "--server r --local 1 --local 2", "argument --local: may be given only once"),
    ("client", "id --primary-key a --primary-key b", "argument --primary-key: may be given only"),
    ("relay", "--tls-cert c.pem", "c.pem does not exist"),
    ("relay", "--allow sha256:1", "--allow: clients.allowed-1.fingerprint"),
    ("relay", "--log-format xml", "'xml' is none of auto, text, json, journald"),
    ("relay", "-c relay.toml --open", "--open does not go with -c"),
    ("relay", "-c relay.toml --pub-port 1", "--pub-port does not go with -c"),
    ("relay", "--as relay.toml", "go with -c and --check"),
    ("relay", "-c x --as relay.toml", "go with -c and --check"),
    ("relay", "--check -c x --with y", "--with needs --as"),
    ("relay", "--check -c relay.toml --with y --as z.toml", "it would not be read"),
    ("relay", "--check -c relay.toml --with y --as relay.toml.d/.z.toml", "it would not be read"),
    ("client", "doctor", "a relay is needed"),
    ("client", "doctor -c client.toml --local 1", "--local does not go with -c"),
    ("client", "doctor --server r --check", "unrecognized arguments: --check"),
    ("relay", "doctor --api-port 70000", "listeners.agents.listen: port 70000 is out of range"),
    ("relay", "doctor --tls-cert c.pem", "c.pem does not exist"),
    ("client", "explain a.t.test", "no such verb (known: init, keygen, id, status, "),
    ("relay", "explain", "the following arguments are required: HOST"),
    ("relay", "status -c relay.toml --socket x", "not allowed with argument -c"),
    ("relay", "cert renew", "renew needs the NAME"),
    ("relay", "cert list a.t.test", "list takes no NAME"),
    ("client", "cert revoke", "invalid choice: 'revoke'"),
    ("client", "completion tcsh", "invalid choice: 'tcsh'"),
    ("relay", "id", "no such verb"),
    ("relay", "relay.toml", "no such verb"),
    ("client", "", "a relay is needed"),
    ("client", "--server r --local 99999", "--local: endpoints.primary.target: port 99999"),
    ("client", "--server r --pin 1 --insecure", "not allowed with argument --pin"),
    ("client", "--server r --secondary-local 1", "--secondary-local needs --secondary-key"),
    ("client", "--server r --pool-size 0", "'0' is out of range (expected 1 to 64)"),
    ("client", "--server r --id-bits 96", "invalid choice: 96"),
    ("client", "-c client.toml --server r", "--server does not go with -c"),
    ("client", "id -c client.toml --id-bits 64", "do not go with -c"),
]


@pytest.mark.parametrize(
    "flag",
    [
        *("domain-suffix", "local", "pin", "ca", "primary-key", "secondary-key"),
        *("secondary-local", "primary-cert-extension-hex", "secondary-cert-extension-hex"),
        *("log-format", "as", "with"),
    ],
)
def test_a_clients_flag_with_one_value_is_not_given_twice(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "json" if flag == "log-format" else "x"
    assert run_client(f"--{flag}", word, f"--{flag}", word) == (2, None)
    assert f"argument --{flag}: may be given only once" in capsys.readouterr().err


@pytest.mark.parametrize(("program", "line", "told"), USAGE)
def test_bad_usage_ends_with_2_and_says_why(
    program: str, line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_relay(*line.split())[0] if program == "relay" else run_client(*line.split())[0]
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert told in output.err


def test_bad_settings_end_with_78_one_line_each(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", f"{RELAY}[relay]\nnme = 1\nworkers = 0\n")
    assert run_relay("-c", "relay.toml") == (78, None)
    assert capsys.readouterr().err == (
        'relay.toml:9: relay.nme: unknown key (did you mean "name"?)\n'
        "relay.toml:10: relay.workers: 0 is out of range (expected 1 to 64)\n"
    )


def test_a_file_that_is_not_there_ends_with_74(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client("-c", "client.toml") == (74, None)
    assert capsys.readouterr().err == "client.toml: cannot be read: No such file or directory\n"


def test_a_daemons_own_errors_are_not_taken_for_bad_files() -> None:
    def serve(_settings: RelaySettings) -> int:
        raise FileNotFoundError(2, "gone", "socket")

    with pytest.raises(FileNotFoundError):
        run_relay_command([], serve, unexamined)


def test_a_fault_that_the_daemon_finds_in_a_key_ends_with_78(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serve(_settings: RelaySettings) -> int:
        raise SettingsError(["client.key: is not a readable key"])

    assert run_relay_command([], serve, unexamined) == 78
    assert capsys.readouterr().err.splitlines()[-1] == "client.key: is not a readable key"


@pytest.mark.parametrize("program", ["relay", "client"])
def test_the_version_is_told(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    run: Sequence[object] = (
        run_relay("--version") if program == "relay" else run_client("--version")
    )
    assert run[0] == 0
    assert capsys.readouterr().out == f"{program}.pyz 0.1.0\n"


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client("--help")[0] == 0
    assert "keygen" in capsys.readouterr().out


def test_check_does_not_serve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "relay.toml", RELAY)
    assert run_relay("--check", "-c", "relay.toml") == (0, None)
    assert capsys.readouterr() == ("relay.toml: no faults\n", "")


def test_check_tolerates_what_only_the_service_user_can_see(folder: Path) -> None:
    text = f'{CLIENT}certificate = "files"\nchain_file = "c.pem"\nkey_file = "k.pem"\n'
    write(folder, "client.toml", f'{text}[client]\nstate_dir = "/nonexistent/state"\n')
    write(folder, "c.pem", "")
    write(folder, "k.pem", "").chmod(0o000)
    assert run_client("--check", "-c", "client.toml") == (0, None)


def test_check_as_reads_a_file_in_the_place_of_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "upload", f"{RELAY}[relay]\nnme = 1\n")
    write(folder / "relay.toml.d", "a.toml", '[log]\nlevel = "loud"\n')
    assert run_relay("--check", "-c", "upload", "--as", "relay.toml") == (78, None)
    assert capsys.readouterr().err.splitlines() == [
        'relay.toml:9: relay.nme: unknown key (did you mean "name"?)',
        'relay.toml.d/a.toml:2: log.level: "loud" is not known here '
        '(expected one of "debug", "info", "warning", "error")',
    ]


def test_check_with_reads_a_file_in_the_place_of_a_drop_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", RELAY)
    write(folder, "upload", f'[clients.shop]\nfingerprint = "{FINGERPRINT}"\nsuffixes = ["x"]\n')
    flags = ["--check", "-c", "relay.toml", "--with", "upload", "--as"]
    assert run_relay(*flags, "relay.toml.d/50-shop.toml") == (78, None)
    assert capsys.readouterr().err == (
        'relay.toml.d/50-shop.toml:3: clients.shop.suffixes: "x" is not one of [suffixes.*]\n'
    )
