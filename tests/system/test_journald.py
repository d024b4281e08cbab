"""What the journal of a Debian 12 has of the programs, and that no line of theirs is lost to it."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence

import pytest

from tests.system.container import Container
from tests.system.services import RELAY, UNITS, add_to, configure_relay, start_client, visiting

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

Entry = dict[str, str | list[str]]
Line = tuple[str, str, Mapping[str, object]]  # level, message, fields
LARGE = "y" * (1 << 20)  # more than the socket of the journal takes in one datagram
FORGED = "x\nPRIORITY=0\nFORGED=1\n\nFORGED\n\x01\0\0\0\0\0\0\0y\n<0>\x1b[31m\udcff\0<0>z"
WRITER, LINES = "/srv/writer.py", "/srv/lines.json"
# Logs lines as one of the programs would.
WRITING = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
from tunnel.log import get_log
from tunnel.runtime.logs import set_up_logs
from tunnel.settings.values import LogSettings
set_up_logs(LogSettings("debug", sys.argv[2]), identifier="tunnel-writer")
for level, message, fields in json.load(open({LINES!r})):
    if "exception" in fields:
        fields["exception"] = ZeroDivisionError(fields["exception"])
    getattr(get_log("tunnel.writer"), level)(message, **fields)
"""
NO_SOCKET = "InaccessiblePaths=/run/systemd/journal/socket"


@pytest.fixture(scope="module")
def modules(debian: Container) -> str:
    """Return where the modules of the programs are, and have what writes lines with them."""
    debian.run("env", "SHIV_ROOT=/opt", "relay.pyz", "--version")
    debian.put(WRITER, WRITING)
    return debian.run("sh", "-c", "echo /opt/quic-tunnel-*").stdout.strip()


def written(
    machine: Container, modules: str, *lines: Line, form: str = "auto", service: Sequence[str] = ()
) -> list[Entry]:
    """Have a service with these properties write lines; return what the journal has of it."""
    machine.put(LINES, json.dumps(lines))
    unit = f"writer-{secrets.token_hex(4)}.service"
    options = [word for each in service for word in ("-p", each)]
    run = ["systemd-run", "--quiet", "--wait", f"--unit={unit}", "--collect", *options]
    machine.run(*run, "python3", WRITER, modules, form)
    return entries(machine, f"_SYSTEMD_UNIT={unit}")


def entries(machine: Container, *matches: str) -> list[Entry]:
    """Return what the journal has, oldest first."""
    machine.run("journalctl", "--sync")
    command = ["journalctl", "--no-pager", "--quiet", "--all", "-o", "json", *matches]
    return [json.loads(line) for line in machine.run(*command).stdout.splitlines()]


def start(machine: Container) -> str:
    """Start a relay and a client that tell all they know, and return the client's name."""
    for program in ("relay", "client"):
        machine.put(f"/etc/tunnel/{program}.toml.d/log.toml", '[log]\nlevel = "debug"\n')
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    return start_client(machine)


def registration(machine: Container, host: str) -> Entry:
    """Return the line about the client of a name."""
    told = entries(machine, "-t", "tunnel-relay", f"NAME={host}")
    [entry] = [entry for entry in told if " registered " in entry["MESSAGE"]]
    return entry


def test_a_registration_is_found_by_its_session_its_name_and_its_peer(machine: Container) -> None:
    entry = registration(machine, start(machine))
    asked = machine.run("relay.pyz", "status", "--json", "-c", "/etc/tunnel/relay.toml").stdout
    [client] = json.loads(asked)["clients"]
    assert entry["SESSION"] == client["session"]
    assert entry["PEER"] == client["connections"][0]["observed"]
    for field in ("SESSION", "PEER"):
        assert entry in entries(machine, f"{field}={entry[field]}")
    assert str(entry["MESSAGE"]).startswith(f"relay.agents registered session={entry['SESSION']} ")
    assert (entry["PRIORITY"], entry["_SYSTEMD_UNIT"]) == ("6", RELAY)


def test_a_visitor_is_found_at_both_ends_by_its_address(machine: Container) -> None:
    host = start(machine)
    with visiting(machine, host) as visitor:
        address, port = visitor.getsockname()
        visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert visitor.recv(8) == b"HTTP/1.0"
    relay, client = entries(machine, f"PEER={address}:{port}")[:2]
    assert relay["SYSLOG_IDENTIFIER"] == "tunnel-relay"
    assert client["SYSLOG_IDENTIFIER"] == "tunnel-client"
    assert relay["SESSION"] == registration(machine, host)["SESSION"]
    assert (relay["NAME"], client["NAME"], client["ENDPOINT"]) == (host, host, "web")
    assert (relay["ID"], relay["PRIORITY"]) == (client["ID"], "7")


def test_each_of_several_names_finds_the_line(machine: Container, modules: str) -> None:
    names = ["a.t.test", "b.t.test"]
    told = written(machine, modules, ("info", "registered", {"names": names}))
    [entry] = entries(machine, "NAME=b.t.test", f"_SYSTEMD_UNIT={told[0]['_SYSTEMD_UNIT']}")
    assert entry["NAME"] == names
    assert entry["MESSAGE"] == "writer registered names=a.t.test,b.t.test"


