"""CAA (RFC 8659, with the parameters of RFC 8657): may this authority certify a plain name?

Judges properties that others have looked up; asks nothing itself. Where authorities differ in how
strictly they read a record, this is the lenient one: it objects to what all of them refuse.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tunnel.log import clipped

CRITICAL = 0x80  # RFC 8659 §4.1, bit 0 of the flags
# Registered tags; of these only `issue` concerns a name without a wildcard (RFC 8659 §4.3).
KNOWN_TAGS = frozenset(
    {"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"}
)
METHOD = "tls-alpn-01"
SHOWN_DOMAINS = 5  # of those that a record set permits

LABEL = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
DOMAIN = re.compile(rf"{LABEL}(?:\.{LABEL})*")
PARAMETER = re.compile(rf"({LABEL})[ \t]*=[ \t]*([\x21-\x3a\x3c-\x7e]*)")


@dataclass(frozen=True, slots=True)
class Property:
    """One CAA record (RFC 8659 §4.1); the tag is in lower case."""

    tag: str
    value: str
    is_critical: bool = False


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks: the issuer domain names of the authority, and the URL of our account there.

    Without an account, records that are bound to one are taken to mean it.
    """

    identities: Collection[str]
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """An `issue` value, read (RFC 8659 §4.2); without a domain it permits nobody."""

    domain: str  # in lower case
    parameters: tuple[tuple[str, str], ...] = ()

    def values(self, tag: str) -> list[str]:
        """Return the values of a parameter, in the order in which they stand there."""
        return [value for name, value in self.parameters if name == tag]


def objection(properties: Sequence[Property], applicant: Applicant) -> str | None:
    """Return what stands against issuing, as a clause that follows "CAA at NAME"; None: nothing."""
    for unknown in properties:
        if unknown.is_critical and unknown.tag not in KNOWN_TAGS:
            tag = clipped(unknown.tag)
            return f"has a critical property that no authority knows, {tag!r}: remove it"
    grants = [grant_of(each.value) for each in properties if each.tag == "issue"]
    if not grants:
        return None
    ours = [grant for grant in grants if grant.domain in applicant.identities]
    if not ours:
        return _others_only(grants, applicant.identities)
    objections = [_parameters_forbid(grant, applicant.account) for grant in ours]
    return None if None in objections else objections[0]


def grant_of(value: str) -> Grant:
    """Read the value of an `issue` property; a malformed one permits nobody (RFC 8659 §4.2)."""
    domain, separator, rest = (part.strip(" \t") for part in value.partition(";"))
    if domain and not DOMAIN.fullmatch(domain):
        return Grant("")
    if not separator or not rest:
        return Grant(domain.lower())
    parameters = [PARAMETER.fullmatch(part.strip(" \t")) for part in rest.split(";")]
    if None in parameters:
        return Grant("")
    return Grant(domain.lower(), tuple((each[1], each[2]) for each in parameters if each))


def _others_only(grants: Sequence[Grant], identities: Collection[str]) -> str:
    domains = sorted({clipped(grant.domain) for grant in grants if grant.domain})
    more = ["…"] if len(domains) > SHOWN_DOMAINS else []
    permitted = ", ".join(domains[:SHOWN_DOMAINS] + more)
    wanted = next(iter(identities), None)
    advice = f': add 0 issue "{wanted}"' if wanted else ""
    return f"permits {f'only {permitted}' if permitted else 'no authority'}{advice}"


def _parameters_forbid(grant: Grant, account: str | None) -> str | None:
    """Return what the parameters of RFC 8657 have against us; twice the same permits nobody."""
    methods = grant.values("validationmethods")
    if methods and (len(methods) > 1 or METHOD not in methods[0].split(",")):
        shown = clipped(",".join(methods))
        return f"permits {grant.domain} only by {shown!r}: add {METHOD} to its validationmethods"
    accounts = grant.values("accounturi")
    if len(accounts) > 1 or (account is not None and accounts and accounts[0] != account):
        shown = clipped(" and ".join(accounts))
        return f"permits {grant.domain} only to the account {shown!r}: ours is {account}"
    return None
