"""Authorities that validate on a port of ours, and who answers there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acme_front import Front, fronted
from tests.integration.acme.steps import Answerer
from tests.pebble import Pebble, pebble


@pytest.fixture(scope="module")
def answerer() -> Iterator[Answerer]:
    """Answers validations of the names that it was given."""
    with Answerer() as one:
        yield one


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority without moods, for a whole module."""
    with pebble(tmp_path_factory.mktemp("pebble"), tls_port=answerer.port) as one:
        yield one


@pytest.fixture
def front(ca: Pebble, tmp_path: Path) -> Iterator[Front]:
    """Run a front before it that can be made to misbehave."""
    with fronted(ca, tmp_path / "front") as one:
        yield one


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """Where an account is kept: nothing is there yet, not even the folder."""
    return tmp_path / "state" / "account.json"
