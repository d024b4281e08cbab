"""The units of config/systemd on a Debian 12 under systemd: started, stopped, stuck, restarted."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.container import Container
from tests.system.services import (
    CLIENT,
    INHERITED,
    LISTENERS,
    PAGE,
    RELAY,
    SHOP,
    SOCKET,
    UNITS,
    add_to,
    configure_relay,
    page,
    served,
    start_client,
    visiting,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SECURITY_LIMIT = 20  # tenths of systemd-analyze's score
CONNECT_INTERVAL = 0.005  # seconds
RESTARTS = 5


def test_systemd_finds_no_fault_in_the_units(debian: Container) -> None:
    units = [f"/etc/systemd/system/{unit.name}" for unit in UNITS]
    checked = debian.run("systemd-analyze", "verify", *units)
    assert checked.stdout + checked.stderr == ""


@pytest.mark.parametrize("unit", [RELAY, CLIENT, SHOP])
def test_a_service_may_do_little_but_its_work(debian: Container, unit: str) -> None:
    path = f"/etc/systemd/system/{unit.replace('@shop', '@')}"
    judge = ["systemd-analyze", "security", "--offline=yes", f"--threshold={SECURITY_LIMIT}"]
    debian.run(*judge, path)


def test_a_relay_that_has_started_listens_and_a_page_is_served(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    with machine.network():
        socket.create_connection(("127.0.0.1", 443), 5).close()
    assert page(machine, start_client(machine)).strip() == PAGE


def test_the_status_says_who_is_there_and_how_relays_are_reached(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    assert machine.shown(RELAY, "StatusText") == "clients: 0, names: 0, visitors: 0"
    host = start_client(machine)
    assert machine.shown(CLIENT, "StatusText") == "names served: 1 of 1; local: quic"
    with visiting(machine, host):
        machine.wait_until(RELAY, "StatusText", "clients: 1, names: 1, visitors: 1")
    shown = machine.systemctl("status", RELAY).stdout
    assert 'Status: "clients: 1, names: 1, visitors:' in shown


def test_what_runs_stops_in_order(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    start_client(machine)
    machine.systemctl("stop", CLIENT, RELAY)
    for unit in (CLIENT, RELAY):
        assert machine.shown(unit, "ActiveState") == "inactive"
        assert machine.shown(unit, "Result") == "success"


@pytest.mark.parametrize(
    ("unit", "program", "settings"),
    [(RELAY, "relay", "relay"), (CLIENT, "client", "client"), (SHOP, "client", "clients/shop")],
)
def test_a_fault_in_the_settings_ends_it_without_a_restart(
    machine: Container, unit: str, program: str, settings: str
) -> None:
    file = f"/etc/tunnel/{settings}.toml"
    machine.put(file, f"[{program}]\ndrain_timeout = true\n")
    assert machine.systemctl("start", unit, check=False).returncode != 0
    assert machine.shown(unit, "ActiveState") == "failed"
    assert machine.shown(unit, "ExecMainStatus") == "78"
    assert machine.shown(unit, "NRestarts") == "0"
    shown = machine.systemctl("status", "--full", unit, check=False).stdout
    assert f"{file}:2: {program}.drain_timeout: true is not a duration" in shown


def test_a_word_that_is_no_flag_ends_it_without_a_restart(machine: Container) -> None:
    add_to(machine, RELAY, "ExecStart=\nExecStart=/usr/local/bin/relay.pyz --workers 2")
    machine.systemctl("start", RELAY, check=False)
    assert machine.shown(RELAY, "ExecMainStatus") == "2"
    assert (machine.shown(RELAY, "ActiveState"), machine.shown(RELAY, "NRestarts")) == (
        "failed",
        "0",
    )


def test_a_relay_that_is_killed_is_started_again(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    machine.systemctl("kill", "--signal=KILL", RELAY)
    machine.wait_until(RELAY, "NRestarts", "1")
    assert served(machine, host).strip() == PAGE


def test_a_restart_with_faulty_settings_says_so_and_one_with_good_settings_serves_again(
    machine: Container,
) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    machine.put("/etc/tunnel/relay.toml", "[relay]\nworkers = 0\n")
    assert machine.systemctl("restart", RELAY, check=False).returncode != 0
    assert machine.shown(RELAY, "ExecMainStatus") == "78"
    configure_relay(machine)
    machine.systemctl("restart", RELAY)
    assert served(machine, host).strip() == PAGE


def test_what_could_not_be_bound_is_the_status_and_is_tried_again(machine: Container) -> None:
    configure_relay(machine)
    with machine.network(), socket.create_server(("0.0.0.0", 443)):  # noqa: S104 - as the relay
        assert machine.systemctl("start", RELAY, check=False).returncode != 0
        expected = "listeners.public: cannot listen on 0.0.0.0:443: address already in use"
        assert machine.shown(RELAY, "StatusText") == expected
    machine.wait_until(RELAY, "ActiveState", "active")


def test_a_client_has_started_also_where_no_relay_answers(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    start_client(machine)
    machine.systemctl("stop", CLIENT, RELAY)
    machine.systemctl("start", CLIENT)
    assert machine.shown(CLIENT, "ActiveState") == "active"
    machine.wait_until(CLIENT, "StatusText", "names served: 0 of 1; local: not connected: ")


def test_the_watchdog_ends_a_relay_that_stands_still_and_it_serves_again(
    machine: Container,
) -> None:
    configure_relay(machine)
    add_to(machine, RELAY, "WatchdogSec=2s")
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    stuck = machine.shown(RELAY, "MainPID")
    machine.systemctl("kill", "--signal=STOP", RELAY)
    machine.wait_until(RELAY, "NRestarts", "1")
    machine.wait_until(RELAY, "ActiveState", "active")
    assert machine.shown(RELAY, "MainPID") != stuck
    assert "Watchdog timeout" in machine.journal(RELAY)
    assert served(machine, host).strip() == PAGE


def test_the_watchdog_leaves_alone_what_works(machine: Container) -> None:
    configure_relay(machine)
    add_to(machine, RELAY, "WatchdogSec=1s")
    machine.systemctl("start", RELAY)
    process = machine.shown(RELAY, "MainPID")
    time.sleep(4)  # several of its times
    assert machine.shown(RELAY, "MainPID") == process


@pytest.mark.parametrize("unit", [RELAY, CLIENT])
def test_draining_may_take_longer_than_systemd_waits_by_itself(
    machine: Container, unit: str
) -> None:
    configure_relay(machine, drain="6s")
    machine.put("/etc/tunnel/client.toml.d/drain.toml", '[client]\ndrain_timeout = "6s"\n')
    add_to(machine, unit, "TimeoutStopSec=1s")
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    with visiting(machine, host):
        begin = time.monotonic()
        machine.systemctl("stop", unit)
        assert time.monotonic() - begin >= 5.5
    assert machine.shown(unit, "Result") == "success"


def test_no_connect_is_refused_while_a_relay_with_its_socket_unit_restarts(
    machine: Container,
) -> None:
    configure_relay(machine, INHERITED)
    machine.systemctl("start", SOCKET, RELAY)
    host = start_client(machine)
    assert page(machine, host).strip() == PAGE
    with connecting(machine) as results:
        for _ in range(RESTARTS):
            machine.systemctl("restart", RELAY)
    refused = [result for result in results if result]
    assert refused == []
    assert len(results) > 100
    assert served(machine, host).strip() == PAGE


@contextmanager
def connecting(machine: Container) -> Iterator[list[str]]:
    """Connect as a visitor again and again; yields what became of each: "" or the fault."""
    results: list[str] = []
    over = threading.Event()

    def knock() -> None:
        with machine.network():
            while not over.wait(CONNECT_INTERVAL):
                try:
                    socket.create_connection(("127.0.0.1", 443), 5).close()
                    results.append("")
                except OSError as error:
                    results.append(repr(error))

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join()


def test_a_visitor_starts_the_relay_whose_socket_unit_waits(machine: Container) -> None:
    configure_relay(machine, INHERITED)
    machine.systemctl("start", SOCKET)
    with machine.network():
        socket.create_connection(("127.0.0.1", 443), 5).close()
    machine.wait_until(RELAY, "ActiveState", "active")


def test_without_its_socket_unit_a_relay_that_wants_sockets_says_which(machine: Container) -> None:
    configure_relay(machine, INHERITED)
    assert machine.systemctl("start", RELAY, check=False).returncode != 0
    expected = "listeners.agents: no socket for tcp [::]:4433 came from systemd"
    assert machine.shown(RELAY, "StatusText").startswith(expected)


def test_a_socket_of_the_unit_that_is_in_no_listener_is_warned_of(machine: Container) -> None:
    configure_relay(machine, INHERITED.replace('"fd:[::]:443"', '"127.0.0.1:8443"'))
    machine.systemctl("start", SOCKET, RELAY)
    assert "socket from systemd is in no listener" in machine.journal(RELAY)


def test_a_key_that_only_root_may_read_comes_as_a_credential(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    machine.run("client.pyz", "keygen", "/etc/tunnel/client.key")
    add_to(machine, CLIENT, "LoadCredential=client.key:/etc/tunnel/client.key")
    host = start_client(machine, key="${CREDENTIALS_DIRECTORY}/client.key")
    assert page(machine, host).strip() == PAGE


def test_the_relays_certificate_and_its_key_come_as_credentials(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    machine.run("cp", "/var/lib/tunnel-relay/relay.pem", "/etc/tunnel/relay.pem")
    pins = re.findall(r"--pin (\S+)", machine.journal(RELAY))
    machine.systemctl("stop", RELAY)
    add_to(machine, RELAY, "LoadCredential=relay.pem:/etc/tunnel/relay.pem")
    file = '"${CREDENTIALS_DIRECTORY}/relay.pem"'
    certificate = f'[certificate]\nmode = "files"\nchain_file = {file}\nkey_file = {file}\n'
    configure_relay(machine, f"{LISTENERS}{certificate}")
    machine.run("rm", "-r", "/var/lib/tunnel-relay/relay.pem")
    machine.systemctl("start", RELAY)
    assert re.findall(r"--pin (\S+)", machine.journal(RELAY))[-1] == pins[-1]
    assert page(machine, start_client(machine)).strip() == PAGE


def test_several_clients_have_settings_and_state_of_their_own(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    one = start_client(machine)
    other = start_client(machine, SHOP, "clients/shop")
    assert one != other
    assert page(machine, one) == page(machine, other)
    for settings, name in (("client", one), ("clients/shop", other)):  # each finds its own socket
        told = machine.run("client.pyz", "status", "--json", "-c", f"/etc/tunnel/{settings}.toml")
        assert [each["names"] for each in json.loads(told.stdout)["endpoints"]] == [[name]]


def test_a_reload_moves_the_control_socket_that_it_is_asked_by(machine: Container) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    good = machine.read("/etc/tunnel/relay.toml")
    for name in ("first", "second"):
        more = f'[admin]\nsocket = "/run/tunnel-relay/{name}.sock"\n'
        machine.put("/etc/tunnel/relay.toml", good + more)
        machine.systemctl("reload", RELAY)
        told = machine.run("relay.pyz", "status", "--check", "-c", "/etc/tunnel/relay.toml")
        assert told.stdout == "ready\n"
    machine.put("/etc/tunnel/relay.toml", good)
    machine.systemctl("reload", RELAY)
    assert machine.run("ls", "/run/tunnel-relay").stdout == "admin.sock\n"


def test_a_reload_brings_settings_into_force_or_fails_and_the_process_stays(
    machine: Container,
) -> None:
    configure_relay(machine)
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    for unit, settings in ((RELAY, "relay"), (CLIENT, "client")):
        file, before = f"/etc/tunnel/{settings}.toml", machine.shown(unit, "MainPID")
        good = machine.read(f"/etc/tunnel/{settings}.toml")
        machine.put(file, f'{good}[log]\nlevel = "debug"\n')
        machine.systemctl("reload", unit)
        assert "changed=log.level" in machine.journal(unit)
        machine.put(file, f"{good}[log]\nlevel = 7\n")
        assert machine.systemctl("reload", unit, check=False).returncode != 0
        assert f"{file}:{len(good.splitlines()) + 2}: log.level" in machine.journal(unit)
        assert machine.shown(unit, "MainPID") == before
    assert page(machine, host).strip() == PAGE
