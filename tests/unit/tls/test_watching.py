"""Files that somebody renews: what is seen, when, and what half of a renewal does."""

import os
from pathlib import Path

import pytest

from tests.unit.tls.wire import NAME, NOW
from tunnel.errors import SettingsError
from tunnel.tls.certificates import self_signed
from tunnel.tls.slots import Certificate
from tunnel.tls.watching import WatchedFiles


def fresh() -> Certificate:
    return self_signed([NAME], now=NOW)


def keep(path: Path, content: bytes) -> None:
    """Write a file anew, so that its time differs from before however coarse the clock is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    os.utime(path, ns=(before + 10**9, before + 10**9))


class Pair:
    """A chain and a key in a folder, and the one who watches them."""

    def __init__(self, folder: Path) -> None:
        self.chain, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        self.first = fresh()
        self.put(self.first)
        self.files = WatchedFiles(self.chain, self.key)
        assert self.files.load().leaf == self.first.leaf

    def put(self, certificate: Certificate) -> None:
        keep(self.chain, certificate.chain_pem)
        keep(self.key, certificate.key_pem)


def leaf_of(certificate: Certificate | None) -> bytes:
    assert certificate is not None
    return certificate.leaf_hash


def test_nothing_has_changed_at_first(tmp_path: Path) -> None:
    assert Pair(tmp_path).files.changed() is None


def test_files_that_were_not_touched_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path)
    monkeypatch.setattr("tunnel.tls.watching.load_chain", lambda *_: pytest.fail("read"))
    assert pair.files.changed() is None


def test_a_renewal_is_seen_once(tmp_path: Path) -> None:
    pair, new = Pair(tmp_path), fresh()
    pair.put(new)
    assert leaf_of(pair.files.changed()) == new.leaf_hash
    assert pair.files.changed() is None


def test_a_renewal_with_the_same_key_is_seen(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    new = self_signed([NAME], now=NOW, key=pair.first.key)
    keep(pair.chain, new.chain_pem)
    assert leaf_of(pair.files.changed()) == new.leaf_hash


def test_what_was_never_loaded_is_new(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    assert leaf_of(WatchedFiles(pair.chain, pair.key).changed()) == pair.first.leaf_hash


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    old, new = fresh(), fresh()
    keep(path, old.key_pem + old.chain_pem)
    files = WatchedFiles(path, path)
    files.load()
    keep(path, new.key_pem + new.chain_pem)
    assert leaf_of(files.changed()) == new.leaf_hash


def test_files_written_anew_with_the_same_content_are_no_news(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.put(pair.first)
    assert pair.files.changed() is None


@pytest.mark.parametrize("is_chain_first", [True, False])
def test_half_a_renewal_is_a_fault_until_it_is_whole(tmp_path: Path, is_chain_first: bool) -> None:
    pair, new = Pair(tmp_path), fresh()
    halves = [(pair.chain, new.chain_pem), (pair.key, new.key_pem)]
    first, second = halves if is_chain_first else reversed(halves)
    keep(*first)
    for _ in range(2):
        with pytest.raises(SettingsError, match="is not the key of the first certificate"):
            pair.files.changed()
    keep(*second)
    assert leaf_of(pair.files.changed()) == new.leaf_hash


def test_half_a_file_is_a_fault_until_it_is_whole(tmp_path: Path) -> None:
    pair, new = Pair(tmp_path), fresh()
    keep(pair.key, new.key_pem)
    keep(pair.chain, new.chain_pem[:200])
    with pytest.raises(SettingsError, match="holds no readable PEM certificate"):
        pair.files.changed()
    keep(pair.chain, new.chain_pem)
    assert leaf_of(pair.files.changed()) == new.leaf_hash


def test_a_fault_that_is_taken_back_was_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    keep(pair.chain, fresh().chain_pem)
    with pytest.raises(SettingsError):
        pair.files.changed()
    pair.put(pair.first)
    assert pair.files.changed() is None


@pytest.mark.parametrize("which", ["chain", "key"])
def test_a_file_that_is_gone_for_a_moment_is_a_fault(tmp_path: Path, which: str) -> None:
    pair, new = Pair(tmp_path), fresh()
    path: Path = getattr(pair, which)
    path.unlink()
    with pytest.raises(SettingsError, match=f"{path.name}: cannot be read: No such file"):
        pair.files.changed()
    pair.put(new)
    assert leaf_of(pair.files.changed()) == new.leaf_hash


def test_a_key_that_is_opened_to_others_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.put(fresh())
    pair.key.chmod(0o644)
    with pytest.raises(SettingsError, match="is open to others"):
        pair.files.changed()


def test_links_of_certbot_that_point_to_the_next_pair_are_seen(tmp_path: Path) -> None:
    """As in /etc/letsencrypt/live: each file is a link into archive."""
    old, new = fresh(), fresh()
    for number, each in enumerate((old, new), 1):
        keep(tmp_path / f"archive/fullchain{number}.pem", each.chain_pem)
        keep(tmp_path / f"archive/privkey{number}.pem", each.key_pem)
    live = tmp_path / "live"
    live.mkdir()

    def point_to(number: int) -> None:
        for word in ("fullchain", "privkey"):
            draft = live / "draft"
            draft.symlink_to(f"../archive/{word}{number}.pem")
            draft.replace(live / f"{word}.pem")

    point_to(1)
    files = WatchedFiles(live / "fullchain.pem", live / "privkey.pem")
    files.load()
    point_to(2)
    assert leaf_of(files.changed()) == new.leaf_hash


def test_a_folder_of_kubernetes_that_points_to_the_next_one_is_seen(tmp_path: Path) -> None:
    """As in a mounted secret: each file is a link into ..data, which is a link to a folder."""
    old, new = fresh(), fresh()
    for number, each in enumerate((old, new), 1):
        keep(tmp_path / f"..{number}/tls.crt", each.chain_pem)
        keep(tmp_path / f"..{number}/tls.key", each.key_pem)
    for word in ("tls.crt", "tls.key"):
        (tmp_path / word).symlink_to(f"..data/{word}")

    def point_to(number: int) -> None:
        draft = tmp_path / "..data_tmp"
        draft.symlink_to(f"..{number}")
        draft.replace(tmp_path / "..data")

    point_to(1)
    files = WatchedFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    files.load()
    point_to(2)
    assert leaf_of(files.changed()) == new.leaf_hash
