"""What a client says of itself: how every endpoint stands, and why. Plain values for JSON."""

import os
from collections.abc import Iterable
from dataclasses import asdict

from tunnel import __version__
from tunnel.admin.answers import Members
from tunnel.client.client import Client
from tunnel.client.events import EndpointState

NOT_SERVED = "no relay serves any name"
DRAINING = "draining: new visitors go elsewhere"


def obstacle_of(endpoints: Iterable[EndpointState]) -> str | None:
    """Return why no visitor comes through any relay, None if some may."""
    ways = [way for endpoint in endpoints for way in endpoint.servers]
    if any(way.names for way in ways):
        return None
    causes = dict.fromkeys(f"{way.server}: {way.last_error or 'no answer yet'}" for way in ways)
    return f"{NOT_SERVED} ({'; '.join(causes)})"


def status_of(client: Client, uptime: float, *, is_draining: bool) -> Members:
    """Return how the client stands; it has run for `uptime` seconds."""
    endpoints = client.info()
    obstacle = DRAINING if is_draining else obstacle_of(endpoints)
    return {
        "program": "client",
        "version": __version__,
        "pid": os.getpid(),
        "uptime": round(uptime, 3),
        "state": "draining" if is_draining else "running",
        "ready": obstacle is None,
        "why": obstacle,
        "endpoints": [_endpoint(client, each) for each in endpoints],
    }


def _endpoint(client: Client, state: EndpointState) -> Members:
    visitors = state.visitors
    settings = client.settings.endpoints[state.endpoint]
    return {
        "endpoint": state.endpoint,
        "id": state.id,
        "fingerprint": state.fingerprint,
        "names": state.names,
        "urls": state.urls,
        "target": str(settings.target),
        "streams": visitors.open,
        "visitors": visitors.total,
        "received": visitors.received,
        "sent": visitors.sent,
        "target_failures": visitors.target_failures,
        "servers": [asdict(each) for each in state.servers],
        "certificates": [asdict(each) for each in state.certificates],
    }
