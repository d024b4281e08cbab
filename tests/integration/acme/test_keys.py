"""Keys of `[acme]` and of suffixes: two values of each, and what a real authority is asked then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from dns.asyncresolver import Resolver

from tests.acme_front import Front, fronted
from tests.integration.acme.keeping import Keeper, Showing, orders_at
from tests.integration.acme.steps import Answerer, authority, settings_for
from tests.integration.acme.test_budget import ask
from tests.integration.conftest import Run
from tests.integration.stage import SUFFIX, on_stage, relay_settings
from tests.pebble import Pebble
from tunnel.settings.values import SuffixSettings

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"


def keeper(
    front: Front, folder: Path, answerer: Answerer, resolver: Resolver | None = None, **changes: Any
) -> Keeper:
    """Return a process whose settings for the authority are changed as asked."""
    settings = replace(settings_for(front), **changes)
    return Keeper(settings, folder, Showing(answerer), resolver=resolver)


def test_directory_is_who_is_asked(
    ca: Pebble, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    with fronted(ca, tmp_path / "1") as one, fronted(ca, tmp_path / "2") as other:

        async def body() -> None:
            seen = []
            for front in (one, other):
                await keeper(front, tmp_path / "state", answerer).until(NAME, issued=1)
                seen.append((orders_at(one), orders_at(other)))
            assert seen == [(1, 0), (1, 1)]

        run(body())
    assert len(list((tmp_path / "state" / "acme").iterdir())) == 2


def test_email_is_where_the_authority_writes_to(ca: Pebble, tmp_path: Path) -> None:
    contacts = []
    for email in ("a@example.org", None):
        asked = authority(ca, tmp_path / f"{email}.json", email=email)
        account = asked._ready().send(asked.account_url or "").document()
        contacts.append(account.texts("contact"))
    assert contacts == [("mailto:a@example.org",), ()]


def test_ca_is_who_vouches_for_the_directory(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)

    async def body() -> None:
        wrong = keeper(front, tmp_path, answerer, ca=stranger)
        await wrong.until(NAME, failed=1)
        assert "is not trusted" in wrong.failures[0].cause
        assert wrong.failures[0].cause.endswith("set acme.ca")
        await keeper(front, tmp_path / "other", answerer).until(NAME, issued=1)

    run(body())


def test_account_file_is_where_the_account_is_kept(
    front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        file = tmp_path / "elsewhere" / "account.json"
        elsewhere = keeper(front, tmp_path / "1", answerer, account_file=file)
        beside = keeper(front, tmp_path / "2", answerer)
        for each in (elsewhere, beside):
            await each.until(NAME, issued=1)
        assert file.exists()
        assert not elsewhere.store.account_file.exists()
        assert beside.store.account_file.exists()

    run(body())


def test_preflight_says_whether_names_are_looked_up(
    ca: Pebble, front: Front, answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    host, _, port = ca.dns_address.rpartition(":")
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], int(port)

    async def body() -> None:
        ca.dns.set_default("")  # no name has an address
        placed = {}
        try:
            for word in ("on", "off", "auto"):
                front.requests.clear()
                kept = keeper(front, tmp_path / word, answerer, resolver, preflight=word)
                await kept.until(NAME, failed=1)
                placed[word] = orders_at(front)
        finally:
            ca.dns.set_default("127.0.0.1")
        assert placed == {"on": 0, "off": 1, "auto": 1}  # the directory has no word of its own

    run(body())


def test_certificates_per_week_are_what_clients_may_order(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        granted = {}
        for number in (1, 3):
            suffix = SuffixSettings(SUFFIX, access="open", certificates_per_week=number)
            settings = relay_settings(tmp_path / str(number), suffixes={SUFFIX: suffix})
            async with on_stage(settings) as stage:
                answers = [await ask(await stage.register()) for _ in range(4)]
            granted[number] = [answer.challenge for answer in answers].count(True)
        assert granted == {1: 1, 3: 3}

    run(body())
