"""What relays and clients of an inventory have to know of each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import (  # type: ignore[import-not-found] # where Ansible runs
    AnsibleFilterError,
)

Tables = dict[str, dict[str, Any]]
HostVars = Mapping[str, Mapping[str, Any]]
FINGERPRINT = re.compile(r'^(?:.*/)?50-(.+)\.toml:.*"(sha256:[0-9a-f]{64})"')


def clients(hosts: Sequence[str], hostvars: HostVars, told: Sequence[str]) -> Tables:
    """Return the `[clients.*]` of a relay: every instance of these hosts whose key is known.

    A fingerprint is the one that the host has told in this run (`client_fingerprints`), else what
    `told`, lines of grep over this relay's drop-ins, has under that name.
    """
    known = {match[1]: match[2] for match in map(FINGERPRINT.match, told) if match}
    tables: Tables = {}
    for host, instance in instances(hosts, hostvars):
        name = f"{host}-{instance['name']}"
        if name in tables:
            raise AnsibleFilterError(f"two clients of the inventory would be called {name}")
        fresh = hostvars[host].get("client_fingerprints", {})
        tables[name] = {
            "fingerprint": fresh.get(instance["name"]) or known.get(name),
            "enabled": instance.get("enabled", True),
            **instance.get("grant", {}),
        }
    return tables


def instances(hosts: Sequence[str], hostvars: HostVars) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each host with each of its instances."""
    for host in hosts:
        for instance in hostvars[host].get("client_instances", []):
            yield host, instance


def servers(
    hosts: Sequence[str], hostvars: HostVars, answers: Sequence[Mapping[str, Any]]
) -> Tables:
    """Return the `[servers.*]` of a client: every relay, by the pin of the inventory, or its own.

    `answers` are those of relays that were asked for their status. A pin is needed, and lasts,
    where the certificate is self-signed; others are verified by their names.
    """
    pins = {answer["item"]: pin_told(answer) for answer in answers}
    tables: Tables = {}
    for host in hosts:
        pin = hostvars[host].get("relay_pin", pins.get(host))
        tables[host] = {"address": hostvars[host].get("relay_address", host)}
        if pin:
            tables[host]["pin"] = pin
    return tables


def pin_told(answer: Mapping[str, Any]) -> str | None:
    """Return the pin that a relay has told of itself, None if it needs none or did not answer."""
    if answer.get("rc") != 0 or not answer.get("stdout"):
        return None
    certificate = json.loads(answer["stdout"])["certificate"]
    return str(certificate["pin"]) if certificate["source"] == "self-signed" else None


class FilterModule:
    """What Ansible asks for filters."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Return the filters by name."""
        return {"clients": clients, "servers": servers}
