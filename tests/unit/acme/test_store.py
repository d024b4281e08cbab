"""What is kept on disk, with real files: used only if it fits, and never lost to a half write."""

import json
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.limits import limited
from tests.unit.acme.stored import (
    CERTIFICATE,
    CHAIN,
    DAY,
    KEY,
    MISFITS,
    NAME,
    NAMES,
    NOW,
    folder,
    issued,
    listing,
    put,
    warnings,
)
from tunnel.acme.schedule import Record
from tunnel.acme.store import Draft, Store
from tunnel.errors import NotWritable

DRAFT = Draft("https://ca.test/order/1", NAMES, ec.generate_private_key(ec.SECP256R1()))
RECORD = Record().failed("the CA said no", NOW, 7200.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "acme" / "ca")


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    with limited(resource.RLIMIT_FSIZE, size):
        yield


def key_bytes(draft: Draft) -> bytes:
    return draft.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# -- what fits


def test_nothing_is_made_before_something_is_kept(store: Store) -> None:
    assert store.load(NAMES, NOW) is None
    assert store.record(NAMES) == Record()
    assert store.draft(NAMES) is None
    store.drop_draft(NAMES)
    assert not folder(store).exists()


def test_a_certificate_is_read_back_with_chain_and_key(store: Store) -> None:
    store.save(NAMES, CERTIFICATE)
    loaded = store.load(NAMES, NOW)
    assert loaded is not None
    assert loaded.chain == CERTIFICATE.chain
    assert loaded.key_pem == CERTIFICATE.key_pem


def test_chain_and_key_are_one_file_named_after_the_first_name(store: Store) -> None:
    store.save(NAMES, CERTIFICATE)
    assert listing(store) == [f"{NAME}.pem"]
    content = (folder(store) / f"{NAME}.pem").read_bytes()
    assert content == CERTIFICATE.key_pem + CERTIFICATE.chain_pem


def test_a_newer_certificate_takes_the_place_of_the_older(store: Store) -> None:
    newer = issued(NAME)
    store.save(NAMES, CERTIFICATE)
    store.save(NAMES, newer)
    loaded = store.load(NAMES, NOW)
    assert loaded is not None
    assert loaded.leaf == newer.leaf


def test_everything_is_for_the_owner_alone(store: Store) -> None:
    store.save(NAMES, CERTIFICATE)
    store.save_record(NAMES, RECORD)
    store.save_draft(DRAFT)
    paths = [folder(store).parent, folder(store), *sorted(folder(store).iterdir())]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
    assert modes == [0o700, 0o700, 0o600, 0o600, 0o600]


def test_two_names_share_a_certificate_in_any_order_and_case(store: Store) -> None:
    names = ("b.t.test", "A.t.test")
    store.save(names, issued("a.t.test", "b.t.test"))
    assert listing(store) == ["b.t.test.pem"]
    assert store.load(names, NOW) is not None


def test_a_wildcard_is_quoted_in_file_names(store: Store) -> None:
    names = ("*.t.test",)
    store.save(names, issued("*.t.test"))
    store.save_record(names, RECORD)
    store.save_draft(replace(DRAFT, names=names))
    assert listing(store) == ["%2A.t.test.json", "%2A.t.test.order", "%2A.t.test.pem"]
    assert store.load(names, NOW) is not None


def test_no_name_leads_out_of_the_directory(store: Store) -> None:
    store.save_record(("../../x/y",), RECORD)
    assert listing(store) == ["..%2F..%2Fx%2Fy.json"]


def test_the_longest_names_have_files_of_their_own(store: Store) -> None:
    long = ".".join(["a" * 63] * 3 + ["b" * 61])
    other = long[:-1] + "c"
    store.save_record((long,), RECORD)
    assert store.record((long,)) == RECORD
    assert store.record((other,)) == Record()


def test_a_host_called_account_leaves_the_account_alone(store: Store) -> None:
    account = put(store, "account.json", b'{"key": "of the account"}')
    store.save_record(("account",), RECORD)
    assert store.record(("account",)) == RECORD
    assert account.read_bytes() == b'{"key": "of the account"}'


