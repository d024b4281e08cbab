"""What a client's doctor makes of what it has seen: values in, findings out."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.settings.documents import CLIENT, write
from tunnel.client.doctor.challenge import NameSight, judge_challenge
from tunnel.client.doctor.examination import load_identities
from tunnel.client.doctor.knocking import trouble_of
from tunnel.client.doctor.reach import judge_reach
from tunnel.client.doctor.registering import (
    Running,
    Trial,
    judge_running,
    judge_trial,
    judge_untried,
    running_state,
)
from tunnel.client.doctor.sights import (
    Knock,
    Meeting,
    ProxySight,
    Route,
    Sight,
    Silence,
    Trouble,
)
from tunnel.client.doctor.targets import judge_target
from tunnel.client.doctor.trust import APART, CLOSE, judge_trust, trusted_knock
from tunnel.client.ending import Ending
from tunnel.client.endpoints import Keypair
from tunnel.client.racing import HTTP2, QUIC, Lane
from tunnel.client.sessions import Wish
from tunnel.errors import Code, DialFailed
from tunnel.protocol.fields import Reason
from tunnel.runtime.findings import Finding, Outcome
from tunnel.runtime.lookups import Lookup
from tunnel.settings.load import load_client
from tunnel.settings.values import EndpointSettings, ServerSettings, Target
from tunnel.stream import Address
from tunnel.tls.identity import generate
from tunnel.tls.leaf import Leaf

UDP, TCP = Lane(QUIC), Lane(HTTP2)
NOW = datetime(2026, 5, 4, tzinfo=UTC)
YEAR, DAY = timedelta(days=365), timedelta(days=1)
PIN = b"p" * 32
LEAF = Leaf(PIN, ("relay.test",), NOW - DAY, NOW + 90 * DAY, is_self_signed=False)
MET = Meeting(LEAF, NOW, NOW)
OLD, NEW = Address("192.0.2.1", 4433), Address("2001:db8::1", 4433)
SERVER = ServerSettings("eu", Address("relay.test", 4433), "relay.test")
PINNED = replace(SERVER, pin=PIN)
SILENT = Trouble(Silence.UNANSWERED, "no answer")
CLOSED = Trouble(Silence.REFUSED, "refused")
HEALTHY = Sight(
    (UDP, TCP),
    Lookup("relay.test", ("192.0.2.1",)),
    (Route(OLD),),
    knocks=(Knock(UDP, OLD, MET), Knock(TCP, OLD, MET)),
)


def judged(server: ServerSettings, sight: Sight) -> dict[str, Finding]:
    findings = [*judge_reach(server, sight), *judge_trust(server, sight)]
    return {finding.check: finding for finding in findings}


def outcomes(server: ServerSettings, sight: Sight) -> dict[str, str]:
    return {name: finding.outcome.value for name, finding in judged(server, sight).items()}


def seeing(met: Meeting) -> Sight:
    return replace(HEALTHY, knocks=(Knock(UDP, OLD, met), Knock(TCP, OLD, met)))


def others(table: dict[str, str], *left_out: str) -> set[str]:
    """Return the outcomes of all the other lines."""
    return {outcome for name, outcome in table.items() if name not in left_out}


def test_a_healthy_relay_fails_nowhere() -> None:
    assert outcomes(SERVER, HEALTHY) == {
        "dns": "ok",
        "ipv4": "ok",
        "ipv6": "skipped",
        "udp": "ok",
        "tcp": "ok",
        "certificate": "ok",
        "pin": "skipped",
        "clock": "ok",
    }
    assert outcomes(PINNED, HEALTHY)["pin"] == "ok"


# -- the ways to a relay


@pytest.mark.parametrize(
    ("is_missing", "advice"), [(True, "correct address in [servers.eu]"), (False, "resolv.conf")]
)
def test_without_dns_only_dns_fails(is_missing: bool, advice: str) -> None:
    lookup = Lookup("relay.test", trouble="not found", is_missing=is_missing)
    found = judged(SERVER, Sight((UDP, TCP), lookup))
    assert found.pop("dns").outcome == "failed"
    assert {finding.outcome for finding in found.values()} == {Outcome.SKIPPED}
    assert advice in judged(SERVER, Sight((UDP, TCP), lookup))["dns"].advice


def test_where_udp_is_blocked_only_udp_fails() -> None:
    sight = replace(HEALTHY, knocks=(Knock(UDP, OLD, trouble=SILENT), Knock(TCP, OLD, MET)))
    table = outcomes(PINNED, sight)
    assert table["udp"] == "failed"
    assert others(table, "udp", "ipv6") == {"ok"}
    assert "let UDP port 4433 through every firewall" in judged(PINNED, sight)["udp"].advice
    assert "until then" in judged(PINNED, sight)["udp"].advice


def test_where_udp_alone_is_allowed_no_other_transport_is_promised() -> None:
    sight = replace(HEALTHY, lanes=(UDP,), knocks=(Knock(UDP, OLD, trouble=SILENT),))
    found = judged(replace(SERVER, transport=QUIC), sight)
    assert found["udp"].outcome == "failed"
    assert "until then" not in found["udp"].advice
    assert (found["tcp"].outcome, found["tcp"].seen) == (
        "skipped",
        "not used: transport says so in the settings",
    )


def test_a_closed_port_fails_for_both_protocols_and_says_that_nothing_listens() -> None:
    knocks = (Knock(UDP, OLD, trouble=CLOSED), Knock(TCP, OLD, trouble=CLOSED))
    found = judged(SERVER, replace(HEALTHY, knocks=knocks))
    for name in ("udp", "tcp"):
        assert found[name].outcome == "failed"
        assert f"nothing listens on {name.upper()} port 4433" in found[name].advice
    assert (found["dns"].outcome, found["ipv4"].outcome) == ("ok", "ok")


def test_a_stranger_on_the_port_is_told_from_silence() -> None:
    stranger = Trouble(Silence.OTHER, "the far end speaks 'http/1.1'")
    sight = replace(HEALTHY, knocks=(Knock(UDP, OLD, MET), Knock(TCP, OLD, trouble=stranger)))
    assert "no relay of this protocol" in judged(SERVER, sight)["tcp"].advice


def test_a_machine_without_any_network_is_told_so() -> None:
    sight = replace(HEALTHY, routes=(Route(OLD, "network is unreachable"),), knocks=())
    found = judged(SERVER, sight)
    assert (found["ipv4"].outcome, found["udp"].outcome) == ("failed", "skipped")
    assert "network is unreachable" in found["ipv4"].seen


BOTH = replace(HEALTHY, lookup=Lookup("relay.test", (NEW.host, OLD.host)))


def test_a_family_without_a_way_is_passed_over_where_the_other_has_one() -> None:
    sight = replace(BOTH, routes=(Route(NEW, "network is unreachable"), Route(OLD)))
    assert outcomes(SERVER, sight)["ipv6"] == "skipped"


def test_a_family_that_leads_nowhere_is_a_warning() -> None:
    silent = (Knock(UDP, NEW, trouble=SILENT), Knock(TCP, NEW, trouble=SILENT))
    sight = replace(BOTH, routes=(Route(NEW), Route(OLD)), knocks=(*silent, *HEALTHY.knocks))
    table = outcomes(SERVER, sight)
    assert (table["ipv6"], table["ipv4"]) == ("warning", "ok")
    assert (table["udp"], table["tcp"]) == ("ok", "ok")


PROXIED = replace(SERVER, proxy="http://proxy:3128")


def test_past_a_proxy_udp_may_be_blocked() -> None:
    knocks = (Knock(UDP, OLD, trouble=SILENT), Knock(TCP, SERVER.address, MET))
    table = outcomes(PROXIED, replace(HEALTHY, proxy=ProxySight(), knocks=knocks))
    assert (table["proxy"], table["udp"], table["tcp"]) == ("ok", "warning", "ok")


def test_a_proxy_that_refuses_is_the_fault_and_not_tcp() -> None:
    sight = replace(HEALTHY, proxy=ProxySight("answered '403'"), knocks=(Knock(UDP, OLD, MET),))
    table = outcomes(PROXIED, sight)
    assert (table["proxy"], table["tcp"]) == ("failed", "skipped")


def test_behind_a_proxy_the_name_matters_to_udp_alone() -> None:
    lookup = Lookup("relay.test", trouble="not found", is_missing=True)
    knocks = (Knock(TCP, SERVER.address, MET),)
    sight = Sight((UDP, TCP), lookup, proxy=ProxySight(), knocks=knocks)
    assert outcomes(PROXIED, sight)["dns"] == "warning"
    alone = Sight((TCP,), None, proxy=ProxySight(), knocks=knocks)
    assert outcomes(PROXIED, alone)["dns"] == "skipped"


def chained(*errors: BaseException) -> BaseException:
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("cause", "silence"),
    [
        (ConnectionRefusedError(111, "refused"), Silence.REFUSED),
        (TimeoutError(), Silence.UNANSWERED),
        (TimeoutError(110, "timed out"), Silence.UNANSWERED),
        (OSError(101, "network is unreachable"), Silence.UNREACHABLE),
        (OSError(104, "reset"), Silence.OTHER),
    ],
)
def test_a_failure_is_known_by_its_cause(cause: BaseException, silence: Silence) -> None:
    error = chained(DialFailed("no"), DialFailed("inner"), cause)
    assert trouble_of(error) == Trouble(silence, "no")


# -- certificate, pin, clock


def test_a_wrong_pin_fails_and_nothing_else() -> None:
    server = replace(SERVER, pin=b"q" * 32)
    table = outcomes(server, HEALTHY)
    assert table["pin"] == "failed"
    assert others(table, "pin", "ipv6") == {"ok"}
    assert judged(server, HEALTHY)["pin"].seen == (
        f"the relay has sha256:{PIN.hex()}, not sha256:{server.pin.hex() if server.pin else ''}"
    )
    assert trusted_knock(server, HEALTHY) is None


def test_an_address_with_another_key_is_the_one_that_is_told() -> None:
    strange = replace(MET, leaf=replace(LEAF, pin=b"s" * 32))
    sight = replace(HEALTHY, knocks=(Knock(UDP, OLD, MET), Knock(TCP, OLD, strange)))
    assert outcomes(PINNED, sight)["pin"] == "failed"
    assert trusted_knock(PINNED, sight) == Knock(UDP, OLD, MET)


def test_a_certificate_that_is_not_accepted_fails_and_nothing_else() -> None:
    sight = seeing(replace(MET, distrust="it is for 'other', not for relay.test"))
    table = outcomes(SERVER, sight)
    assert table["certificate"] == "failed"
    assert others(table, "certificate", "ipv6", "pin") == {"ok"}
    assert trusted_knock(SERVER, sight) is None


def clocks(ours: datetime, theirs: datetime, distrust: str = "") -> Sight:
    return seeing(Meeting(LEAF, ours, theirs, distrust))


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_a_clock_off_by_a_year_is_the_fault_and_not_the_certificate(off: timedelta) -> None:
    sight = clocks(NOW + off, NOW, "certificate is not valid")
    table = outcomes(SERVER, sight)
    assert (table["clock"], table["certificate"]) == ("failed", "skipped")
    assert others(table, "clock", "certificate", "ipv6", "pin") == {"ok"}


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_a_clock_off_by_a_year_is_seen_behind_a_pin(off: timedelta) -> None:
    table = outcomes(PINNED, clocks(NOW + off, NOW))
    assert table["clock"] == "failed"
    assert others(table, "clock", "ipv6") == {"ok"}


@pytest.mark.parametrize(
    ("off", "outcome"),
    [(CLOSE, "ok"), (CLOSE + DAY / 86400, "warning"), (APART, "warning"), (2 * APART, "failed")],
)
def test_clocks_may_differ_a_little(off: timedelta, outcome: str) -> None:
    for sign in (1, -1):
        assert outcomes(SERVER, clocks(NOW + sign * off, NOW))["clock"] == outcome


@pytest.mark.parametrize(("moment", "advice"), [(YEAR, "has expired"), (-YEAR, "not valid yet")])
def test_a_certificate_out_of_date_by_both_clocks_is_the_certificates_fault(
    moment: timedelta, advice: str
) -> None:
    found = judged(SERVER, clocks(NOW + moment, NOW + moment, "certificate is not valid"))
    assert (found["certificate"].outcome, found["clock"].outcome) == ("failed", "ok")
    assert advice in found["certificate"].advice


def test_a_stranger_does_not_fail_our_clock() -> None:
    server = replace(SERVER, pin=b"q" * 32)
    table = outcomes(server, clocks(NOW, NOW + YEAR))
    assert (table["pin"], table["clock"]) == ("failed", "warning")


def test_a_relay_that_does_not_tell_the_time_leaves_it_open() -> None:
    table = outcomes(SERVER, seeing(replace(MET, theirs=None, distrust="expired")))
    assert (table["clock"], table["certificate"]) == ("skipped", "failed")


def test_to_verify_nothing_is_a_warning() -> None:
    assert outcomes(replace(SERVER, insecure=True), HEALTHY)["certificate"] == "warning"


# -- registration


KEYPAIR = Keypair("primary", generate(), b"f" * 32, "66" * 16)
NAME = f"{KEYPAIR.id}.t.test"
WISH = Wish(SERVER, KEYPAIR, frozenset({NAME}), None)
ENDPOINT = EndpointSettings("web", "primary", "t.test", Target(Address("127.0.0.1", 3000)))


@pytest.fixture
def status() -> dict[str, object]:
    """Return what a client that serves the name says of itself."""
    way = {"server": "eu", "names": [NAME], "transport": "quic", "last_error": None}
    return {"program": "client", "pid": 7, "endpoints": [{"names": [NAME], "servers": [way]}]}


def test_a_client_that_runs_and_serves_settles_it(status: dict[str, object]) -> None:
    finding = judge_running(WISH, running_state(status, "eu", WISH.names))
    assert finding is not None
    assert finding.seen == f"process 7 serves {NAME} over quic"


def test_a_client_of_another_key_or_relay_is_not_taken_for_ours(status: dict[str, object]) -> None:
    assert running_state(status, "eu", frozenset({"other.t.test"})) is None
    assert running_state(status, "us", WISH.names) is None
    assert running_state({**status, "program": "relay"}, "eu", WISH.names) is None
    assert running_state(None, "eu", WISH.names) is None


GRANTED = Trial("quic", Ending(Code.OK), (NAME,), {})


def test_a_trial_that_was_welcomed_is_well() -> None:
    assert judge_trial(WISH, GRANTED, [ENDPOINT], None).outcome == "ok"


def test_what_the_relay_would_grant_to_a_client_that_waits_is_a_warning() -> None:
    waiting = Running(7, frozenset(), None, "timeout")
    assert judge_running(WISH, waiting) is None
    finding = judge_trial(WISH, GRANTED, [ENDPOINT], waiting)
    assert (finding.outcome, "process 7" in finding.seen) == ("warning", True)


def test_a_key_that_is_not_listed_is_given_its_stanza() -> None:
    trial = Trial("quic", Ending(Code.UNAUTHORIZED, "this key is not listed"))
    finding = judge_trial(WISH, trial, [ENDPOINT], None)
    assert finding.outcome == "failed"
    assert f'fingerprint = "sha256:{KEYPAIR.fingerprint.hex()}"' in finding.advice
    assert 'suffixes = ["t.test"]' in finding.advice


def test_one_name_of_several_that_is_refused_is_named() -> None:
    refused = {"shop.example.com": Reason(Code.NAME_REFUSED)}
    finding = judge_trial(WISH, replace(GRANTED, refused=refused), [ENDPOINT], None)
    assert finding.outcome == "failed"
    assert "shop.example.com is not granted: name_refused" in finding.seen


def test_no_key_is_shown_to_a_relay_that_is_not_trusted() -> None:
    finding = judge_untried(WISH, None, has_answered=True)
    assert (finding.outcome, finding.seen) == ("skipped", "the relay is not trusted")


def test_keys_are_read_and_never_made(tmp_path: Path) -> None:
    settings = load_client(write(tmp_path, "client.toml", CLIENT), {"STATE_DIRECTORY": "/nowhere"})
    key = settings.keypairs["primary"].file
    assert load_identities(settings).missing == {"primary": str(key)}
    assert not key.exists()
    write(key.parent, key.name, "rubbish").chmod(0o600)
    assert "is not a readable key" in load_identities(settings).unusable["primary"]
    key.write_bytes(generate().pem)
    assert set(load_identities(settings).keypairs) == {"primary"}


# -- challenge path, target


SHOP = NameSight("shop.test", Lookup("shop.test", ("192.0.2.1",)), ("192.0.2.1",))
RELAYS = frozenset({"192.0.2.1"})


def test_a_name_at_whose_address_a_relay_answers_can_be_validated() -> None:
    assert judge_challenge(SHOP, RELAYS).outcome == "ok"


def test_a_closed_port_443_fails() -> None:
    closed = replace(SHOP, answered=(), troubles=("192.0.2.1:443: refused",))
    finding = judge_challenge(closed, RELAYS)
    assert (finding.outcome, "port 443" in finding.advice) == ("failed", True)


def test_one_address_of_two_that_does_not_answer_fails() -> None:
    two = replace(SHOP, troubles=("[2001:db8::1]:443: no answer",))
    assert judge_challenge(two, RELAYS).outcome == "failed"


def test_a_name_that_leads_elsewhere_is_a_warning_and_unknown_relays_are_none() -> None:
    assert judge_challenge(SHOP, frozenset({"192.0.2.9"})).outcome == "warning"
    assert judge_challenge(SHOP, frozenset()).outcome == "ok"


@pytest.mark.parametrize(("is_missing", "outcome"), [(True, "failed"), (False, "warning")])
def test_a_name_that_does_not_resolve_is_not_a_name_that_cannot_be_asked(
    is_missing: bool, outcome: str
) -> None:
    lookup = Lookup("shop.test", trouble="no", is_missing=is_missing)
    assert judge_challenge(NameSight("shop.test", lookup), RELAYS).outcome == outcome


def test_a_target_that_does_not_answer_fails() -> None:
    assert judge_target(ENDPOINT, "").outcome == "ok"
    assert judge_target(ENDPOINT, "refused").advice == (
        "start the service, or correct target in [endpoints.web]"
    )
