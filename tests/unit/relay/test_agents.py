"""What the relay announces to clients."""

from pathlib import Path

import pytest

from tests.unit.relay.scenes import Clock, Orders
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.agents import Agents
from tunnel.relay.challenges import Challenges
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.registry import Registry
from tunnel.settings.values import RelaySettings, RelayTimeouts


@pytest.mark.parametrize(
    ("connections", "interval"),
    [(0, 5), (2_000, 5), (4_000, 10), (8_000, 20), (12_000, 30), (20_000, 30)],
)
def test_a_crowded_relay_asks_for_a_slower_heartbeat(
    tmp_path: Path, connections: int, interval: float
) -> None:
    settings = RelaySettings("relay", tmp_path, {}, {}, timeouts=RelayTimeouts(heartbeat=5))
    registry = Registry(20_000, (), Challenges(Orders(), Clock()), Clock())
    registry.connections = connections
    admission = SettingsAdmission(settings, frozenset(), KnownKeys(tmp_path / "known"))
    agents = Agents(settings, registry, admission, None)  # type: ignore[arg-type] # no doors here
    assert agents._heartbeat_interval() == interval
