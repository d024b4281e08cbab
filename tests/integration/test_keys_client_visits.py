"""Keys of client.toml that show in how a relay is trusted and in what a visitor meets.

Two values of each, and two clients that behave differently: real ones, through a real relay.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.conftest import Run
from tests.integration.forwarders import closing
from tests.integration.stage import SUFFIX, Stage, on_stage, relay_settings
from tests.variants import ASKED, quic
from tunnel.client.client import Client
from tunnel.client.events import ClientEvent, Failed, Serving
from tunnel.protocol.proxy import V2_SIGNATURE
from tunnel.settings.values import (
    ClientSettings,
    EndpointSettings,
    KeypairSettings,
    RelayCertificate,
    ServerSettings,
    Target,
)
from tunnel.stream import Address
from tunnel.tls.certificates import load_chain

RELAY_NAME = "relay.test"
SAID = b"hello"

Files = tuple[Path, Path, trustme.CA]  # chain, key, and who has issued them


@dataclass(frozen=True)
class Seen:
    """What a visitor has met: its TLS, and the answer; None where it was cut instead."""

    leaf: bytes = b""
    alpn: str | None = None
    answer: bytes | None = None


@asynccontextmanager
async def target(word: bytes = b"", tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """Run a service that answers with its word and all that it has heard up to SAID."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            writer.write(word + await reader.readuntil(SAID))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield Target(Address(*server.sockets[0].getsockname()))


def settings_for(stage: Stage, folder: Path, to: Target, **changes: Any) -> ClientSettings:
    """Return settings with one server, trusted by its pin, and one endpoint, changed as asked."""
    trust = {"pin": stage.pin, **changes.pop("server", {})}
    server = ServerSettings("eu", stage.agents, RELAY_NAME, transport="h2", pool_size=1)
    endpoint = EndpointSettings("web", "key", SUFFIX, to, servers=("eu",))
    tables: dict[str, Any] = {
        "state_dir": folder / "client",
        "servers": {"eu": replace(server, **trust)},
        "keypairs": {"key": KeypairSettings("key", folder / "client.key")},
        "endpoints": {"web": replace(endpoint, **changes.pop("endpoint", {}))},
        "quic": quic(ASKED.engines.client),
    }
    return ClientSettings(**(tables | changes))


@asynccontextmanager
async def at_work(settings: ClientSettings) -> AsyncIterator[str | None]:
    """Run a client, and yield the name that it serves; None if it cannot get at its relay."""
    outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def note(event: ClientEvent) -> None:
        if isinstance(event, Serving | Failed) and not outcome.done():
            outcome.set_result(event.name if isinstance(event, Serving) else None)

    client = Client(settings, on_event=note)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        yield await outcome
        client.stop()


