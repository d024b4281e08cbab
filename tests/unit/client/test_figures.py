"""What a client's figures say of the sessions that endpoints share."""

from tunnel.client.counts import Chronicle
from tunnel.client.events import DirectState, EndpointState, ServerState
from tunnel.client.figures import families_of


def endpoint(name: str, key: str, direct: DirectState) -> EndpointState:
    eu = ServerState("eu", "quic", "", 1, (), None, None, None, direct=direct)
    return EndpointState(name, "id", key, (), (), (eu,), ())


def samples(*endpoints: EndpointState) -> dict[str, float]:
    """Return the figures of direct connections, of one server."""
    families = families_of(endpoints, Chronicle(), 0, is_ready=True)
    return {each.name: each.samples["eu",] for each in families if "_direct_" in each.name}


def test_direct_connections_count_once_for_all_endpoints_of_a_key() -> None:
    one, other = DirectState("on", "", 4, 20, 3), DirectState("on", "", 4, 10, 2)
    endpoints = endpoint("a", "key", one), endpoint("b", "key", one), endpoint("c", "other", other)
    assert samples(*endpoints) == {
        "tunnel_client_direct_spares": 8,
        "tunnel_client_direct_visits": 30,
        "tunnel_client_direct_spares_refused": 5,
    }
