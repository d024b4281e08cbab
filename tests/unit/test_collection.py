"""The Ansible collection stands alone, wherever it is installed: it has copies of the units."""

from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "config"
COPIES = sorted((CONFIG / "ansible").glob("roles/*/files/*.service"))


def test_each_role_that_installs_a_unit_has_one() -> None:
    assert {copy.parts[-3] for copy in COPIES} == {"client", "relay"}


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.name)
def test_a_unit_in_the_collection_is_that_of_config_systemd(copy: Path) -> None:
    original = CONFIG / "systemd" / copy.name
    assert copy.read_bytes() == original.read_bytes(), f"cp {original} {copy}"
