"""Names are looked up at a real name server on the loopback, which says what a test tells it."""

import asyncio
import socketserver
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop
from dns.asyncresolver import Resolver
from dns.rdatatype import CNAME
from dns.rdatatype import to_text as type_text

from tunnel.acme.directories import NAMED, directory_of
from tunnel.acme.preflight import (
    ALIASES_MAX,
    NoNameServer,
    Verdict,
    check,
    system_resolver,
    wants_preflight,
)

SHOP = "shop.example.com"
MISSING = "does not resolve: add an A or AAAA record that points at the relay"
PUBLIC = "93.184.215.14"
ACCOUNT = "https://ca.test/acct/7"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class NameServer(socketserver.UDPServer):
    """Answers over UDP from `records`, like a resolver: aliases are followed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Question)
        self.records: dict[tuple[str, str], list[str]] = {}
        self.codes: dict[tuple[str, str], dns.rcode.Rcode] = {}
        self.silent: set[str] = set()
        self.follows = True
        self.asked: list[tuple[str, str]] = []

    def add(self, name: str, kind: str, *records: str) -> None:
        self.records[name, kind] = list(records)

    def resolver(self) -> Resolver:
        resolver = Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.server_address[1]
        return resolver

    def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), type_text(question.rdtype)
        self.asked.append((name, kind))
        response = dns.message.make_response(query, recursion_available=True)
        while (name, "CNAME") in self.records:
            target = self.records[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", CNAME, *target))
            name = target[0].rstrip(".")
            if not self.follows:
                return response
        found = self.records.get((name, kind), [])
        if found:
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *found))
        elif not any(known == name or known.endswith(f".{name}") for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.set_rcode(self.codes.get((name, kind), response.rcode()))
        return None if name in self.silent else response


class Question(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, NameServer)
        response = self.server.answer(dns.message.from_wire(self.rfile.read()))
        if response is not None:
            self.wfile.write(response.to_wire())

    def finish(self) -> None:
        if self.wfile.tell():  # the original sends an empty datagram if nothing was written
            super().finish()


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer() as running:
        thread = Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        running.add(SHOP, "A", PUBLIC)
        yield running
        running.shutdown()
        thread.join()


def verdict(
    server: NameServer,
    *names: str,
    identities: Sequence[str] = ("ca.test",),
    account: str | None = ACCOUNT,
    timeout: float = 10.0,
    expected: Sequence[str] = (),
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Verdict:
    with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
        return runner.run(
            check(
                names or (SHOP,),
                identities,
                account=account,
                resolver=server.resolver(),
                timeout=timeout,
                expected=frozenset(expected),
            )
        )


@pytest.mark.parametrize("loop", LOOPS)
def test_a_name_with_an_address_and_no_caa_is_fine_on_every_loop(
    server: NameServer, loop: str
) -> None:
    assert verdict(server, loop_factory=LOOPS[loop]) == Verdict()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_name_server_that_does_not_answer_is_waited_for_in_vain_on_every_loop(
    server: NameServer, loop: str
) -> None:
    server.silent.add(SHOP)
    found = verdict(server, timeout=0.2, loop_factory=LOOPS[loop])
    assert found.faults == ()
    assert found.warnings == (
        f"{SHOP}: whether it resolves could not be told: no answer in time",
        f"{SHOP}: CAA at {SHOP} could not be looked up (no answer in time); "
        "an authority that cannot either refuses",
    )


def test_an_ipv6_address_is_enough(server: NameServer) -> None:
    del server.records[SHOP, "A"]
    server.add(SHOP, "AAAA", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    assert verdict(server) == Verdict()


def test_a_name_that_does_not_exist_is_a_fault(server: NameServer) -> None:
    assert verdict(server, "gone.example.com") == Verdict((f"gone.example.com {MISSING}",))


def test_a_name_without_an_address_is_a_fault(server: NameServer) -> None:
    assert verdict(server, "example.com") == Verdict((f"example.com {MISSING}",))


def test_every_name_is_looked_at_once_and_reported_in_order(server: NameServer) -> None:
    names = ("z.example.com", SHOP, "a.example.com", "A.Example.COM.")
    assert verdict(server, *names).faults == (
        f"z.example.com {MISSING}",
        f"a.example.com {MISSING}",
    )
    assert server.asked.count(("a.example.com", "A")) == 1


@pytest.mark.parametrize("follows", [True, False])
def test_aliases_are_followed_whoever_has_to_do_it(server: NameServer, follows: bool) -> None:
    server.follows = follows
    server.add("www.example.org", "CNAME", "a.example.org.")
    server.add("a.example.org", "CNAME", f"{SHOP}.")
    assert verdict(server, "www.example.org") == Verdict()


@pytest.mark.parametrize("follows", [True, False])
def test_an_alias_that_leads_nowhere_is_a_fault_that_names_its_target(
    server: NameServer, follows: bool
) -> None:
    server.follows = follows
    server.add("www.example.org", "CNAME", "gone.example.com.")
    said = f"www.example.org is an alias of gone.example.com, which {MISSING}"
    assert verdict(server, "www.example.org") == Verdict((said,))


def test_aliases_without_end_are_not_followed_for_ever(server: NameServer) -> None:
    server.follows = False
    server.add("a.test", "CNAME", "b.test.")
    server.add("b.test", "CNAME", "a.test.")
    found = verdict(server, "a.test")
    assert found.faults == ()
    assert f"could not be told: {ALIASES_MAX} aliases in a row" in found.warnings[0]
    assert len(server.asked) == 3 * ALIASES_MAX


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_name_server_that_fails_tells_nothing(server: NameServer, code: dns.rcode.Rcode) -> None:
    server.codes = {(SHOP, kind): code for kind in ("A", "AAAA", "CAA")}
    found = verdict(server)
    assert found.faults == ()
    assert found.warnings == (
        f"{SHOP}: whether it resolves could not be told: {dns.rcode.to_text(code)}",
        f"{SHOP}: CAA at {SHOP} could not be looked up ({dns.rcode.to_text(code)}); "
        "an authority that cannot either refuses",
    )


def test_no_address_of_one_kind_proves_nothing_while_the_other_kind_is_not_told(
    server: NameServer,
) -> None:
    del server.records[SHOP, "A"]
    server.codes[SHOP, "AAAA"] = dns.rcode.SERVFAIL
    server.add(SHOP, "TXT", "x")
    assert verdict(server).faults == ()


def test_an_address_of_one_kind_is_enough_while_the_other_kind_is_not_told(
    server: NameServer,
) -> None:
    server.codes[SHOP, "AAAA"] = dns.rcode.SERVFAIL
    assert verdict(server) == Verdict()


def test_a_private_address_is_a_warning(server: NameServer) -> None:
    server.add(SHOP, "A", "10.0.0.1", PUBLIC, "127.0.0.1")
    said = f"{SHOP} resolves to 10.0.0.1, 127.0.0.1, which the internet does not reach"
    assert verdict(server) == Verdict(warnings=(said,))


def test_an_address_that_is_not_the_relays_is_a_warning(server: NameServer) -> None:
    said = f"{SHOP} resolves to {PUBLIC}, which is none of 192.0.2.1, 2001:db8::1"
    others = ["2001:db8::1", "192.0.2.1"]
    assert verdict(server, expected=others) == Verdict(warnings=(said,))


def test_one_address_of_the_relay_is_enough_however_it_is_written(server: NameServer) -> None:
    server.add(SHOP, "AAAA", "2606:4700::1111")
    expected = ["192.0.2.1", "2606:4700:0:0:0:0:0:1111"]
    assert verdict(server, expected=expected) == Verdict()


def test_only_some_of_many_addresses_are_shown(server: NameServer) -> None:
    server.add(SHOP, "A", *(f"10.0.0.{number}" for number in range(1, 21)))
    said = verdict(server).warnings[0]
    assert said.count("10.0.0.") == 4
    assert "…" in said


def test_caa_of_the_name_forbids(server: NameServer) -> None:
    server.add(SHOP, "CAA", '0 issue "other.test"')
    said = f'{SHOP}: CAA at {SHOP} permits only other.test: add 0 issue "ca.test"'
    assert verdict(server) == Verdict((said,))


def test_caa_of_the_closest_parent_counts(server: NameServer) -> None:
    server.add("com", "CAA", '0 issue ";"')
    server.add("example.com", "CAA", '0 issue "CA.test"')
    assert verdict(server) == Verdict()
    server.add("example.com", "CAA", '0 issue ";"')
    said = f'{SHOP}: CAA at example.com permits no authority: add 0 issue "ca.test"'
    assert verdict(server) == Verdict((said,))


def test_caa_is_looked_for_up_to_the_top_level_but_not_at_the_root(server: NameServer) -> None:
    verdict(server, "a.b.example.com")
    climbed = [name for name, kind in server.asked if kind == "CAA"]
    assert climbed == ["a.b.example.com", "b.example.com", "example.com", "com"]


@pytest.mark.parametrize("follows", [True, False])
def test_caa_at_the_target_of_an_alias_counts_before_that_of_the_parents(
    server: NameServer, follows: bool
) -> None:
    server.follows = follows
    server.add("www.example.org", "CNAME", f"{SHOP}.")
    server.add("example.org", "CAA", '0 issue "ca.test"')
    server.add(SHOP, "CAA", '0 issue ";"')
    said = f'www.example.org: CAA at {SHOP} permits no authority: add 0 issue "ca.test"'
    assert verdict(server, "www.example.org") == Verdict((said,))


def test_caa_of_the_parents_of_an_aliass_target_does_not_count(server: NameServer) -> None:
    server.add("www.example.org", "CNAME", f"{SHOP}.")
    server.add("example.com", "CAA", '0 issue ";"')
    assert verdict(server, "www.example.org") == Verdict()


def test_caa_that_is_not_told_is_not_passed_over(server: NameServer) -> None:
    server.codes[SHOP, "CAA"] = dns.rcode.SERVFAIL
    server.add("example.com", "CAA", '0 issue ";"')
    found = verdict(server)
    assert found.faults == ()
    assert f"CAA at {SHOP} could not be looked up (SERVFAIL)" in found.warnings[0]


def test_caa_for_wildcards_and_reports_says_nothing_of_a_plain_name(server: NameServer) -> None:
    server.add(SHOP, "CAA", '0 issuewild ";"', '128 iodef "mailto:a@b.test"')
    assert verdict(server) == Verdict()


def test_a_critical_property_that_nobody_knows_is_a_fault(server: NameServer) -> None:
    server.add(SHOP, "CAA", '0 issue "ca.test"', '128 TBS "x"')
    said = f"{SHOP}: CAA at {SHOP} has a critical property that no authority knows, 'tbs'"
    assert verdict(server) == Verdict((f"{said}: remove it",))


def test_another_method_or_account_is_a_fault(server: NameServer) -> None:
    server.add(SHOP, "CAA", '0 issue "ca.test; validationmethods=dns-01"')
    assert "only by 'dns-01'" in verdict(server).faults[0]
    server.add(SHOP, "CAA", '0 issue "ca.test; accounturi=https://ca.test/acct/8"')
    assert "only to the account 'https://ca.test/acct/8'" in verdict(server).faults[0]
    bound = f'0 issue "ca.test; validationmethods=tls-alpn-01; accounturi={ACCOUNT}"'
    server.add(SHOP, "CAA", bound)
    assert verdict(server) == Verdict()


def test_an_account_is_a_warning_while_ours_is_not_known(server: NameServer) -> None:
    server.add(SHOP, "CAA", f'0 issue "ca.test; accounturi={ACCOUNT}"')
    said = f"{SHOP}: CAA at {SHOP} permits certain accounts only, and ours is not known"
    assert verdict(server, account=None) == Verdict(warnings=(said,))
    server.add(SHOP, "CAA", f'0 issue "ca.test; accounturi={ACCOUNT}"', '0 issue "ca.test"')
    assert verdict(server, account=None) == Verdict()


def test_an_authority_whose_name_is_not_known_cannot_be_judged(server: NameServer) -> None:
    assert verdict(server, identities=()) == Verdict()
    server.add(SHOP, "CAA", '0 issue "other.test"')
    found = verdict(server, identities=())
    assert found.faults == ()
    assert f"{SHOP}: CAA at {SHOP} restricts who may issue" in found.warnings[0]


def test_bytes_that_are_no_text_are_read_as_malformed(server: NameServer) -> None:
    server.add(SHOP, "CAA", r'0 issue "ca\255.test"')
    assert "permits no authority" in verdict(server).faults[0]


def test_many_names_end_together_at_the_deadline(server: NameServer) -> None:
    names = [f"n{number}.example.com" for number in range(40)]
    server.silent.update(names)
    found = verdict(server, *names, timeout=0.3)
    assert found.faults == ()
    assert len(found.warnings) == 2 * len(names)


def test_what_is_in_order_is_told_although_something_else_is_late(server: NameServer) -> None:
    server.silent.add("late.example.com")
    found = verdict(server, "late.example.com", "gone.example.com", timeout=0.5)
    assert found.faults == (f"gone.example.com {MISSING}",)
    assert all("late.example.com" in warning for warning in found.warnings)


def test_the_systems_name_servers_come_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search example.org\nnameserver 192.0.2.53\n")
    assert system_resolver(str(file)).nameservers == ["192.0.2.53"]


@pytest.mark.parametrize("text", [None, b"", b"nameserver nonsense\n", b"\xff\xfe nameserver\n"])
def test_a_system_without_usable_name_servers_is_told_so(
    tmp_path: Path, text: bytes | None
) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(NoNameServer, match=r"resolv\.conf"):
        system_resolver(str(file))


@pytest.mark.parametrize("word", NAMED)
def test_by_itself_preflight_is_for_the_named_directories(word: str) -> None:
    assert wants_preflight("auto", directory_of(word))
    assert not wants_preflight("off", directory_of(word))


def test_for_another_directory_preflight_has_to_be_asked_for() -> None:
    pebble = directory_of("https://localhost:14000/dir")
    assert not wants_preflight("auto", pebble)
    assert wants_preflight("on", pebble)
