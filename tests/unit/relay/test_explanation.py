"""What a relay says of a name that a visitor may ask for."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.relay.scenes import CHALLENGE, KEY, NAME, VISITORS, Scene, in_loop
from tunnel.protocol.names import client_id
from tunnel.relay.budget import Budget, RegisteredDomains
from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.explanation import HELD, SERVED, TURNED_AWAY, Explainer, Explanation
from tunnel.settings.values import ClientGrant, RelaySettings, SuffixSettings

OWN = "relay.test"
ID = client_id(KEY)
SUFFIXES = {"t.test": SuffixSettings("t.test", id_bits=(128,))}


def explain(host: str, folder: Path, scene: Scene | None = None, **changes: Any) -> Explanation:
    chosen: dict[str, Any] = {"listeners": {}, "suffixes": SUFFIXES, **changes}
    settings = RelaySettings("relay", folder, **chosen)
    budget = Budget(RegisteredDomains(settings.suffixes.values()))
    registry = (scene or Scene()).registry
    explainer = Explainer(
        settings, frozenset({OWN}), registry, BudgetFile(folder / "budget.json", budget)
    )
    return explainer.explain(host)


def found(explanation: Explanation, question: str) -> str:
    return next(each.found for each in explanation.reasons if each.question == question)


@in_loop
async def test_a_served_name_goes_to_the_link_that_routing_picks(tmp_path: Path) -> None:
    scene = Scene()
    busy, idle = scene.join(), scene.join()
    for link in (busy, idle):
        scene.serve(link, VISITORS)
    busy.streams = 3
    explanation = explain(f"{NAME.upper()}.", tmp_path, scene)
    assert (explanation.name, explanation.outcome) == (NAME, SERVED)
    assert idle.session.label in explanation.because
    assert "ready, 3 streams" in found(explanation, "served by")


@in_loop
async def test_a_suspect_client_leaves_its_visitors_waiting(tmp_path: Path) -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link, VISITORS)
    scene.registry.suspect(link)
    explanation = explain(NAME, tmp_path, scene)
    assert explanation.outcome == HELD
    assert "suspect" in found(explanation, "served by")


def test_a_name_that_is_listed_is_waited_for(tmp_path: Path) -> None:
    explanation = explain(NAME, tmp_path, Scene(expected=(NAME,)))
    assert (explanation.outcome, explanation.because) == (
        HELD,
        "nobody serves it now; a client may within 5 s",
    )


def test_an_unknown_name_is_turned_away(tmp_path: Path) -> None:
    assert explain("x.example", tmp_path).because == (
        "nobody serves it (TLS alert unrecognized_name)"
    )


def test_the_relays_own_name_is_nobodys(tmp_path: Path) -> None:
    explanation = explain(OWN, tmp_path)
    assert explanation.outcome == TURNED_AWAY
    assert found(explanation, "own name") == "yes: no client may serve it"
    assert found(explanation, "validations go to") == "the relay itself, while it orders"


@in_loop
async def test_who_waits_for_a_validation_is_told(tmp_path: Path) -> None:
    scene = Scene()
    scene.serve(scene.join(), CHALLENGE)
    assert f"sha256:{KEY.hex()}" in found(explain(NAME, tmp_path, scene), "validations go to")


@pytest.mark.parametrize(
    ("name", "clients", "words"),
    [
        ("x.other.test", {}, "none of t.test"),
        ("shop.t.test", {}, "t.test, but shop is no id of a key (16 or 32 hexadecimal digits)"),
        (f"{ID[:16]}.t.test", {}, "t.test, which does not accept ids of 64 bits"),
        (f"{ID}.t.test", {}, "t.test, id of 128 bits: of no listed client"),
        (
            f"{ID}.t.test",
            {"shop": ClientGrant("shop", KEY, ("t.test",))},
            "t.test, id of 128 bits: clients.shop",
        ),
        (
            f"{ID}.t.test",
            {"shop": ClientGrant("shop", KEY)},
            "t.test, id of 128 bits: clients.shop (not granted this suffix)",
        ),
        (
            f"{ID}.t.test",
            {"shop": ClientGrant("shop", KEY, ("t.test",), enabled=False)},
            "t.test, id of 128 bits: clients.shop (revoked)",
        ),
    ],
)
def test_a_suffix_and_its_ids_are_judged(
    tmp_path: Path, name: str, clients: dict[str, ClientGrant], words: str
) -> None:
    assert found(explain(name, tmp_path, clients=clients), "suffix") == words


def test_open_access_is_said_to_be(tmp_path: Path) -> None:
    suffixes = {"t.test": SuffixSettings("t.test", access="open")}
    explanation = explain(f"{ID}.t.test", tmp_path, suffixes=suffixes)
    assert found(explanation, "suffix").endswith("whoever has the key: access is open")


def test_custom_names_are_told_with_the_pattern_that_grants_them(tmp_path: Path) -> None:
    clients = {
        "shop": ClientGrant("shop", KEY, names=("*.shop.test",)),
        "gone": ClientGrant("gone", b"g" * 32, names=("a.shop.test",), enabled=False),
    }
    explanation = explain("a.shop.test", tmp_path, clients=clients)
    assert found(explanation, "granted by name") == (
        "clients.shop (*.shop.test), clients.gone (a.shop.test, revoked)"
    )


@in_loop
async def test_the_budget_is_that_of_the_registered_domain(tmp_path: Path) -> None:
    explanation = explain("a.b.example.com", tmp_path)
    assert found(explanation, "new certificates") == "0 of 45 ordered in 7 days under example.com"


@pytest.mark.parametrize("host", ["", "a..b", "192.0.2.7", "x" * 300])
def test_what_is_no_host_name_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        explain(host, tmp_path)
