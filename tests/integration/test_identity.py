"""Who is refused and with which code: the same one on every transport, in `reject` and in the
transport's close (docs/protocol.md §2, §3, §6).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.clients import ScriptedClient, dial
from tests.integration.conftest import Run
from tests.integration.stage import LISTED, LOOPBACK, SUFFIX, granted, on_stage, relay_settings
from tunnel.errors import Code
from tunnel.protocol.frames import FrameReader, frame
from tunnel.protocol.messages import Auth, Reject, Serve, Welcome, decode, encode
from tunnel.protocol.names import client_id
from tunnel.protocol.registration import Claim, ClientRegistration
from tunnel.relay.admission import Decision
from tunnel.settings.values import RelayTimeouts
from tunnel.stream import Address, Connection, Stream
from tunnel.tls.certificates import self_signed
from tunnel.tls.identity import fingerprint, generate
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.doors import accept_socket, listen_datagrams
from tunnel.transport.options import TransportOptions

OTHER_TRANSPORT = {"quic": "h2", "h2": "quic"}
Attempt = Callable[[ScriptedClient], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_parting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the relay close soon after its last word, to see the code that it closes with."""
    monkeypatch.setattr("tunnel.runtime.control.PARTING_TIMEOUT", 0.1)


async def expect_refusal(client: ScriptedClient, code: Code) -> Reject:
    """Assert that the relay says why in `reject`, and again when it closes."""
    answer = await client.answer()
    assert isinstance(answer, Reject)
    assert answer.reason.code is code
    assert await client.lost() is code
    return answer


async def next_payload(stream: Stream, reader: FrameReader) -> bytes:
    """Return the next frame of a control stream as it came."""
    while (payload := reader.next_frame()) is None:
        reader.feed(await stream.receive())
    return payload


# What one client alone can do wrong


async def prove_with_another_key(client: ScriptedClient) -> None:
    sign = generate().sign
    await client.channel.write(client.registration.auth(client.body(), sign))


async def prove_with_garbage(client: ScriptedClient) -> None:
    await client.channel.write(client.registration.auth(client.body(), lambda _: b"\x30\x00"))


async def claim_another_keys_id(client: ScriptedClient) -> None:
    other = client_id(fingerprint(generate().public_key), 128)
    await send_claim(client, names=(f"{other}.{SUFFIX}",))


async def claim_another_suffix(client: ScriptedClient) -> None:
    await send_claim(client, names=(client.name.replace(SUFFIX, "else.test"),))


async def claim_the_suffix_itself(client: ScriptedClient) -> None:
    await send_claim(client, names=(SUFFIX,))


async def claim_a_version_not_offered(client: ScriptedClient) -> None:
    client.registration.version = 2
    await send_claim(client, version=2)


async def send_a_frame_too_long(client: ScriptedClient) -> None:
    await client.control.send((16 * 1024 + 1).to_bytes(4))


async def announce_4_gib(client: ScriptedClient) -> None:
    await client.control.send(b"\xff" * 4)


async def send_no_json(client: ScriptedClient) -> None:
    await client.channel.write(frame(b"GET / HTTP/1.1\r\n\r\n"))


async def send_an_unknown_message(client: ScriptedClient) -> None:
    await client.channel.write(frame(b'{"type":"open_sesame"}'))


async def serve_before_auth(client: ScriptedClient) -> None:
    await client.channel.write(frame(encode(Serve(client.name, visitors=True, challenge=False))))


async def end_the_control_stream(client: ScriptedClient) -> None:
    await client.control.finish()


async def say_nothing(client: ScriptedClient) -> None:
    pass


