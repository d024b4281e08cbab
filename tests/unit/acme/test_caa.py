import pytest

from tunnel.acme.caa import KNOWN_TAGS, Applicant, Grant, Property, grant_of, objection

ACCOUNT = "https://ca.test/acct/7"
APPLICANT = Applicant(("ca.test", "ca.example"), ACCOUNT)


def issue(*values: str) -> list[Property]:
    return [Property("issue", value) for value in values]


@pytest.mark.parametrize(
    "value",
    [
        "ca.test",
        "CA.Test",
        " ca.example\t",
        "ca.test;",
        "ca.test; ",
        "ca.test; colour=blue",
        "ca.test; validationmethods=tls-alpn-01",
        "ca.test;validationmethods=dns-01,tls-alpn-01",
        f"ca.test; accounturi={ACCOUNT}",
        f"ca.test ; accounturi = {ACCOUNT} ; validationmethods = tls-alpn-01",
    ],
)
def test_a_record_that_names_the_authority_permits_it(value: str) -> None:
    assert objection(issue(value), APPLICANT) is None


def test_one_record_that_permits_is_enough() -> None:
    others = ("other.test", ";", "ca.test; validationmethods=dns-01", "ca.test; malformed")
    assert objection(issue(*others, "ca.test"), APPLICANT) is None


def test_records_that_say_nothing_of_plain_names_permit() -> None:
    others = [Property("issuewild", ";"), Property("iodef", "mailto:a@b.test"), Property("new", "")]
    assert objection(others, APPLICANT) is None
    assert objection([], APPLICANT) is None


def test_a_record_that_names_others_forbids_and_the_advice_is_what_to_add() -> None:
    said = 'permits only a.test, b.test: add 0 issue "ca.test"'
    assert objection(issue("b.test", "a.test", "a.test; x=y", ";"), APPLICANT) == said


def test_a_wildcard_record_that_names_the_authority_does_not_help_a_plain_name() -> None:
    said = objection([*issue(";"), Property("issuewild", "ca.test")], APPLICANT)
    assert said == 'permits no authority: add 0 issue "ca.test"'


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        " ; ",
        "ca.test ca.example",
        "ca_test",
        "ca.test.",
        "-ca.test",
        "ca.test; word",
        "ca.test; a=b;",
        "ca.test; a=b c",
        "ca.test; =b",
        "ca.test; a=\N{REPLACEMENT CHARACTER}",
        "; a=b",
    ],
)
def test_an_empty_or_malformed_value_permits_nobody(value: str) -> None:
    assert grant_of(value).domain == ""
    assert objection(issue(value), APPLICANT) == 'permits no authority: add 0 issue "ca.test"'


def test_a_parameter_may_be_empty_and_may_hold_equals_signs() -> None:
    assert grant_of("CA.test; a=; b-2=c=d") == Grant("ca.test", (("a", ""), ("b-2", "c=d")))


@pytest.mark.parametrize("methods", ["dns-01,http-01", "", "tls-alpn", "TLS-ALPN-01"])
def test_methods_without_ours_forbid(methods: str) -> None:
    said = objection(issue(f"ca.test; validationmethods={methods}"), APPLICANT)
    assert said == f"permits ca.test only by {methods!r}: add tls-alpn-01 to its validationmethods"


def test_methods_named_twice_forbid() -> None:
    twice = "ca.test; validationmethods=tls-alpn-01; validationmethods=tls-alpn-01"
    assert "permits ca.test only by" in str(objection(issue(twice), APPLICANT))


def test_another_account_forbids() -> None:
    said = objection(issue("ca.test; accounturi=https://ca.test/acct/8"), APPLICANT)
    wanted = f"permits ca.test only to the account 'https://ca.test/acct/8': ours is {ACCOUNT}"
    assert said == wanted


def test_an_account_named_twice_forbids_even_if_it_is_ours() -> None:
    twice = f"ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}"
    assert "only to the account" in str(objection(issue(twice), APPLICANT))


def test_while_our_account_is_not_known_any_account_is_taken_for_it() -> None:
    bound = issue(f"ca.test; accounturi={ACCOUNT}")
    assert objection(bound, Applicant(("ca.test",), None)) is None


def test_a_critical_property_that_nobody_knows_forbids_whatever_else_is_there() -> None:
    critical = [*issue("ca.test"), Property("tbs", "Unknown", is_critical=True)]
    said = "has a critical property that no authority knows, 'tbs': remove it"
    assert objection(critical, APPLICANT) == said


@pytest.mark.parametrize("tag", sorted(KNOWN_TAGS - {"issue"}))
def test_a_critical_property_that_is_known_is_no_objection(tag: str) -> None:
    assert objection([Property(tag, "x", is_critical=True)], APPLICANT) is None


def test_an_authority_without_names_is_permitted_by_no_issue_record() -> None:
    assert objection(issue("ca.test"), Applicant(())) == "permits only ca.test"


def test_what_a_name_server_says_is_shown_only_in_part() -> None:
    long = "a" * 60_000
    for value in (long, f"ca.test; validationmethods={long}", f"ca.test; accounturi={long}"):
        assert len(str(objection(issue(value), APPLICANT))) < 300
    crowd = objection(issue(*(f"{number}.test" for number in range(50))), APPLICANT)
    assert (
        crowd == 'permits only 0.test, 1.test, 10.test, 11.test, 12.test, …: add 0 issue "ca.test"'
    )
