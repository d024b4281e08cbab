"""What of a session follows the settings while it lasts: who it is and how it is reached does not.

New streams and new connections keep to the terms of the moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tunnel.client.endpoints import Endpoint
from tunnel.client.racing import Rules
from tunnel.transport.options import TransportOptions


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """`endpoints` are by each of their names; times are in seconds.

    Of `rules`, only the interval of probes may be another one in later terms.
    """

    endpoints: Mapping[str, Endpoint]
    options: TransportOptions
    rules: Rules
    direct: str  # auto | on | off
    register_timeout: float
    heartbeat: float
    linger_timeout: float
    drain_timeout: float