async def say_half(client: ScriptedClient) -> None:
    whole = client.registration.auth(client.body(), client.identity.sign)
    await client.control.send(whole[: len(whole) // 2])


async def send_claim(client: ScriptedClient, **changes: object) -> None:
    body = client.body(**changes)
    await client.channel.write(client.registration.auth(body, client.identity.sign))


WRONGS: dict[Attempt, Code] = {
    prove_with_another_key: Code.UNAUTHORIZED,
    prove_with_garbage: Code.UNAUTHORIZED,
    claim_another_keys_id: Code.UNAUTHORIZED,
    claim_another_suffix: Code.NAME_REFUSED,
    claim_the_suffix_itself: Code.NAME_REFUSED,
    claim_a_version_not_offered: Code.VERSION,
    send_a_frame_too_long: Code.PROTOCOL,
    announce_4_gib: Code.PROTOCOL,
    send_no_json: Code.PROTOCOL,
    send_an_unknown_message: Code.PROTOCOL,
    serve_before_auth: Code.PROTOCOL,
    end_the_control_stream: Code.PROTOCOL,
    say_nothing: Code.TIMEOUT,
    say_half: Code.TIMEOUT,
}


@pytest.mark.parametrize("attempt", WRONGS, ids=lambda attempt: attempt.__name__)
def test_is_refused(attempt: Attempt, transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        timeouts = RelayTimeouts(register=0.5 if WRONGS[attempt] is Code.TIMEOUT else 5.0)
        async with on_stage(relay_settings(tmp_path, timeouts=timeouts)) as stage:
            client = await stage.dial(transport)
            await client.greet()
            await attempt(client)
            await expect_refusal(client, WRONGS[attempt])

    run(body())


def test_an_honest_client_is_welcomed(transport: str, run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.dial(transport)
            welcome = await client.register(names=(client.name, "else.example"))
            assert isinstance(welcome, Welcome)
            assert welcome.granted == {client.name: 8443}
            assert welcome.refused["else.example"].code is Code.NAME_REFUSED

    run_on_each(body())


def test_a_control_stream_that_is_cut_breaks_the_protocol(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            stranger, member = await stage.dial(transport), await stage.serve(transport)
            await stranger.greet()
            for client in (stranger, member):
                client.control.abort()
                assert await client.lost() is Code.PROTOCOL

    run(body())


class BrokenAdmission:
    """An embedding program's admission with a bug."""

    async def decide(self, claim: Claim, peer: Address) -> Decision:
        raise ZeroDivisionError(f"{claim} from {peer}")


def test_a_fault_of_the_relays_own_is_called_one(
    transport: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path), BrokenAdmission()) as stage:
            client = await stage.dial(transport)
            await client.greet()
            await send_claim(client)
            assert await client.lost() is Code.INTERNAL

    run(body())
    assert [each.levelname for each in caplog.records if each.exc_info] == ["ERROR"]


# Proofs that were made for something else


def test_a_proof_cannot_be_replayed(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            victim, thief = await stage.dial(transport), await stage.dial(transport)
            await victim.greet()
            proof = victim.registration.auth(victim.body(), victim.identity.sign)
            await victim.channel.write(proof)
            assert isinstance(await victim.answer(), Welcome)
            await thief.greet()
            await thief.channel.write(proof)
            await expect_refusal(thief, Code.UNAUTHORIZED)

    run(body())


def test_a_proof_for_another_transport_is_none(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.dial(transport)
            leaf_hash = client.connection.binding.leaf_hash
            client.registration = ClientRegistration(OTHER_TRANSPORT[transport], leaf_hash)
            await client.greet()
            await send_claim(client)
            await expect_refusal(client, Code.UNAUTHORIZED)

    run(body())


@asynccontextmanager
async def hostile_relay(
    transport: str,
) -> AsyncIterator[tuple[Address, bytes, Callable[[], Awaitable[Connection]]]]:
    """Listen with another certificate; yield address, pin and what accepts a connection."""
    certificate = self_signed(["relay.test"], now=datetime.now(UTC))
    slot, options = CertificateSlot(certificate), TransportOptions()
    if transport == "quic":
        datagrams = await listen_datagrams(Address(LOOPBACK, 0), slot, options)
        yield datagrams.address, certificate.pin, datagrams.accept
        await datagrams.close()
    else:
        listener = TcpListener(Address(LOOPBACK, 0))

        async def accept() -> Connection:
            return await accept_socket(await listener.accept(), slot, options)

        yield listener.address, certificate.pin, accept
        listener.close()


async def pass_on_hello(control: Stream, connection: Connection) -> Auth:
    """Ask a client for a proof with somebody else's hello, and return the proof."""
    stream = await connection.open_stream()
    await stream.send(frame(await next_payload(control, FrameReader())))
    proof = decode(await next_payload(stream, FrameReader()))
    assert isinstance(proof, Auth)
    connection.close()
    return proof


def test_a_proof_given_to_another_relay_is_none_here(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with (
            on_stage(relay_settings(tmp_path)) as stage,
            hostile_relay(transport) as (address, pin, accept),
            asyncio.TaskGroup() as group,
        ):
            dialling = group.create_task(dial(transport, address, pin, generate()))
            connection = await accept()
            victim, thief = await dialling, await stage.dial(transport)
            claiming = group.create_task(prove(victim))
            control = await thief.connection.accept_stream()
            proof = await pass_on_hello(control, connection)
            await claiming
            await control.send(frame(encode(proof)))
            answer = decode(await next_payload(control, FrameReader()))
            assert isinstance(answer, Reject)
            assert answer.reason.code is Code.UNAUTHORIZED
            assert await thief.lost() is Code.UNAUTHORIZED

    async def prove(victim: ScriptedClient) -> None:
        await victim.greet()
        await send_claim(victim)
        await victim.lost()

    run(body())


# What the relay knows of keys


def test_a_key_that_is_not_listed_is_refused(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, suffixes=LISTED)) as stage:
            client = await stage.dial(transport)
            await client.greet()
            await send_claim(client)
            refusal = await expect_refusal(client, Code.UNAUTHORIZED)
            assert "[clients.*]" in refusal.message

    run(body())


def test_a_revoked_key_is_refused(transport: str, run: Run, tmp_path: Path) -> None:
    identity = generate()

    async def body() -> None:
        settings = relay_settings(tmp_path, clients=granted(identity, enabled=False))
        async with on_stage(settings) as stage:
            client = await stage.dial(transport, identity)
            await client.greet()
            await send_claim(client)
            await expect_refusal(client, Code.REVOKED)

    run(body())


def test_a_second_key_with_the_same_id_is_refused(transport: str, run: Run, tmp_path: Path) -> None:
    identity = generate()
    short_id = client_id(fingerprint(identity.public_key), 64)

    async def body() -> None:
        settings = relay_settings(tmp_path)
        settings.state_dir.mkdir()
        (settings.state_dir / "known-keys").write_text(f"{short_id} {'ab' * 32} 20000\n")
        for _ in range(2):  # the second time after a restart of the relay
            async with on_stage(settings) as stage:
                client = await stage.dial(transport, identity, id_bits=64)
                await client.greet()
                await send_claim(client)
                await expect_refusal(client, Code.NAME_TAKEN)

    run(body())


def test_the_first_key_keeps_its_id_through_a_restart(
    transport: str, run: Run, tmp_path: Path
) -> None:
    identity = generate()

    async def body() -> None:
        settings = relay_settings(tmp_path)
        for _ in range(2):
            async with on_stage(settings) as stage:
                await stage.register(transport, identity, id_bits=64)
        known = (settings.state_dir / "known-keys").read_text().split()
        assert known[1] == fingerprint(identity.public_key).hex()

    run(body())
