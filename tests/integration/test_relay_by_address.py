"""A relay that is dialled by its IP address and trusted by an authority's root.

Its certificate must have that address as an iPAddress (RFC 9525 §6.5): that its name has led
there is nothing that the client knows.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.integration.conftest import Run
from tests.integration.stage import LOOPBACK, Stage, on_stage, relay_settings
from tunnel.errors import DialFailed
from tunnel.settings.values import RelayCertificate
from tunnel.stream import Connection
from tunnel.tls.contexts import Trust
from tunnel.transport.doors import DIALERS
from tunnel.transport.options import TransportOptions

NOT_FOR_IT = r"not (valid )?for '?127\.0\.0\.1"  # as OpenSSL or the QUIC engine says it
FOREIGN = {
    "a name": ["relay.test"],
    "another address": ["127.0.0.2"],
    "another address and a name": ["::1", "relay.test"],
    "a wildcard": ["*.test"],
}


@dataclass(frozen=True)
class Files:
    """What the relay shows, and whom the client trusts."""

    certificate: RelayCertificate
    ca: Path


def issued(folder: Path, *identities: str, common_name: str | None = None) -> Files:
    """Return a certificate of a new authority for these names and addresses."""
    authority = trustme.CA()
    leaf = authority.issue_cert(*identities, common_name=common_name)
    chain, key, ca = (folder / name for name in ("chain.pem", "key.pem", "ca.pem"))
    chain.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    key.chmod(0o600)
    authority.cert_pem.write_to_path(str(ca))
    return Files(RelayCertificate("files", chain, key), ca)


async def reach(stage: Stage, transport: str, ca: Path) -> Connection:
    """Dial the relay as a client does whose settings name no more than its address and `ca`."""
    trust = Trust(stage.agents.host, ca)
    return await DIALERS[transport](stage.agents, trust, TransportOptions(), None)


def test_a_certificate_with_the_address_is_trusted(
    transport: str, run: Run, tmp_path: Path
) -> None:
    files = issued(tmp_path, "relay.test", LOOPBACK)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, certificate=files.certificate)) as stage:
            connection = await reach(stage, transport, files.ca)
            assert not connection.is_closed
            connection.close()

    run(body())


@pytest.mark.parametrize("identities", FOREIGN.values(), ids=FOREIGN)
def test_a_certificate_without_the_address_is_refused(
    identities: list[str], transport: str, run: Run, tmp_path: Path
) -> None:
    files = issued(tmp_path, *identities)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, certificate=files.certificate)) as stage:
            with pytest.raises(DialFailed, match=NOT_FOR_IT):
                await reach(stage, transport, files.ca)

    run(body())


def test_an_address_as_common_name_is_none(transport: str, run: Run, tmp_path: Path) -> None:
    files = issued(tmp_path, "relay.test", common_name=LOOPBACK)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, certificate=files.certificate)) as stage:
            with pytest.raises(DialFailed, match=NOT_FOR_IT):
                await reach(stage, transport, files.ca)

    run(body())
