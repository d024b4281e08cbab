"""Whether an authority would find the way to this client: name, port 443, and a relay behind it.

The authority is imitated as far as its first packet (RFC 8737 §3). No validation is asked for, so
that nothing is counted and nobody's order is disturbed; a relay then answers that it knows of none.
"""

import asyncio
import ssl
from dataclasses import dataclass, field

from tunnel.acme.challenge import ALPN
from tunnel.acme.directories import directory_of
from tunnel.acme.preflight import MISSING_ADVICE, Verdict, check, wants_preflight
from tunnel.errors import DialFailed
from tunnel.runtime.findings import Check, Finding
from tunnel.runtime.lookups import RESOLVER_ADVICE, Lookup, look_up
from tunnel.settings.values import AcmeSettings
from tunnel.stream import Address
from tunnel.transport.dialling import connect_socket
from tunnel.transport.tcp import reason_of

VALIDATION_PORT = 443  # RFC 8737 §3: no other is allowed
LOOKUP_TIMEOUT = 3.0  # seconds, as below
PREFLIGHT_TIMEOUT = 5.0
KNOCK_TIMEOUT = 4.0
ADDRESSES_MAX = 4  # of one name that are knocked at

_UNKNOWN_HERE = "TLSV1_UNRECOGNIZED_NAME"  # OpenSSL's word for the alert of RFC 6066 §3


@dataclass(frozen=True, slots=True)
class NameSight:
    """What was seen of the way to one name; `troubles` are of the addresses that did not do."""

    name: str
    lookup: Lookup
    answered: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    verdict: Verdict = field(default_factory=Verdict)


async def look_at_name(name: str, settings: AcmeSettings) -> NameSight:
    """Look for the way to a name as an authority would. Cancel-safe."""
    async with asyncio.TaskGroup() as group:
        verdict = group.create_task(_preflight(name, settings))
        lookup = await look_up(name, LOOKUP_TIMEOUT)
        hosts = lookup.addresses[:ADDRESSES_MAX]
        answers = [group.create_task(_knock(name, host)) for host in hosts]
    troubles = dict(zip(hosts, (task.result() for task in answers), strict=True))
    return NameSight(
        name,
        lookup,
        tuple(host for host, trouble in troubles.items() if not trouble),
        tuple(trouble for trouble in troubles.values() if trouble),
        verdict.result(),
    )


async def _preflight(name: str, settings: AcmeSettings) -> Verdict:
    """Return what an order would find out beforehand, where it looks at all."""
    directory = directory_of(settings.directory)
    if not wants_preflight(settings.preflight, directory):
        return Verdict()
    return await check([name], directory.caa, account=None, timeout=PREFLIGHT_TIMEOUT)


async def _knock(name: str, host: str) -> str:
    """Return why no relay answers a validation of the name at an address; nothing if one does."""
    address = Address(host, VALIDATION_PORT)
    try:
        async with asyncio.timeout(KNOCK_TIMEOUT):
            sock = await connect_socket(address, KNOCK_TIMEOUT)
            try:
                _, writer = await asyncio.open_connection(
                    sock=sock, ssl=_validating(), server_hostname=name
                )
            except BaseException:
                sock.close()
                raise
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            writer.transport.abort()
    except TimeoutError:
        return f"no answer from {address} within {KNOCK_TIMEOUT:g} s"
    except ssl.SSLError as error:
        return "" if error.reason == _UNKNOWN_HERE else _no_relay(address)
    except DialFailed as failure:
        return str(failure)
    except OSError as error:
        return f"{address}: {reason_of(error)}"
    return "" if chosen == ALPN else _no_relay(address)


def _no_relay(address: Address) -> str:
    return f"what answers at {address} is not the relay: it does not speak {ALPN}"


def _validating() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def judge_challenge(seen: NameSight, relays: frozenset[str]) -> Finding:
    """Judge the way to a name; `relays` are the addresses of which it should have one, if known."""
    line = Check("challenge", seen.name)
    if not seen.lookup.addresses:
        return _judge_lookup(line, seen)
    if seen.verdict.faults:
        return line.failed(seen.verdict.faults[0], "no certificate would be issued: mend that")
    if seen.troubles:
        return line.failed(
            seen.troubles[0],
            f"authorities connect to TCP port {VALIDATION_PORT}: let a public listener of the "
            "relay have it, and every firewall let it through",
        )
    return _judge_addresses(line, seen, relays)


def _judge_lookup(line: Check, seen: NameSight) -> Finding:
    told = f"{seen.name} does not resolve: {seen.lookup.trouble}"
    if seen.lookup.is_missing:
        return line.failed(told, MISSING_ADVICE)
    return line.warning(told, RESOLVER_ADVICE)


def _judge_addresses(line: Check, seen: NameSight, relays: frozenset[str]) -> Finding:
    """Judge a name at whose addresses relays answer."""
    addresses = seen.lookup.addresses
    if relays and relays.isdisjoint(addresses):
        return line.warning(
            f"{seen.name} is {', '.join(addresses)}, the relay {', '.join(sorted(relays))}",
            "right if that is a balancer or another of the relays; else correct the record",
        )
    if seen.verdict.warnings:
        return line.warning(seen.verdict.warnings[0], "make sure that an authority sees it so too")
    return line.ok(f"port 443 of {', '.join(seen.answered)} answers as a relay does")
