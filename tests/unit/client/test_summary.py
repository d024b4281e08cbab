"""The line that a service manager shows of a client."""

from tunnel.client.__main__ import summary
from tunnel.client.events import EndpointState, ServerState


def server(name: str, transport: str | None, *names: str, error: str | None = None) -> ServerState:
    return ServerState(name, transport, "", 1, names, None, error, None)


def endpoint(names: tuple[str, ...], *servers: ServerState) -> EndpointState:
    return EndpointState("web", "id", "sha256:", names, (), servers, ())


def test_names_count_once_however_many_relays_serve_them() -> None:
    servers = server("eu", "quic", "a.test"), server("us", "h2", "a.test")
    state = endpoint(("a.test", "b.test"), *servers)
    assert summary([state]) == "names served: 1 of 2; eu: quic; us: h2"


def test_a_relay_that_is_not_reached_is_told_with_the_cause() -> None:
    states = [endpoint(("a.test",), server("eu", None, error="cannot connect to 192.0.2.1:4433"))]
    expected = "names served: 0 of 1; eu: not connected: cannot connect to 192.0.2.1:4433"
    assert summary(states) == expected


def test_a_relay_is_told_once_for_all_endpoints() -> None:
    states = [endpoint((name,), server("eu", "quic", name)) for name in ("a.test", "b.test")]
    assert summary(states) == "names served: 2 of 2; eu: quic"


def test_a_relay_that_was_not_tried_has_no_cause() -> None:
    states = [endpoint(("a.test",), server("eu", None))]
    assert summary(states) == "names served: 0 of 1; eu: not connected: not tried yet"
