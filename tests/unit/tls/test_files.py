"""Secrets on disk: whole or not there at all, and for nobody else's eyes."""

import os
import stat
from pathlib import Path

import pytest

from tunnel.errors import SettingsError
from tunnel.tls.files import (
    create_private,
    make_private_directory,
    read_private,
    read_public,
    write_private,
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_written_file_is_for_its_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "key") == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_directories_are_made_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")] == [0o700, 0o700]


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    make_private_directory(tmp_path)
    assert mode_of(tmp_path) == 0o750


def test_writing_replaces_the_whole_file_and_tightens_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"something longer than the new content")
    path.chmod(0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o600)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()  # a file cannot replace a directory
    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "key", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_creating_never_replaces(tmp_path: Path) -> None:
    create_private(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"


def test_creating_leaves_one_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    create_private(tmp_path / "key", b"first")
    assert [(entry.name, mode_of(entry)) for entry in tmp_path.iterdir()] == [("key", 0o600)]


def test_creating_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_open_to_others_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(SettingsError) as refusal:
        read_private(path)
    said = f"{path}: is open to others (mode {mode:04o}): run chmod 600 {path}"
    assert refusal.value.faults == (said,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("mode", "is_read"), [(0o640, True), (0o644, False)])
def test_somebody_elses_file_may_be_shared_with_a_group(
    tmp_path: Path, mode: int, is_read: bool
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    os.chown(path, 12345, os.getegid())
    if is_read:
        assert read_private(path) == b"secret"
    else:
        with pytest.raises(SettingsError, match="open to others"):
            read_private(path)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "key")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(SettingsError, match="is not a regular file"):
        read_private(tmp_path / "key")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_private(tmp_path)


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        read_private(tmp_path / "file" / "key")


def test_a_file_too_large_for_a_key_is_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "key", bytes((1 << 20) + 1))
    with pytest.raises(SettingsError, match=r"too large for a key or chain \(1048577 bytes\)"):
        read_private(tmp_path / "key")


def test_what_is_public_may_be_open_to_others(tmp_path: Path) -> None:
    (tmp_path / "chain").write_bytes(b"chain")
    (tmp_path / "chain").chmod(0o644)
    assert read_public(tmp_path / "chain") == b"chain"


def test_a_device_is_refused_before_it_is_read() -> None:
    with pytest.raises(SettingsError, match=r"^/dev/zero: is not a regular file"):
        read_public(Path("/dev/zero"))
