"""Whether the services behind the tunnel answer: each is connected to once, and nothing is said."""

import asyncio
from pathlib import Path

from tunnel.errors import DialFailed
from tunnel.runtime.findings import Check, Finding
from tunnel.runtime.lookups import look_up
from tunnel.settings.tree import header
from tunnel.settings.values import EndpointSettings, Target
from tunnel.stream import Address
from tunnel.transport.dialling import connect_socket, connect_unix_socket

LOOKUP_TIMEOUT = 3.0  # seconds
CONNECT_TIMEOUT = 4.0  # for all addresses together
OWN_TIMEOUT = CONNECT_TIMEOUT + 1  # of each: never the first to end


async def examine_target(endpoint: EndpointSettings) -> Finding:
    """Return whether the target of an endpoint answers. Cancel-safe."""
    return judge_target(endpoint, await try_target(endpoint.target))


async def try_target(target: Target) -> str:
    """Return why a target does not answer, nothing if it does. Cancel-safe."""
    places, trouble = await _places_of(target)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            for place in places:
                trouble = await _try(place)
                if not trouble:
                    break
    except TimeoutError:
        return f"cannot connect to {target}: no answer within {CONNECT_TIMEOUT:g} s"
    return trouble


async def _places_of(target: Target) -> tuple[list[Address | Path], str]:
    """Return where a target may be, or why that is not known."""
    if target.address is None:
        return ([] if target.path is None else [target.path]), ""
    found = await look_up(target.address.host, LOOKUP_TIMEOUT)
    trouble = f"{found.host} does not resolve: {found.trouble}"
    return [Address(host, target.address.port) for host in found.addresses], trouble


async def _try(place: Address | Path) -> str:
    try:
        if isinstance(place, Path):
            sock = await connect_unix_socket(place, OWN_TIMEOUT)
        else:
            sock = await connect_socket(place, OWN_TIMEOUT)
    except DialFailed as failure:
        return str(failure)
    sock.close()
    return ""


def judge_target(endpoint: EndpointSettings, trouble: str) -> Finding:
    """Judge what came of connecting to a target."""
    check = Check("target", endpoint.name)
    if not trouble:
        return check.ok(f"{endpoint.target} answers")
    return check.failed(
        trouble, f"start the service, or correct target in {header(('endpoints', endpoint.name))}"
    )
