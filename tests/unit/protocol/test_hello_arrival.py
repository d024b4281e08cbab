"""Who has come to a port that more than one kind of peer may use."""

import pytest

from tunnel.protocol.hello import (
    UNRECOGNIZED_NAME_ALERT,
    Arrival,
    ClientHello,
    HelloRefused,
    sort,
)


@pytest.mark.parametrize(
    ("name", "alpn", "arrival"),
    [
        ("a.example", (), Arrival.VISITOR),
        ("a.example", (b"h2", b"http/1.1"), Arrival.VISITOR),
        ("a.example", (b"acme-tls/1",), Arrival.VALIDATION),
        ("a.example", (b"acme-tls/1", b"h2"), Arrival.VISITOR),
        ("a.example", (b"acme-tls/1", b"acme-tls/1"), Arrival.VISITOR),
        ("a.example", (b"tunnel-h2/1",), Arrival.AGENT),
        (None, (b"tunnel-h2/1",), Arrival.AGENT),
        (None, (b"h2", b"tunnel-h2/1"), Arrival.AGENT),
    ],
)
def test_the_alpn_tells_who_has_come(
    name: str | None, alpn: tuple[bytes, ...], arrival: Arrival
) -> None:
    assert sort(ClientHello(name, alpn, 200), accepts_agents=True) is arrival


@pytest.mark.parametrize("alpn", [(), (b"h2",), (b"acme-tls/1",)])
def test_only_an_agent_may_name_no_server(alpn: tuple[bytes, ...]) -> None:
    with pytest.raises(HelloRefused, match="names no server") as refused:
        sort(ClientHello(None, alpn, 200), accepts_agents=True)
    assert refused.value.answer == UNRECOGNIZED_NAME_ALERT


def test_an_agent_is_a_visitor_where_agents_are_not_accepted() -> None:
    hello = ClientHello("a.example", (b"tunnel-h2/1",), 200)
    assert sort(hello, accepts_agents=False) is Arrival.VISITOR


def test_an_agent_without_a_name_is_refused_where_agents_are_not_accepted() -> None:
    with pytest.raises(HelloRefused) as refused:
        sort(ClientHello(None, (b"tunnel-h2/1",), 200), accepts_agents=False)
    assert refused.value.answer == UNRECOGNIZED_NAME_ALERT


def test_the_required_name_is_the_name() -> None:
    assert ClientHello("a.example", (), 200).required_name == "a.example"