def test_priorities_are_those_of_the_levels(machine: Container, modules: str) -> None:
    expected = {"debug": "7", "info": "6", "warning": "4", "error": "3"}
    told = written(machine, modules, *((level, level, {}) for level in expected))
    said = {entry["MESSAGE"]: entry["PRIORITY"] for entry in told}
    assert said == {f"writer {level}": number for level, number in expected.items()}
    serious = entries(machine, "-u", str(told[0]["_SYSTEMD_UNIT"]), "-p", "warning")
    assert [entry["PRIORITY"] for entry in serious] == ["4", "3"]


def test_a_bug_is_one_entry_with_its_traceback(machine: Container, modules: str) -> None:
    [entry] = written(
        machine, modules, ("error", "went wrong", {"exception": "by\nnone", "session": "a/b"})
    )
    assert entry["TRACEBACK"] == "ZeroDivisionError: by\nnone"
    assert entry["MESSAGE"] == "writer went wrong session=a/b\nZeroDivisionError: by\nnone"
    assert entry["SESSION"] == "a/b"


@pytest.mark.parametrize(
    "line",
    [
        ("info", FORGED, {}),
        ("info", "came", {"software": FORGED}),
        ("info", "came", {"names": [FORGED, FORGED]}),
        ("info", "came", {FORGED: "1"}),
        ("info", "came", {"stanza": FORGED}),
        ("info", "came", {"priority": "0", "_pid": "1", "syslog_identifier": "sshd", "forged": ""}),
    ],
    ids=["message", "field", "fields", "name", "stanza", "taken"],
)
@pytest.mark.parametrize("service", [(), (NO_SOCKET,)], ids=["native", "prefixes"])
def test_no_text_forges_a_field(
    machine: Container, modules: str, line: Line, service: Sequence[str]
) -> None:
    told = written(machine, modules, line, service=service)
    assert {entry["PRIORITY"] for entry in told} == {"6"}
    assert not any(entry.get("FORGED") for entry in told)
    assert {entry["SYSLOG_IDENTIFIER"] for entry in told} == {
        "python3" if service else "tunnel-writer"
    }


def confinement() -> list[str]:
    """Return what the unit of the relay denies it."""
    unit = next(unit for unit in UNITS if unit.name == RELAY).read_text()
    kinds = ("Protect", "Private", "Restrict", "SystemCall", "MemoryDeny", "NoNew", "Lock")
    return [line for line in unit.splitlines() if line.startswith(kinds)]


def test_a_line_that_fits_no_datagram_arrives_whole(machine: Container, modules: str) -> None:
    """Also from a service that may do as little as the relay."""
    lines: list[Line] = [("warning", "large", {"content": LARGE}), ("info", "small", {})]
    large, small = written(machine, modules, *lines, service=confinement())
    assert (large["CONTENT"], large["PRIORITY"]) == (LARGE, "4")
    assert large["MESSAGE"] == f"writer large content={LARGE}"
    assert small["MESSAGE"] == "writer small"


def test_where_only_the_stream_leads_to_the_journal_its_prefixes_do(
    machine: Container, modules: str
) -> None:
    line: Line = ("error", "went wrong", {"peer": "192.0.2.1:4"})
    [entry] = written(machine, modules, line, service=[NO_SOCKET])
    assert entry["MESSAGE"] == "writer went wrong peer=192.0.2.1:4"
    assert (entry["PRIORITY"], entry["_TRANSPORT"]) == ("3", "stdout")


def test_a_file_in_the_place_of_the_journal_has_times_and_no_prefixes(
    machine: Container, modules: str
) -> None:
    """The service has a stream to the journal all the same: its standard output."""
    file = "/root/stderr"
    line: Line = ("info", "told", {})
    assert written(machine, modules, line, service=[f"StandardError=truncate:{file}"]) == []
    assert re.fullmatch(r"20\S+Z INFO writer told\n", machine.read(file))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("text", r"20\S+Z WARNING writer told name=a"),
        ("json", r'\{"time": "20\S+Z", "level": "warning", .*"message": "told", "name": "a"\}'),
    ],
)
def test_who_asks_for_another_form_finds_it_in_the_journal(
    machine: Container, modules: str, form: str, expected: str
) -> None:
    [entry] = written(machine, modules, ("warning", "told", {"name": "a"}), form=form)
    assert re.fullmatch(expected, str(entry["MESSAGE"]))
    assert (entry["_TRANSPORT"], "NAME" in entry) == ("stdout", False)


@pytest.mark.parametrize("form", ["journald", "text"])
@pytest.mark.parametrize("how", [("restart",), ("kill", "--signal=KILL")], ids=lambda how: how[0])
def test_a_journal_that_begins_anew_hears_the_same_process(
    machine: Container, how: Sequence[str], form: str
) -> None:
    start_command = f"/usr/local/bin/relay.pyz -c /etc/tunnel/relay.toml --log-format {form}"
    add_to(machine, RELAY, f"ExecStart=\nExecStart={start_command}")
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    process = machine.shown(RELAY, "MainPID")
    journal = machine.shown("systemd-journald", "MainPID")
    machine.systemctl(*how, "systemd-journald")
    machine.wait_until("systemd-journald", "ActiveState", "active")
    machine.systemctl("reload", RELAY)
    told = entries(machine, f"_PID={process}", "--unit", RELAY)
    assert any("reloaded changed=nothing" in entry["MESSAGE"] for entry in told)
    assert machine.shown(RELAY, "MainPID") == process
    assert machine.shown("systemd-journald", "MainPID") != journal