def anybody(*alpn: str) -> ssl.SSLContext:
    """Return the TLS of a visitor who takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def visit(stage: Stage, name: str, context: ssl.SSLContext | None = None) -> Seen:
    """Return what a visitor of the name meets who says SAID."""
    seen = Seen()
    with suppress(OSError):  # the visitor was cut
        reader, writer = await asyncio.open_connection(
            stage.public.host, stage.public.port, ssl=context or anybody(), server_hostname=name
        )
        session = writer.get_extra_info("ssl_object")
        seen = Seen(session.getpeercert(binary_form=True), session.selected_alpn_protocol())
        try:
            writer.write(SAID)
            seen = replace(seen, answer=await reader.read() or None)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return seen


async def seen_by_a_visitor(
    stage: Stage, settings: ClientSettings, context: ssl.SSLContext | None = None
) -> Seen:
    async with at_work(settings) as name:
        assert name is not None
        return await visit(stage, name, context)


@dataclass
class Choices:
    """One relay and one target, to which clients with several endpoints come one by one."""

    run: Run
    folder: Path

    def seen(
        self, *endpoints: Mapping[str, Any], context: ssl.SSLContext | None = None
    ) -> list[Seen]:
        """Return what a visitor meets at an endpoint with each of these changes."""
        met: list[Seen] = []

        async def body() -> None:
            async with on_stage(relay_settings(self.folder)) as stage, target() as to:
                for each in endpoints:
                    settings = settings_for(stage, self.folder, to, endpoint=each)
                    met.append(await seen_by_a_visitor(stage, settings, context))

        self.run(body())
        return met


@pytest.fixture
def choices(run: Run, tmp_path: Path) -> Choices:
    """Return what compares endpoints."""
    return Choices(run, tmp_path)


def files(folder: Path, name: str, *hosts: str) -> Files:
    """Make the files of a certificate."""
    authority = trustme.CA()
    issued = authority.issue_cert(*hosts)
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key, authority


# [client]


def test_state_dir_is_where_the_certificate_is_kept(tmp_path: Path, run: Run) -> None:
    leaves: list[bytes] = []

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target() as to:
            for name in ("a", "b", "a"):
                settings = settings_for(stage, tmp_path, to, state_dir=tmp_path / name)
                leaves.append((await seen_by_a_visitor(stage, settings)).leaf)

    run(body())
    assert leaves[0] == leaves[2] != leaves[1]


# [servers.*]


def reached(
    run: Run, folder: Path, chain: tuple[Path, Path], **servers: Mapping[str, Any]
) -> dict[str, bool]:
    """Say with which of these changes a relay that shows the certificate is trusted."""
    is_reached: dict[str, bool] = {}

    async def body() -> None:
        certificate = RelayCertificate("files", *chain)
        async with on_stage(relay_settings(folder, certificate=certificate)) as stage:
            nobody = Target(Address("127.0.0.1", 9))
            for word, changes in servers.items():
                server = {"pin": None} | dict(changes)
                settings = settings_for(stage, folder, nobody, server=server)
                async with at_work(settings) as name:
                    is_reached[word] = name is not None

    run(body())
    return is_reached


@pytest.fixture
def relay_files(tmp_path: Path) -> Files:
    return files(tmp_path, "relay", RELAY_NAME)


def root(folder: Path, authority: trustme.CA, name: str = "ca.pem") -> Path:
    """Return the file of an authority's root."""
    path = folder / name
    path.write_bytes(authority.cert_pem.bytes())
    return path


def test_server_name_is_what_the_certificate_must_say(
    tmp_path: Path, run: Run, relay_files: Files
) -> None:
    ca = root(tmp_path, relay_files[2])
    seen = reached(
        run,
        tmp_path,
        relay_files[:2],
        right={"ca": ca, "server_name": RELAY_NAME},
        wrong={"ca": ca, "server_name": "other.test"},
    )
    assert seen == {"right": True, "wrong": False}


def test_ca_is_who_is_trusted(tmp_path: Path, run: Run, relay_files: Files) -> None:
    right, wrong = root(tmp_path, relay_files[2]), root(tmp_path, trustme.CA(), "other.pem")
    seen = reached(
        run, tmp_path, relay_files[:2], right={"ca": right}, wrong={"ca": wrong}, none={}
    )
    assert seen == {"right": True, "wrong": False, "none": False}


def test_pin_is_which_key_is_trusted(tmp_path: Path, run: Run, relay_files: Files) -> None:
    pin = load_chain(*relay_files[:2]).pin
    seen = reached(
        run,
        tmp_path,
        relay_files[:2],
        right={"pin": pin},
        wrong={"pin": bytes(32)},
    )
    assert seen == {"right": True, "wrong": False}


def test_insecure_trusts_anybody(tmp_path: Path, run: Run, relay_files: Files) -> None:
    seen = reached(run, tmp_path, relay_files[:2], on={"insecure": True}, off={"insecure": False})
    assert seen == {"on": True, "off": False}


