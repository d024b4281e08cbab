"""What a container makes of its environment, and what docs/operations.md says of it."""

import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.docker.entrypoint import VARIABLES, Faults, Start, Variable, in_variables, plan_start
from tunnel.cli.arguments import daemon_parser, parse_client, parse_relay

ROOT = Path(__file__).parents[2]
RELAY = {"DOMAIN_SUFFIX": "t.test"}
CLIENT = {"SERVER_ADDR": "r.test", "DOMAIN_SUFFIX": "t.test"}
FILE = Path("/data/relay.toml")
DOCKERFILE = ROOT / "config" / "docker" / "Dockerfile"
# What has a place in no variable: the file, questions, and what only a terminal shows.
WITHOUT_A_VARIABLE = {"-c", "--as", "--with", "--check", "--show-config", "--help", "--version"}
ONLY_ON_A_TERMINAL = {"--qr"}


def relay(
    *arguments: str, file: Path | None = None, given: Mapping[str, str] = RELAY, **more: str
) -> Start:
    return plan_start("relay", {**given, **more}, arguments, file)


def client(*arguments: str, given: Mapping[str, str] = CLIENT, **more: str) -> Start:
    return plan_start("client", {**given, **more}, arguments, None)


def faults_of_relay(
    *arguments: str, file: Path | None = None, given: Mapping[str, str] = RELAY, **more: str
) -> list[str]:
    with pytest.raises(Faults) as caught:
        relay(*arguments, file=file, given=given, **more)
    return caught.value.lines


@pytest.mark.parametrize("program", ["relay", "client"])
def test_every_flag_of_a_quick_start_has_a_variable(program: str) -> None:
    parser = daemon_parser(program)
    spelt = {action.option_strings[-1] for action in parser._actions}
    flags = {variable.flag for variable in VARIABLES[program]} | {"-q"}  # LOG_LEVEL has two
    assert flags == spelt - WITHOUT_A_VARIABLE - ONLY_ON_A_TERMINAL


def test_all_that_a_relay_may_be_told_reaches_it() -> None:
    start = relay(
        DOMAIN_SUFFIX="a.test, b.test",
        ALLOW="sha256:1,sha256:2,",
        OPEN="no",
        BIND_ADDR="::",
        API_PORT="4434",
        PUB_PORT="443",
        ALPN_PORT="444",
        ACME_DOMAIN="r.test,s.test",
        ACME_EMAIL="ops@r.test",
        ACME_STAGING="true",
        ACME_CREDS_PATH="/data/account.json",
        ACME_RENEW_DAYS="30",
        LOG_LEVEL="debug",
        LOG_FORMAT="json",
    )
    told = parse_relay(start.arguments)
    assert told.domain_suffix == ["a.test", "b.test"]
    assert told.allow == ["sha256:1", "sha256:2"]
    assert told.open is None
    assert (told.bind_addr, told.api_port, told.pub_port, told.alpn_port) == ("::", 4434, 443, 444)
    assert (told.acme_domain, told.acme_email) == (["r.test", "s.test"], "ops@r.test")
    assert (told.acme_staging, told.acme_creds_path) == (True, "/data/account.json")
    assert (told.acme_renew_days, told.log_level, told.log_format) == (30, "debug", "json")


def test_the_certificate_of_a_relay_is_two_files() -> None:
    told = parse_relay(relay(TLS_CERT_PATH="/run/c.pem", TLS_KEY_PATH="/run/k.pem").arguments)
    assert (told.tls_cert, told.tls_key) == ("/run/c.pem", "/run/k.pem")
    [fault] = faults_of_relay(TLS_CERT_PATH="/run/c.pem")
    assert fault == "TLS_KEY_PATH: not set (expected beside TLS_CERT_PATH)"


def test_all_that_a_client_may_be_told_reaches_it() -> None:
    start = client(
        SERVER_ADDR="a.test:4434,b.test",
        LOCAL_ADDR="web:80",
        PIN="sha256:1",
        PRIMARY_KEY="/data/one.key",
        PRIMARY_CERT_EXTENSION_HEX="deadbeef",
        SECONDARY_KEY="/data/two.key",
        SECONDARY_LOCAL="unix:/run/app.sock",
        SECONDARY_CERT_EXTENSION_HEX="cafe",
        ID_BITS="64",
        FORCE_HTTP2="1",
        POOL_SIZE="8",
        ACME_EMAIL="ops@r.test",
        ACME_DIRECTORY="https://ca.test/dir",
        ACME_CA="/data/ca.pem",
        CERT_PEM_PATH="/data/acme_cert.pem",
        LOG_LEVEL="WARNING",
    )
    told = parse_client(start.arguments)
    assert (told.server, told.domain_suffix) == (["a.test:4434", "b.test"], "t.test")
    assert (told.local, told.pin, told.id_bits) == ("web:80", "sha256:1", 64)
    assert (told.primary_key, told.secondary_key) == ("/data/one.key", "/data/two.key")
    assert told.primary_cert_extension_hex == "deadbeef"
    assert told.secondary_cert_extension_hex == "cafe"
    assert told.secondary_local == "unix:/run/app.sock"
    assert (told.force_h2, told.pool_size, told.log_level) == (True, 8, "warning")
    assert (told.acme_email, told.acme_directory) == ("ops@r.test", "https://ca.test/dir")
    assert (told.acme_ca, told.cert_pem) == ("/data/ca.pem", "/data/acme_cert.pem")


