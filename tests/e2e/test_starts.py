"""How the two programs are started, how they reach each other, and what SIGHUP does to them."""

import re
import signal
from contextlib import closing

import pytest

from tests.e2e.proxies import Credentials, proxy
from tests.e2e.tunnels import Tunnel
from tests.e2e.visitors import get, tls
from tests.e2e.world import TRANSPORTS, Client, Process, Relay, World
from tests.ports import free_port

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

LOGIN = ("someone", "a:secret@")


@pytest.fixture
def bare_relay(world: World, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """Return a relay that was started without a file, on other ports than usual."""
    monkeypatch.setenv("XDG_STATE_HOME", str(world.folder / "state"))
    agents, public = free_port(), free_port()
    process = world.start("relay", "relay", "--api-port", str(agents), "--pub-port", str(public))
    process.wait_for("--pin")
    return Relay(world, "relay", world.folder, agents, public, process)


def client_of(relay: Relay, *arguments: str) -> Client:
    """Return a client that was started by the line which the relay has printed."""
    line = relay.process.wait_for(r"Client: client\.pyz (.+)")[1]
    options = [*line.replace("--local 3000", "").split(), *arguments]
    process = relay.world.start("client", "client", *options)
    state = relay.world.folder / "state" / "tunnel-client"
    return Client(relay.world, "client", relay.settings, state, process)


@pytest.mark.parametrize(("flags", "transport"), [([], "quic"), (["--force-h2"], "h2")])
def test_a_quick_start_needs_no_file(
    bare_relay: Relay, target: str, flags: list[str], transport: str
) -> None:
    client = client_of(bare_relay, "--local", target, *flags)
    assert client.host.endswith(".localhost")
    assert get(bare_relay, client).status == 200
    assert client.urls == [f"https://{client.host}:{bare_relay.public_port}"]
    client.process.wait_for(f"connected .*transport={transport}")
    assert "no settings given" in bare_relay.process.logged()


def test_a_quick_start_serves_a_second_endpoint(bare_relay: Relay, target: str) -> None:
    client = client_of(bare_relay, "--local", target, "--secondary-key", "second.key")
    client.process.wait_for(r"(?s)URL: .*URL: ")
    hosts = re.findall(r"https://([^:]+)", client.process.printed())
    assert len(set(hosts)) == 2
    assert [get(bare_relay, client, host=host).status for host in hosts] == [200, 200]


def test_a_pin_of_another_relay_is_refused(bare_relay: Relay, target: str) -> None:
    server = f"127.0.0.1:{bare_relay.agents_port}"
    pin = f"sha256:{'00' * 32}"
    client = bare_relay.world.start(
        "client", "client", "--server", server, "--pin", pin, "--local", target
    )
    client.wait_for("not connected .*pin")
    assert client.printed() == ""


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
def test_http2_goes_through_a_proxy(
    world: World,
    target: str,
    scheme: str,
    login: Credentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    relay = world.relay()
    with proxy(scheme, login, asked) as address:
        monkeypatch.setenv("LOGIN", "someone:a%3Asecret%40@" if login else "")
        way = f'proxy = "{scheme}://${{LOGIN}}{address}"'
        client = world.client(relay, target=target, options='transport = "h2"', server=way)
        assert get(relay, client, "/bytes/300000").status == 200
        assert set(asked) == {f"127.0.0.1:{relay.agents_port}"}
        client.process.stop()


def test_a_proxy_that_wants_a_login_is_named(world: World, target: str) -> None:
    relay = world.relay()
    with proxy("http", LOGIN, []) as address:
        way = f'proxy = "http://{address}"'
        client = world.client(relay, target=target, options='transport = "h2"', server=way)
        client.process.wait_for(f"not connected .*proxy {address}: answered '407 ")


def test_a_hang_up_signal_ends_nothing(tunnel: Tunnel) -> None:
    relay, client, _ = tunnel
    with closing(tls(relay, client)) as visitor:
        for process in (relay.process, client.process):
            process.signal(signal.SIGHUP)
            process.wait_for("signal=SIGHUP")
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert visitor.recv(15) == b"HTTP/1.1 200 OK"
    assert get(relay, client).status == 200
    assert (relay.process.popen.poll(), client.process.popen.poll()) == (None, None)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_both_programs_end_at_once_when_they_are_idle(
    world: World, target: str, transport: str
) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, options=f'transport = "{transport}"')
    assert get(relay, client).status == 200
    assert [_stop(client.process), _stop(relay.process)] == [0, 0]


def _stop(process: Process) -> int:
    return process.stop(timeout=5.0)