def test_the_account_lives_in_the_directory(tmp_path: Path) -> None:
    assert Store(tmp_path).account_file == tmp_path / "account.json"


@pytest.mark.parametrize(
    ("begins", "ends"),
    [(-DAY, timedelta(seconds=1)), (19_000 * DAY, 19_090 * DAY)],
    ids=["a second before its end", "a board whose clock starts in the past"],
)
def test_it_is_used_until_its_end(store: Store, begins: timedelta, ends: timedelta) -> None:
    store.save(NAMES, issued(NAME, begins=begins, ends=ends))
    assert store.load(NAMES, NOW) is not None


# -- what does not fit


@pytest.mark.parametrize(("content", "reason"), MISFITS.values(), ids=MISFITS)
def test_a_misfit_is_set_aside_with_one_reason(
    store: Store, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    path = put(store, f"{NAME}.pem", content)
    assert store.load(NAMES, NOW) is None
    assert listing(store) == [f"{NAME}.pem.bad"]
    assert path.with_name(f"{NAME}.pem.bad").read_bytes() == content
    [warning] = warnings(caplog)
    assert str(path) in warning
    assert reason in warning


def test_a_file_open_to_others_is_set_aside(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, f"{NAME}.pem", KEY + CERTIFICATE.chain_pem, 0o644)
    assert store.load(NAMES, NOW) is None
    assert listing(store) == [f"{NAME}.pem.bad"]
    [warning] = warnings(caplog)
    assert "is open to others (mode 0644)" in warning


def test_the_newest_misfit_replaces_the_one_before(store: Store) -> None:
    for content in (b"first", b"second"):
        put(store, f"{NAME}.pem", content)
        assert store.load(NAMES, NOW) is None
    assert (folder(store) / f"{NAME}.pem.bad").read_bytes() == b"second"


def test_what_cannot_be_set_aside_is_left_with_one_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(store, f"{NAME}.pem", b"noise")
    (folder(store) / f"{NAME}.pem.bad").mkdir()  # no file can take the place of a directory
    assert store.load(NAMES, NOW) is None
    assert path.read_bytes() == b"noise"
    [warning] = warnings(caplog)
    assert "left a file of no use" in warning
    assert "Is a directory" in warning


@pytest.mark.parametrize("ending", ["pem", "json", "order"])
def test_what_cannot_be_read_is_left_with_one_warning(
    store: Store, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    path = put(store, f"{NAME}.{ending}", b"")
    path.unlink()
    path.symlink_to(path)
    found = (store.load(NAMES, NOW), store.record(NAMES), store.draft(NAMES))
    assert found == (None, Record(), None)
    assert path.is_symlink()
    [warning] = warnings(caplog)
    assert "Too many levels of symbolic links" in warning


def test_a_directory_that_is_none_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ca"
    file.write_bytes(b"in the way")
    assert Store(file).load(NAMES, NOW) is None
    [warning] = warnings(caplog)
    assert "Not a directory" in warning


# -- writes that fail

Save = Callable[[Store], None]
WRITES: dict[str, Save] = {
    "pem": lambda store: store.save(NAMES, CERTIFICATE),
    "json": lambda store: store.save_record(NAMES, RECORD),
    "order": lambda store: store.save_draft(DRAFT),
}


@pytest.mark.parametrize(("ending", "write"), WRITES.items(), ids=WRITES)
def test_where_nothing_can_be_written_the_file_and_the_reason_are_named(
    tmp_path: Path, ending: str, write: Save
) -> None:
    (tmp_path / "acme").write_bytes(b"in the way")
    path = tmp_path / "acme" / "ca" / f"{NAME}.{ending}"
    with pytest.raises(NotWritable) as caught:
        write(Store(path.parent))
    assert caught.value.faults == (f"{path}: cannot be written: Not a directory",)


@pytest.mark.parametrize(("ending", "write"), WRITES.items(), ids=WRITES)
def test_a_full_disk_leaves_what_was_there(store: Store, ending: str, write: Save) -> None:
    path = put(store, f"{NAME}.{ending}", b"before")
    with files_limited_to(50), pytest.raises(NotWritable, match="cannot be written: File too"):
        write(store)
    assert path.read_bytes() == b"before"
    assert listing(store) == [path.name]


# -- records


def test_a_record_is_read_back(store: Store) -> None:
    store.save_record(NAMES, RECORD)
    assert store.record(NAMES) == RECORD
    assert store.record(("b.t.test",)) == Record()


def test_a_corrupt_record_is_set_aside_and_nothing_remembered(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, f"{NAME}.json", RECORD.to_json()[:-10])
    assert store.record(NAMES) == Record()
    assert listing(store) == [f"{NAME}.json.bad"]
    [warning] = warnings(caplog)
    assert "is not JSON" in warning


def test_a_record_is_no_secret(store: Store) -> None:
    put(store, f"{NAME}.json", RECORD.to_json(), 0o644)
    assert store.record(NAMES) == RECORD


# -- orders under way


def test_an_order_is_read_back_with_its_key(store: Store) -> None:
    names = (NAME, "b.t.test", "c.t.test")
    store.save_draft(replace(DRAFT, names=names))
    draft = store.draft((NAME, "c.t.test", "b.t.test"))
    assert draft is not None
    assert (draft.url, draft.names) == (DRAFT.url, names)
    assert key_bytes(draft) == key_bytes(DRAFT)


def test_a_dropped_order_is_gone(store: Store) -> None:
    store.save_draft(DRAFT)
    store.drop_draft(NAMES)
    assert store.draft(NAMES) is None
    assert listing(store) == []


def test_an_order_that_cannot_be_dropped_is_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (folder(store) / f"{NAME}.order").mkdir(parents=True)
    store.drop_draft(NAMES)
    [warning] = warnings(caplog)
    assert "could not drop an order" in warning


def test_an_order_for_other_names_is_dropped(store: Store) -> None:
    store.save_draft(replace(DRAFT, names=(NAME, "b.t.test")))
    assert store.draft(NAMES) is None
    assert listing(store) == []


def test_an_order_never_shows_its_key() -> None:
    assert repr(DRAFT) == f"Draft(url='https://ca.test/order/1', names=('{NAME}',))"


def of_draft(**fields: object) -> bytes:
    return json.dumps({**json.loads(DRAFT.to_json()), **fields}).encode()


FOREIGN_KEY = x25519.X25519PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        DRAFT.to_json()[:-20],
        of_draft(url=None),
        of_draft(names=NAME),
        of_draft(names=[1]),
        of_draft(key=None),
        of_draft(key="\udcff"),
        of_draft(key=KEY.decode()[:100]),
        of_draft(key=FOREIGN_KEY.decode()),
        of_draft(
            key=CERTIFICATE.key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ).decode()
        ),
    ],
)
def test_a_corrupt_order_is_set_aside(
    store: Store, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    put(store, f"{NAME}.order", content)
    assert store.draft(NAMES) is None
    assert listing(store) == [f"{NAME}.order.bad"]
    [warning] = warnings(caplog)
    assert "is not an order and its key" in warning


def test_an_order_open_to_others_is_set_aside(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, f"{NAME}.order", DRAFT.to_json(), 0o640)
    assert store.draft(NAMES) is None
    assert listing(store) == [f"{NAME}.order.bad"]
    assert "is open to others" in warnings(caplog)[0]


@pytest.mark.parametrize(("chain", "is_used"), [(None, True), (1, True), (2, False)])
def test_a_chain_that_has_lost_its_issuers_is_set_aside(
    store: Store, chain: int | None, is_used: bool
) -> None:
    put(store, f"{NAME}.pem", KEY + CHAIN[0] + b"-----END CERTIFICATE-----\n")
    store.save_record(NAMES, Record().issued(CERTIFICATE.leaf_hash, 0.0, chain))
    assert (store.load(NAMES, NOW, store.record(NAMES)) is not None) is is_used
    assert (f"{NAME}.pem.bad" in listing(store)) is not is_used
