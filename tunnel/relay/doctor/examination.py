"""The whole examination of a relay, told in the order in which a start would meet it."""

import asyncio
from datetime import UTC, datetime

from tunnel.relay.doctor.certificate import judge_certificate, kept_certificate
from tunnel.relay.doctor.descriptors import allowance, judge_descriptors
from tunnel.relay.doctor.names import judge_name, look_at_names
from tunnel.relay.doctor.ports import (
    Own,
    judge_port,
    judge_privileges,
    look_at_ports,
    own_privileges,
)
from tunnel.runtime.buffers import granted_buffers, judge_buffers
from tunnel.runtime.findings import Finding, Status
from tunnel.settings.values import RelaySettings


async def examine(settings: RelaySettings, status: Status | None) -> list[Finding]:
    """Return all findings; `status` is what a relay that runs here says of itself. Cancel-safe."""
    own = own_of(status)
    names = await look_at_names(settings)
    ports = await asyncio.to_thread(look_at_ports, settings)
    kept = await asyncio.to_thread(kept_certificate, settings)
    findings = [judge_port(port, own) for port in ports]
    findings.append(judge_privileges(ports, own_privileges(), own))
    findings.append(judge_certificate(settings, kept, status, datetime.now(UTC)))
    findings += map(judge_name, names)
    findings.append(judge_descriptors(settings.limits, allowance(own)))
    if any(port.layer == "udp" for port in ports):
        findings.append(judge_buffers(granted_buffers()))
    return findings


def own_of(status: Status | None) -> Own | None:
    """Return what a relay's `status` says of the sockets that it has; None while it has none."""
    if status is None or "listeners" not in status:
        return None
    listening = ((each["protocol"], each["address"]) for each in status["listeners"])
    return Own(status["pid"], frozenset(listening))