@pytest.mark.parametrize("trust", [{"CA": "/data/ca.pem"}, {"INSECURE": "yes"}])
def test_a_relay_may_be_trusted_otherwise(trust: dict[str, str]) -> None:
    told = parse_client(client(given=CLIENT | trust).arguments)
    assert (told.ca, told.insecure) == (trust.get("CA"), "INSECURE" in trust or None)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("API_PORT", "x", '"x" is not a port (expected 1 to 65535)'),
        (
            "API_PORT",
            "tcp://10.0.0.1:80",
            '"tcp://10.0.0.1:80" is not a port (expected 1 to 65535)',
        ),
        ("PUB_PORT", "0", '"0" is not a port (expected 1 to 65535)'),
        ("ALPN_PORT", "65536", '"65536" is not a port (expected 1 to 65535)'),
        ("PUB_PORT", "443٣", '"443٣" is not a port (expected 1 to 65535)'),
        ("BIND_ADDR", "eth0", '"eth0" is not an IP address (expected one such as 0.0.0.0 or ::)'),
        ("ACME_RENEW_DAYS", "366", '"366" is not a number (expected 1 to 365)'),
        (
            "ACME_STAGING",
            "maybe",
            '"maybe" is not true or false (expected true, yes, on, 1, false, no, off, 0)',
        ),
        (
            "DOMAIN_SUFFIX",
            ", ,",
            '", ," is not a list (expected one or more, with commas between them)',
        ),
        ("LOG_LEVEL", "loud", '"loud" is not a level (expected debug, info, warning)'),
        ("LOG_FORMAT", "xml", '"xml" is not known (expected auto, text, json, journald)'),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_was_expected(
    name: str, value: str, fault: str
) -> None:
    assert faults_of_relay(given={**RELAY, name: value}) == [f"{name}: {fault}"]


def test_all_faults_are_told_at_once() -> None:
    faults = faults_of_relay(DOMAIN_SUFFIX="", API_PORT="a", OPEN="perhaps", TLS_KEY_PATH="k.pem")
    named = [fault.partition(":")[0] for fault in faults]
    assert named == ["DOMAIN_SUFFIX", "TLS_CERT_PATH", "OPEN", "API_PORT"]


def test_what_is_needed_may_stand_in_a_file_or_on_the_command_line() -> None:
    assert faults_of_relay(DOMAIN_SUFFIX=" ") == [
        "DOMAIN_SUFFIX: not set (expected a value, or settings in /data/relay.toml)"
    ]
    assert relay(file=FILE, given={}).arguments == ["-c", "/data/relay.toml"]
    for flag in (["--domain-suffix", "t.test"], ["--domain-suffix=t.test"]):
        assert relay(*flag, given={}, OPEN="1").arguments == ["--open", *flag]


def test_no_value_becomes_a_flag_or_several_words() -> None:
    start = client(LOCAL_ADDR="--insecure; rm -rf $HOME", SERVER_ADDR="--qr,-v")
    told = parse_client(start.arguments)
    assert (told.local, told.server) == ("--insecure; rm -rf $HOME", ["--qr", "-v"])
    assert (told.insecure, told.qr, told.log_level) == (None, False, None)


def test_a_verb_or_a_question_stands_for_itself() -> None:
    for arguments in (["status", "--check"], ["keygen", "/data/client.key"], ["-v", "--help"]):
        assert client(*arguments, given={"POOL_SIZE": "many"}) == Start(arguments)


def test_the_doctor_is_told_all_that_a_start_is_but_how_to_log() -> None:
    start = client("doctor", "--json", PIN="sha256:1", LOG_LEVEL="warning", LOG_FORMAT="text")
    told = parse_client(start.arguments)
    assert (told.verb, told.json, told.server, told.pin) == ("doctor", True, ["r.test"], "sha256:1")
    assert not start.is_from_variables
    at_file = parse_relay(relay("doctor", file=FILE, given={}).arguments)
    assert (at_file.verb, at_file.config) == ("doctor", FILE)
    assert client("doctor", "--help", given={}).arguments == ["doctor", "--help"]


def test_arguments_come_after_what_variables_say() -> None:
    assert relay("--open", "--check").arguments == ["--domain-suffix=t.test", "--open", "--check"]


def test_a_file_and_variables_are_not_mixed() -> None:
    expected = "unset it, and say it in that file"
    assert faults_of_relay(file=FILE, OPEN="true") == [
        f"DOMAIN_SUFFIX: does not go with /data/relay.toml: {expected}",
        f"OPEN: does not go with /data/relay.toml: {expected}",
    ]