def test_proxy_is_whom_tcp_goes_through(tmp_path: Path, run: Run) -> None:
    asked: list[bytes] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        asked.append(request.split()[1])
        host, _, port = asked[-1].decode().partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError):  # one of both has gone
            async with closing(writer), closing(far_writer):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def body() -> None:
        async with (
            on_stage(relay_settings(tmp_path)) as stage,
            await asyncio.start_server(serve, "127.0.0.1", 0) as proxy,
            target() as to,
        ):
            url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            for chosen, expected in ((None, []), (url, [str(stage.agents).encode()])):
                settings = settings_for(stage, tmp_path, to, server={"proxy": chosen})
                assert (await seen_by_a_visitor(stage, settings)).answer == SAID
                assert asked == expected

    run(body())


# [endpoints.*]


def test_target_is_who_answers(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with (
            on_stage(relay_settings(tmp_path)) as stage,
            target(b"1") as a,
            target(b"2") as b,
        ):
            answers = [
                (await seen_by_a_visitor(stage, settings_for(stage, tmp_path, to))).answer
                for to in (a, b)
            ]
        assert answers == [b"1" + SAID, b"2" + SAID]

    run(body())


def test_certificate_is_whose_tls_a_visitor_meets(tmp_path: Path, run: Run) -> None:
    chain, key, _ = files(tmp_path, "target", "a.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage, target(tls=context) as to:
            for word, expected in (("passthrough", SAID), ("self-signed", None)):
                settings = settings_for(stage, tmp_path, to, endpoint={"certificate": word})
                seen = await seen_by_a_visitor(stage, settings)
                assert seen.answer == expected, "the target speaks TLS itself"

    run(body())


def test_chain_and_key_files_are_what_a_visitor_sees(choices: Choices, tmp_path: Path) -> None:
    pairs = [files(tmp_path, name, "a.test")[:2] for name in ("a", "b")]
    seen = choices.seen(
        {},
        *({"certificate": "files", "chain_file": chain, "key_file": key} for chain, key in pairs),
    )
    assert len({each.leaf for each in seen}) == 3
    assert [each.answer for each in seen] == [SAID] * 3


def test_alpn_is_what_visitors_are_offered(choices: Choices) -> None:
    context = anybody("h2", "http/1.1")
    seen = choices.seen({"alpn": ("http/1.1",)}, {"alpn": ("h2", "http/1.1")}, context=context)
    assert [each.alpn for each in seen] == ["http/1.1", "h2"]


def test_certificate_extension_is_in_the_self_signed_certificate(choices: Choices) -> None:
    extension = b"an extension of our own"
    seen = choices.seen({}, {"certificate_extension": extension})
    assert [extension in each.leaf for each in seen] == [False, True]


def test_proxy_protocol_tells_the_target_who_comes(choices: Choices) -> None:
    plain, v1, v2 = choices.seen({}, {"proxy_protocol": "v1"}, {"proxy_protocol": "v2"})
    assert plain.answer == SAID
    assert (v1.answer or b"").startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    assert (v2.answer or b"").startswith(V2_SIGNATURE)


def test_allow_is_who_is_let_in(choices: Choices) -> None:
    here, elsewhere = (ip_network("127.0.0.0/8"),), (ip_network("192.0.2.0/24"),)
    seen = choices.seen({"allow": here}, {"allow": elsewhere})
    assert [each.answer for each in seen] == [SAID, None]


def test_deny_is_who_is_not_let_in(choices: Choices) -> None:
    here, elsewhere = (ip_network("127.0.0.0/8"),), (ip_network("192.0.2.0/24"),)
    seen = choices.seen({"deny": elsewhere}, {"deny": here}, {"allow": here, "deny": here})
    assert [each.answer for each in seen] == [SAID, None, None]


def test_visitor_ca_is_who_vouches_for_visitors(choices: Choices, tmp_path: Path) -> None:
    chain, key, authority = files(tmp_path, "visitor", "somebody.test")
    context = anybody()
    context.load_cert_chain(chain, key)
    right, wrong = root(tmp_path, authority), root(tmp_path, trustme.CA(), "other.pem")
    seen = choices.seen({"visitor_ca": right}, {"visitor_ca": wrong}, context=context)
    assert [each.answer for each in seen] == [SAID, None]
    assert choices.seen({"visitor_ca": right})[0].answer is None
