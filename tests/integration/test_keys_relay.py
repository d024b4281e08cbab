"""Keys of relay.toml: two values of each, and two relays that behave differently."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.choices import LONGER, SHORTER, answered, are_kept, on_each, seconds, visit
from tests.integration.clients import dial
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import (
    LISTED,
    LOOPBACK,
    SUFFIX,
    Stage,
    granted,
    listener,
    relay_settings,
)
from tests.integration.visitors import visiting
from tests.ports import free_port
from tests.unit.settings.documents import relay as loaded
from tunnel.errors import Code, DialFailed
from tunnel.protocol.messages import Reject, Welcome
from tunnel.protocol.proxy import encode_proxy_v1
from tunnel.settings.values import RelayCertificate, RelaySettings, SuffixSettings
from tunnel.stream import Address
from tunnel.tls.identity import Identity, generate

# [relay]


def test_name_is_told_to_clients_and_to_the_log(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def greeted(stage: Stage) -> str:
        return (await (await stage.dial()).greet()).relay

    async def body() -> None:
        names = {name: relay_settings(tmp_path, name=name) for name in ("eu1", "us1")}
        assert await on_each(names, greeted) == {"eu1": "eu1", "us1": "us1"}

    with caplog.at_level(logging.INFO):
        run(body())
    told = [getattr(each, "fields", {}).get("relay") for each in caplog.records]
    assert [name for name in told if name] == ["eu1", "us1"]


def test_state_dir_is_where_the_certificate_is_kept(tmp_path: Path, run: Run) -> None:
    async def pin(stage: Stage) -> bytes:
        return stage.pin

    async def body() -> None:
        folders = {name: relay_settings(tmp_path, state_dir=tmp_path / name) for name in "ab"}
        pins, again = await on_each(folders, pin), await on_each(folders, pin)
        assert pins["a"] != pins["b"]
        assert again == pins

    run(body())


def test_drain_timeout_is_how_long_visitors_may_stay(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> float:
        client = await stage.serve()
        async with visiting(stage.public, hello(client.name)) as visitor:
            await answered(visitor, client)
            stage.stop.set()
            return await seconds(visitor.ended())

    async def body() -> None:
        settings = {
            each: relay_settings(tmp_path, drain_timeout=each) for each in (SHORTER, LONGER)
        }
        assert are_kept(await on_each(settings, look))

    run(body())


# [certificate]


def test_mode_and_its_files_are_the_certificate_that_clients_see(tmp_path: Path, run: Run) -> None:
    def from_files(name: str) -> RelaySettings:
        issued = trustme.CA().issue_cert("relay.test")
        chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        return relay_settings(tmp_path, certificate=RelayCertificate("files", chain, key))

    async def leaf(stage: Stage) -> bytes:
        return (await stage.dial()).connection.binding.leaf_hash

    async def body() -> None:
        settings = {"own": relay_settings(tmp_path), "a": from_files("a"), "b": from_files("b")}
        assert len(set((await on_each(settings, leaf)).values())) == 3

    run(body())


# [listeners.*]


async def is_open(address: Address) -> bool:
    try:
        async with visiting(address):
            return True
    except ConnectionRefusedError:
        return False


def test_enabled_listeners_are_bound_and_masked_ones_are_not(tmp_path: Path, run: Run) -> None:
    extra = Address(LOOPBACK, free_port())
    document = (
        f'[relay]\nstate_dir = "state"\n[suffixes."{SUFFIX}"]\n'
        f'[listeners.public]\nkind = "public"\nlisten = ["{LOOPBACK}:{free_port()}"]\n'
        f'[listeners.agents]\nkind = "agents"\nlisten = ["{LOOPBACK}:{free_port()}"]\n'
        f'[listeners.extra]\nkind = "public"\nlisten = ["{extra}"]\n'
    )

    async def look(_: Stage) -> bool:
        return await is_open(extra)

    async def body() -> None:
        words = ("true", "false")
        settings = {word: loaded(tmp_path, f"enabled = {word}", document) for word in words}
        assert await on_each(settings, look) == {"true": True, "false": False}

    run(body())


async def meets_clients(where: Address, pin: bytes, transport: str) -> bool:
    """Say whether a client finds a relay there."""
    try:
        client = await dial(transport, where, pin, generate())
        await client.greet()
    except DialFailed:
        return False
    client.connection.close()
    return True


def test_kind_says_who_is_met(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> tuple[bool, bool]:
        where = stage.address("asked")
        call = await visit(where, await stage.serve())
        return call is not None, await meets_clients(where, stage.pin, "h2")

    async def body() -> None:
        always = [listener("agents"), listener("public")]
        settings = {
            kind: relay_settings(
                tmp_path, listeners=[*always, replace(listener(kind), name="asked")]
            )
            for kind in ("agents", "public", "shared")
        }
        assert await on_each(settings, look) == {
            "agents": (False, True),
            "public": (True, False),
            "shared": (True, True),
        }

    run(body())


def test_listen_is_where(tmp_path: Path, run: Run) -> None:
    here, there = (Address(LOOPBACK, free_port()) for _ in range(2))

    def at(*addresses: Address) -> RelaySettings:
        public = replace(listener("public"), listen=addresses)
        return relay_settings(tmp_path, listeners=[listener("agents"), public])

    async def look(_: Stage) -> tuple[bool, bool]:
        return await is_open(here), await is_open(there)

    async def body() -> None:
        settings = {1: at(here), 2: at(here, there)}
        assert await on_each(settings, look) == {1: (True, False), 2: (True, True)}

    run(body())


def test_transports_are_the_ways_in(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> list[bool]:
        words = ("quic", "h2")
        return [await meets_clients(stage.agents, stage.pin, word) for word in words]

    async def body() -> None:
        choices = [("quic", "h2"), ("quic",), ("h2",)]
        settings = {
            words: relay_settings(
                tmp_path, listeners=[listener("agents", transports=words), listener("public")]
            )
            for words in choices
        }
        assert list((await on_each(settings, look)).values()) == [
            [True, True],
            [True, False],
            [False, True],
        ]

    run(body())


def test_proxy_protocol_from_is_who_has_to_say_for_whom_it_comes(tmp_path: Path, run: Run) -> None:
    header = encode_proxy_v1(("203.0.113.7", 1234), ("192.0.2.1", 443))

    async def look(stage: Stage) -> list[str | None]:
        """Return whom the client hears of: by a visitor without a header, by one with it."""
        client = await stage.serve()
        calls = [await visit(stage.public, client, before) for before in (b"", header)]
        return [call.header.peer[0] if call else None for call in calls]

    def trusting(*networks: str) -> RelaySettings:
        balancers = tuple(ip_network(network) for network in networks)
        public = listener("public", proxy_protocol_from=balancers)
        return relay_settings(tmp_path, listeners=[listener("agents"), public])

    async def body() -> None:
        settings = {
            "all": trusting("127.0.0.0/8"),
            "none": trusting(),
            "other": trusting("10.0.0.0/8"),
        }
        assert await on_each(settings, look) == {
            "all": [None, "203.0.113.7"],
            "none": [LOOPBACK, None],
            "other": [LOOPBACK, None],
        }

    run(body())


# [suffixes.*]


ACCESS = ("listed", "open")


def suffix(**changes: Any) -> dict[str, SuffixSettings]:
    return {SUFFIX: SuffixSettings(SUFFIX, **changes)}


def answers_to(
    settings: Mapping[Any, RelaySettings], run: Run, identity: Identity, **changes: Any
) -> list[Welcome | Reject]:
    """Return what each relay answers to the same client."""
    answers: list[Welcome | Reject] = []

    async def look(stage: Stage) -> None:
        client = await stage.dial("h2", identity, **changes)
        answers.append(await client.register())

    async def body() -> None:
        await on_each(settings, look)

    run(body())
    return answers


def outcome(answer: Welcome | Reject) -> Code | list[int]:
    """Return the ports that were granted, or why none was."""
    if isinstance(answer, Welcome):
        return list(answer.granted.values())
    return answer.reason.code


def test_enabled_suffixes_are_served_and_masked_ones_are_not(tmp_path: Path, run: Run) -> None:
    document = (
        f'[relay]\nstate_dir = "state"\n[suffixes."a.test"]\n'
        f'[listeners.public]\nkind = "public"\nlisten = ["{LOOPBACK}:{free_port()}"]\n'
        f'[listeners.agents]\nkind = "agents"\nlisten = ["{LOOPBACK}:{free_port()}"]\n'
        f'[suffixes."{SUFFIX}"]\naccess = "open"\n'
    )
    words = ("true", "false")
    settings = {word: loaded(tmp_path, f"enabled = {word}", document) for word in words}
    answers = answers_to(settings, run, generate())
    assert list(map(outcome, answers)) == [[443], Code.NAME_REFUSED]


def test_access_is_for_listed_keys_or_for_all(tmp_path: Path, run: Run) -> None:
    settings = {word: relay_settings(tmp_path, suffixes=suffix(access=word)) for word in ACCESS}
    answers = answers_to(settings, run, generate())
    assert list(map(outcome, answers)) == [Code.UNAUTHORIZED, [443]]


def test_id_bits_are_the_lengths_that_are_taken(tmp_path: Path, run: Run) -> None:
    settings = {
        bits: relay_settings(tmp_path, suffixes=suffix(access="open", id_bits=bits))
        for bits in ((64, 128), (128,), (64,))
    }
    answers = answers_to(settings, run, generate(), id_bits=64)
    assert list(map(outcome, answers)) == [[443], Code.NAME_REFUSED, [443]]


def test_public_port_is_told_to_the_client(tmp_path: Path, run: Run) -> None:
    settings = {
        port: relay_settings(tmp_path, suffixes=suffix(access="open", public_port=port))
        for port in (443, 8443)
    }
    assert list(map(outcome, answers_to(settings, run, generate()))) == [[443], [8443]]


# [clients.*]


def test_a_client_is_its_fingerprint(tmp_path: Path, run: Run) -> None:
    identity, other = generate(), generate()
    settings = {
        each: relay_settings(tmp_path, suffixes=LISTED, clients=granted(each))
        for each in (identity, other)
    }
    answers = answers_to(settings, run, identity)
    assert list(map(outcome, answers)) == [[8443], Code.UNAUTHORIZED]


def test_enabled_clients_are_admitted_and_others_are_revoked(tmp_path: Path, run: Run) -> None:
    identity = generate()
    settings = {
        each: relay_settings(tmp_path, clients=granted(identity, enabled=each))
        for each in (True, False)
    }
    assert list(map(outcome, answers_to(settings, run, identity))) == [[8443], Code.REVOKED]


def test_suffixes_are_those_under_which_its_id_is_granted(tmp_path: Path, run: Run) -> None:
    identity = generate()
    table = {**LISTED, "other.test": SuffixSettings("other.test")}
    clients = granted(identity)["shop"]
    settings = {
        names: relay_settings(
            tmp_path, suffixes=table, clients={"shop": replace(clients, suffixes=names)}
        )
        for names in ((SUFFIX,), ("other.test",), ("other.test", SUFFIX))
    }
    answers = answers_to(settings, run, identity)
    assert list(map(outcome, answers)) == [[8443], Code.NAME_REFUSED, [8443]]


def test_names_are_granted_besides_its_id(tmp_path: Path, run: Run) -> None:
    identity = generate()
    settings = {
        names: relay_settings(tmp_path, suffixes=LISTED, clients=granted(identity, names=names))
        for names in ((), ("shop.example.com",), ("*.example.com",))
    }

    async def look(stage: Stage) -> bool:
        client = await stage.dial("h2", identity)
        answer = await client.register(names=(client.name, "shop.example.com"))
        assert isinstance(answer, Welcome)
        return "shop.example.com" in answer.granted

    async def body() -> None:
        assert list((await on_each(settings, look)).values()) == [False, True, True]

    run(body())