@pytest.mark.parametrize(
    "words", [["-c", "/etc/r.toml"], ["-c/etc/r.toml"], ["-vc", "/etc/r.toml"]]
)
def test_a_file_that_is_named_comes_before_the_one_in_data(words: list[str]) -> None:
    assert relay(*words, file=FILE, given={}).arguments == words
    [fault] = faults_of_relay(*words, file=FILE)
    assert fault.startswith("DOMAIN_SUFFIX: does not go with /etc/r.toml: ")


def test_what_a_flag_may_change_in_a_file_a_variable_may_too() -> None:
    given = {"LOG_LEVEL": "debug", "FORCE_HTTP2": "on", "POOL_SIZE": "2", "SERVER_ADDR": ""}
    start = plan_start("client", given, ["--check"], Path("/data/client.toml"))
    told = parse_client(start.arguments)
    assert str(told.config) == "/data/client.toml"
    assert (told.force_h2, told.pool_size, told.log_level, told.check) == (True, 2, "debug", True)


def test_only_what_variables_alone_say_is_judged_before_the_start() -> None:
    assert relay().is_from_variables
    assert not relay("--check").is_from_variables
    assert not relay(file=FILE, given={}).is_from_variables


@pytest.mark.parametrize("access", [{}, {"OPEN": "false"}])
def test_a_relay_that_admits_nobody_says_how_it_would(access: dict[str, str]) -> None:
    [note] = relay(given=RELAY | access).notes
    assert note.startswith("nobody may register: set ALLOW to the fingerprints")
    assert relay(OPEN="true").notes == relay(ALLOW="sha256:1").notes == []


def test_a_client_says_where_visitors_go_if_it_was_not_told() -> None:
    [note] = client().notes
    assert note.startswith("LOCAL_ADDR is not set: visitors are sent to 127.0.0.1:3000")
    assert client(LOCAL_ADDR="web:80").notes == []


def test_a_name_that_is_misspelt_is_noted() -> None:
    assert client(LOCAL_ADDR="web:80", SERVER_ADDRESS="r.test", PATH="/bin", HOME="/").notes == [
        "SERVER_ADDRESS is not read: SERVER_ADDR may be meant"
    ]


def test_variables_of_the_other_image_are_left_alone() -> None:
    assert relay(OPEN="1", SERVER_ADDR="r.test", POOL_SIZE="many") == relay(OPEN="1")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "usage: relay.pyz [-c relay.toml]\n  [flags]\n"
            "relay.pyz: error: --acme-email needs --acme-domain\n",
            "ACME_EMAIL needs ACME_DOMAIN",
        ),
        (
            "relay.pyz: error: argument --tls-cert: not allowed with argument --acme-domain",
            "TLS_CERT_PATH: not allowed with ACME_DOMAIN",
        ),
        ("--tls-key: /x--open does not exist", "TLS_KEY_PATH: /x--open does not exist"),
        ("--nothing: is known of this", "--nothing: is known of this"),
    ],
)
def test_a_complaint_of_the_program_is_said_of_variables(said: str, shown: str) -> None:
    assert in_variables("relay", said) == shown


def row(variable: Variable) -> str:
    """Return how docs/operations.md begins its line about a variable."""
    flag = "`-v`, `-q`" if variable.name == "LOG_LEVEL" else f"`{variable.flag}`"
    needed = " (required)" if variable.is_required else ""
    return f"| `{variable.name}`{needed} | {variable.form.words} | {flag} |"


@pytest.mark.parametrize("program", VARIABLES)
def test_every_variable_has_its_line_in_the_docs(program: str) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    part = text.partition(f"\n### Variables of the {program}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `.*", part, re.MULTILINE)
    expected = [row(variable) for variable in VARIABLES[program]]
    assert [line[: len(begin)] for line, begin in zip(rows, expected, strict=True)] == expected


def shown() -> list[list[str]]:
    """Return the words of every command that docs/operations.md shows about containers."""
    part = (ROOT / "docs" / "operations.md").read_text().partition("\n## Containers\n")[2]
    part = part.partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_command_in_the_docs_that_starts_an_image_is_one_that_starts() -> None:
    started = [words for words in shown() if words[:2] == ["docker", "run"]]
    assert len(started) == 3
    for words in started:
        [image] = {"tunnel-server", "tunnel-client"}.intersection(words)
        where = words.index(image)
        given = dict(
            each.split("=", 1) for flag, each in itertools.pairwise(words[:where]) if flag == "-e"
        )
        program = "relay" if image == "tunnel-server" else "client"
        assert given.keys() <= {variable.name for variable in VARIABLES[program]}
        start = plan_start(program, given, words[where + 1 :], None)
        parse = parse_relay if program == "relay" else parse_client
        assert parse(start.arguments)
        assert start.notes == []


def test_every_command_in_the_docs_names_files_and_targets_that_are_there() -> None:
    targets = re.findall(r"^FROM .* AS (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    for words in shown():
        following = dict(itertools.pairwise(words))
        assert (ROOT / following.get("-f", "")).exists()
        assert following.get("--target", "server") in targets
